"""However a header is damaged, it is read as one or refused with what is wrong."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.gguf_files import MODEL, gguf, header
from velesio_worker.engines.models.gguf import GgufError, read_gguf

VALUES = {**MODEL, "tokenizer.ggml.tokens": ["<s>", "a"], "tokenizer.chat_template": "{{ messages }}"}
WHOLE = gguf(VALUES)
HEADER = len(header(VALUES))
EXTREMES = [0, 1, 9, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def mutated(start: int, replacement: bytes, length: int) -> bytes:
    return (WHOLE[:start] + replacement + WHOLE[start + len(replacement) :])[:length]


NUMBERS = st.sampled_from(EXTREMES).flatmap(
    lambda number: st.sampled_from([struct.pack("<Q", number), struct.pack("<Q", number)[:4]])
)


@given(
    start=st.integers(0, HEADER),
    replacement=NUMBERS | st.binary(max_size=40),
    length=st.just(len(WHOLE)) | st.integers(0, len(WHOLE)),
)
@example(start=16, replacement=struct.pack("<Q", 2**64 - 1), length=len(WHOLE))
@example(start=8, replacement=struct.pack("<Q", 2**64 - 1), length=len(WHOLE))
@examples(300)
def test_a_damaged_header_gives_a_gguf_error_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, start: int, replacement: bytes, length: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.gguf"
    file.write_bytes(mutated(start, replacement, length))
    try:
        info = read_gguf(file)
    except GgufError as error:
        assert str(error).startswith(("is ", "names "))  # noqa: PT017 (either outcome is right)
    else:
        assert info.size == length


@given(st.binary(max_size=300))
def test_whatever_follows_the_magic_gives_a_gguf_error_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "noise.gguf"
    file.write_bytes(b"GGUF\x03\0\0\0" + content)
    try:
        read_gguf(file)
    except GgufError as error:
        assert str(error).startswith(("is ", "names "))  # noqa: PT017 (either outcome is right)
