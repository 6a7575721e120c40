from __future__ import annotations

import io
import os
import struct
import tracemalloc
from pathlib import Path

import pytest

from tests.support.gguf_files import (
    F32,
    MODEL,
    PARAMETERS,
    Q8_0,
    TENSORS,
    Tensor,
    Value,
    gguf,
    header,
    string,
    write_split,
)
from velesio_worker.engines.models.gguf import GgufError, GgufInfo, part_number, part_paths, read_gguf

WHOLE = gguf()
HEADER = len(header(MODEL))


def pair(kind_and_value: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + kind_and_value


REFUSED = {
    "is no GGUF model (it begins with b'MIT '): llama.cpp needs a .gguf file": b"MIT License\n",
    "is no GGUF model (it begins with b'GGML')": b"GGML" + bytes(100),
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid",
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "version 1, and only versions 2 and 3 are read: get a newer one": gguf(version=1),
    "version 4, and only versions 2 and 3 are read: update velesio-worker": gguf(version=4),
    "names no architecture (general.architecture)": gguf({}),
    "names no architecture": gguf({"general.architecture": 3}),
    "is damaged (the name of a key has 1,152,921,504,606,846,976": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60),
    "is damaged (the name of a key has 0 bytes)": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + bytes(99),
    "is damaged (it says that it has 65,537 keys)": b"GGUF" + struct.pack("<IQQ", 3, 0, 65537) + bytes(99),
    "is damaged (it says that it has 65,537 tensors)": b"GGUF" + struct.pack("<IQQ", 3, 65537, 0) + bytes(99),
    "the unknown type 77": pair(struct.pack("<I", 77)),
    "an array of the type 9": pair(struct.pack("<IIQ", 9, 9, 1)),
    "with its tensor 't' it has 18,446,744,073,709,551,616 para": gguf(tensors=[Tensor("t", (2**32, 2**32), F32, 0)]),
    "with its tensor 'b' it has 9,223,372,036,854,775,808 para": gguf(
        tensors=[Tensor(n, (2**62,), 999, 0) for n in "ab"]
    ),
    "its tensor 't' has 5 dimensions": gguf(tensors=[Tensor("t", (1,) * 5, F32, 4)]),
    "the name of a tensor has 0 bytes": gguf(tensors=[Tensor("", (1,), F32, 4)]),
    "is damaged (it says that it is part 6 of 3)": gguf({**MODEL, "split.no": 5, "split.count": 3}),
    "is damaged (it says that it is part 1 of 2,147,483,648)": gguf({**MODEL, "split.count": 2**31}),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def failure(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    return failure_of(file)


def failure_of(file: Path) -> str:
    with pytest.raises(GgufError) as caught:
        read_gguf(file)
    return str(caught.value)


def read(file: Path, content: bytes) -> GgufInfo:
    file.write_bytes(content)
    return read_gguf(file)


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_says_what_the_model_is(file: Path, version: int) -> None:
    content = gguf(version=version)
    assert read(file, content) == GgufInfo(
        architecture="llama",
        context_length=2048,
        layers=3,
        vocab_size=4,
        parameters=PARAMETERS,
        pooling=None,
        has_chat_template=True,
        size=len(content),
    )


def test_what_a_header_does_not_say_is_not_made_up(file: Path) -> None:
    content = gguf({"general.architecture": "mamba", "tokenizer.chat_template": ""}, [])
    info = read(file, content)
    assert (info.architecture, info.parameters, info.size) == ("mamba", 0, len(content))
    assert (info.context_length, info.layers, info.vocab_size, info.pooling) == (None,) * 4
    assert not info.has_chat_template


def test_values_of_a_wrong_type_count_as_not_given(file: Path) -> None:
    values: dict[str, Value] = {"llama.context_length": "long", "llama.block_count": True, "tokenizer.chat_template": 7}
    info = read(file, gguf({"general.architecture": "llama", **values}))
    assert (info.context_length, info.layers, info.has_chat_template) == (None, None, False)


def test_the_architecture_may_stand_behind_what_it_names(file: Path) -> None:
    assert read(file, gguf({"qwen3.context_length": 512, "general.architecture": "qwen3"})).context_length == 512


def test_all_types_of_values_are_walked_over(file: Path) -> None:
    numbers = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    pairs = [string("general.architecture") + struct.pack("<I", 8) + string("gpt2")]
    for kind, letter in numbers.items():
        pairs.append(string(f"one.{kind}") + struct.pack(f"<I{letter}", kind, 1))
        pairs.append(string(f"more.{kind}") + struct.pack(f"<IIQ3{letter}", 9, kind, 3, 1, 0, 1))
    pairs.append(string("gpt2.context_length") + struct.pack("<IQ", 10, 1024))
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs)
    assert read(file, content).context_length == 1024


def test_the_small_model_is_read(model_path: Path) -> None:
    info = read_gguf(model_path)
    assert (info.architecture, info.context_length, info.layers, info.vocab_size) == ("llama", 8192, 30, 49152)
    assert info.parameters == pytest.approx(134.5e6, rel=0.001)
    assert info.size == model_path.stat().st_size
    assert (info.has_chat_template, info.embeds, info.reranks) == (True, False, False)


@pytest.mark.parametrize("length", [3, 7, 20, 1000, 1_000_000, 3_000_000, 50_000_000, 98_000_000])
def test_the_small_model_cut_off_anywhere_is_said_to_be_cut_off(file: Path, model_path: Path, length: int) -> None:
    with model_path.open("rb") as whole:
        file.write_bytes(whole.read(min(length, 8_000_000)))  # its header, and then some
    os.truncate(file, length)
    text = failure_of(file)
    assert text.startswith(f"is cut off: it has {length:,} bytes")
    assert text.endswith("download it again")


def test_a_file_cut_off_at_any_byte_is_said_to_be_cut_off(file: Path) -> None:
    file.write_bytes(WHOLE)
    lengths = [*range(200), *range(200, len(WHOLE), 37), HEADER - 1, HEADER, len(WHOLE) - 1]
    for length in sorted(lengths, reverse=True):
        os.truncate(file, length)
        assert failure_of(file).startswith(f"is cut off: it has {length:,} bytes"), length


def test_a_file_cut_off_in_its_tensors_says_how_long_it_should_be(file: Path) -> None:
    assert failure(file, WHOLE[:-1]) == (
        f"is cut off: it has {len(WHOLE) - 1:,} bytes, its tensors need {len(WHOLE):,}: download it again"
    )


def test_bytes_behind_the_last_tensor_do_no_harm(file: Path) -> None:
    assert read(file, WHOLE + bytes(100)).parameters == PARAMETERS


@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_tensors_lie_where_the_alignment_says(file: Path, alignment: int) -> None:
    content = gguf({**MODEL, "general.alignment": alignment})
    assert read(file, content).parameters == PARAMETERS
    assert failure(file, content[:-1]).startswith("is cut off")


@pytest.mark.parametrize("alignment", [0, 3, "32"])
def test_an_alignment_that_is_no_power_of_two_is_refused(file: Path, alignment: int | str) -> None:
    assert "general.alignment" in failure(file, gguf({**MODEL, "general.alignment": alignment}, []))


def test_of_a_tensor_of_an_unknown_type_only_the_beginning_is_checked(file: Path) -> None:
    tensors = [*TENSORS, Tensor("new", (64, 64), 999, 0)]
    assert read(file, gguf(tensors=tensors)).parameters == PARAMETERS + 64 * 64
    assert failure(file, gguf(tensors=tensors)[:-500]).startswith("is cut off")


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_whole_model_is_refused_with_what_is_wrong(file: Path, text: str) -> None:
    assert text in failure(file, REFUSED[text])


@pytest.mark.parametrize("kind", [(8,), (9, 8), (9, 4)], ids=["text", "texts", "numbers"])
@pytest.mark.parametrize("length", [2**31, 2**61, 2**64 - 1])
def test_a_length_that_no_header_has_is_refused(file: Path, kind: tuple[int, ...], length: int) -> None:
    content = pair(struct.pack(f"<{len(kind)}IQ", *kind, length))
    assert "is damaged (its header would have more than" in failure(file, content)


def test_a_key_that_stands_there_twice_is_refused(file: Path) -> None:
    once = string("a") + struct.pack("<II", 4, 1)
    assert "'a' twice" in failure(file, b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + once + once)


def test_errors_of_the_file_system_are_the_callers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_gguf(tmp_path / "missing.gguf")
    with pytest.raises(IsADirectoryError):
        read_gguf(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(GgufError, match="is no regular file"):
        read_gguf(tmp_path / "pipe.gguf")


@pytest.mark.parametrize(
    ("architecture", "pooling", "uses"),
    [
        ("llama", None, ()),
        ("llama", 0, ()),
        ("qwen3", 3, ("embeds",)),
        ("qwen3", 4, ("reranks",)),
        ("bert", None, ("embeds",)),
        ("bert", 2, ("embeds",)),
        ("bert", 4, ("embeds", "reranks")),
        ("nomic-bert-moe", 1, ("embeds",)),
        ("gemma-embedding", 1, ("embeds",)),
        ("t5encoder", None, ("embeds",)),
    ],
)
def test_architecture_and_pooling_tell_what_a_model_is_for(
    file: Path, architecture: str, pooling: int | None, uses: tuple[str, ...]
) -> None:
    values: dict[str, Value] = {} if pooling is None else {f"{architecture}.pooling_type": pooling}
    info = read(file, gguf({"general.architecture": architecture, **values}))
    assert info.pooling == pooling
    assert tuple(use for use in ("embeds", "reranks") if getattr(info, use)) == uses


def test_a_split_model_is_all_its_parts(tmp_path: Path) -> None:
    parts = write_split(tmp_path, "big", 3)
    info = read_gguf(parts[0])
    assert (info.architecture, info.parameters) == ("llama", 3 * PARAMETERS)
    assert info.size == sum(part.stat().st_size for part in parts)
    assert list(part_paths(parts[1])) == parts
    assert [part_number(part) for part in parts] == [1, 2, 3]


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    parts = write_split(tmp_path, "big", 3)
    parts[1].unlink()
    with pytest.raises(GgufError) as caught:
        read_gguf(parts[0])
    assert str(caught.value) == "is part 1 of 3, and big-00002-of-00003.gguf is missing: put it into the same folder"


def test_a_part_that_is_cut_off_or_another_is_named(tmp_path: Path) -> None:
    parts = write_split(tmp_path, "big", 3)
    parts[2].write_bytes(parts[2].read_bytes()[:-1])
    with pytest.raises(GgufError, match=r"is part 1 of 3, and big-00003-of-00003\.gguf is cut off: it has"):
        read_gguf(parts[0])
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(GgufError, match=r"big-00003-of-00003\.gguf holds something else"):
        read_gguf(parts[0])


def test_a_later_part_names_the_first(tmp_path: Path) -> None:
    parts = write_split(tmp_path, "big", 3)
    with pytest.raises(GgufError, match=r"is part 2 of 3: name the first, big-00001-of-00003\.gguf"):
        read_gguf(parts[1])


def test_a_part_under_another_name_says_how_it_must_be_called(tmp_path: Path) -> None:
    first = write_split(tmp_path, "big", 3)[0].rename(tmp_path / "big.gguf")
    with pytest.raises(GgufError, match=r"rename it to NAME-00001-of-00003\.gguf"):
        read_gguf(first)


def test_a_large_vocabulary_takes_little_memory(file: Path) -> None:
    tokens = [f"token {number}" for number in range(150_000)]
    file.write_bytes(gguf({**MODEL, "tokenizer.ggml.tokens": tokens, "long": "x" * 3_000_000, "after": 1}))
    tracemalloc.start()
    try:
        assert read_gguf(file).vocab_size == 150_000
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_values_are_read_wherever_the_files_buffer_ends(file: Path) -> None:
    with file.open("wb", buffering=0) as writer:
        for length in range(io.DEFAULT_BUFFER_SIZE - 600, io.DEFAULT_BUFFER_SIZE + 10):
            texts = ["x" * length, "", "y" * 30, "", "z"]
            values = {"general.architecture": "llama", "texts": texts, "numbers": [1, 2, 3], "llama.block_count": 5}
            writer.seek(0)
            writer.write(gguf({**values, "general.name": "Tiny"}))
            assert read_gguf(file).layers == 5, length


def test_a_file_that_is_cut_off_while_it_is_read_is_said_to_be_cut_off(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(WHOLE)
    before = file.stat()

    def stat(_: Path) -> os.stat_result:
        return before

    monkeypatch.setattr(Path, "stat", stat)
    template = range(WHOLE.index(b"{{ messages }}") + 8, WHOLE.rindex(b"{{ messages }}"))
    for length in reversed(range(3, HEADER)):
        if length in template and 1 < length % 64 < 63:
            continue  # within a long text one byte is like the other, but where a buffer ends
        os.truncate(file, length)
        assert failure_of(file).startswith(f"is cut off: it has {len(WHOLE):,} bytes"), length


def test_blocks_count_for_a_tensors_bytes(file: Path) -> None:
    content = gguf(tensors=[Tensor("t", (320, 3), Q8_0, 30 * 34)])
    assert read(file, content).parameters == 960
    assert f"its tensors need {len(content):,}" in failure(file, content[:-1])
