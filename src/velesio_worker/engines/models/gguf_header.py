"""The header of one GGUF file, value by value.

Format: the GGUF specification, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md); block
sizes: ggml-common.h; what is refused beyond that is what llama.cpp refuses.
"""

from __future__ import annotations

import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from struct import error as StructError  # noqa: N812 (its name says nothing alone)
from typing import BinaryIO, Final, NoReturn

from velesio_worker.wire.errors import VelesioError

_MAGIC: Final = b"GGUF"
_LFS_POINTER: Final = b"version https://git-lfs"
_VERSIONS: Final = (2, 3)
_HEADER_LIMIT: Final = 128 * 1024 * 1024
"""Real headers have some ten megabytes; what claims more is damaged, and would take long to walk through."""

_COUNT_LIMIT: Final = 65536
"""Keys, and tensors, of one file: real ones have some thousands."""

_KEPT: Final = re.compile(
    r"general\.(architecture|alignment)|split\.(count|no)|tokenizer\.(ggml\.tokens|chat_template)"
    r"|.+\.(context_length|block_count|pooling_type)",
    re.DOTALL,
)
"""The keys that anybody asks for."""

_NAME_LIMIT: Final = 65535  # the specification's
_TEXT_KEPT: Final = 4096
"""Of a longer text only so many bytes are kept: a chat template need not be read to know that it is there."""

_ALIGNMENT: Final = 32
_DIMENSIONS: Final = 4
_INT64: Final = 2**63 - 1
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {kind: Struct(f"<{code}") for kind, code in enumerate("BbHhIif?  Qqd") if code != " "}
"""The types of single values by their numbers."""

TENSOR_TYPES: Final = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 36),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
    42: (64, 18),  # Q2_0
}
"""Elements and bytes of one block of each ggml type."""


class GgufError(VelesioError):
    """is no GGUF model that llama.cpp could load.

    The text goes on where the file's name ends: ``f"{path} {error}"``.
    """


def damaged(why: str) -> NoReturn:
    """Say that a file holds what no writer would have written."""
    raise GgufError(f"is damaged ({why}): download it again")


def _cut_off(size: int) -> NoReturn:
    raise GgufError(f"is cut off: it has {size:,} bytes and its header goes on: download it again")


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """One file's header.

    Attributes:
        values: single values by key, of those keys that are asked for; long texts are cut.
        lengths: arrays' lengths by key, likewise.
        parameters: elements of its tensors.
        size: the file's bytes.
    """

    values: dict[str, int | float | str]
    lengths: dict[str, int]
    parameters: int
    size: int

    def number(self, key: str) -> int | None:
        """Return a whole number; None if there is none of that name."""
        value = self.values.get(key)
        return value if type(value) is int else None

    def text(self, key: str) -> str | None:
        """Return a text; None if there is none of that name or it is empty."""
        value = self.values.get(key)
        return value if isinstance(value, str) and value else None


def read_header(path: Path) -> GgufHeader:
    """Read a file's header, and check that it reaches to the end of its last tensor. Raises GgufError, OSError."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise GgufError("is no regular file")  # opening a pipe would wait for whoever writes into it
    size = status.st_size
    with path.open("rb") as file:
        reader = _Reader(file, size)
        try:
            tensors, count = reader.begin()
            values, lengths = _values(reader, count)
            parameters, needed = _tensors(reader, tensors, values.get("general.alignment", _ALIGNMENT))
        except StructError:  # somebody shortened the file meanwhile
            _cut_off(size)
    if needed > size:
        raise GgufError(f"is cut off: it has {size:,} bytes, its tensors need {needed:,}: download it again")
    return GgufHeader(values, lengths, parameters, size)


def _values(reader: _Reader, count: int) -> tuple[dict[str, int | float | str], dict[str, int]]:
    values: dict[str, int | float | str] = {}
    lengths: dict[str, int] = {}
    seen: set[int] = set()  # of the keys' hashes: names may be long
    for _ in range(count):
        key = reader.name("key")
        if hash(key) in seen:
            damaged(f"it has {key[:80]!r} twice")
        seen.add(hash(key))
        kind, kept = reader.number(_U32), _KEPT.fullmatch(key)
        if kind == _ARRAY:
            length = reader.skip_array()
            if kept:
                lengths[key] = length
            continue
        if kind != _STRING and kind not in _SCALARS:
            damaged(f"the value of {key[:80]!r} has the unknown type {kind:,}")
        value = reader.text() if kind == _STRING else reader.number(_SCALARS[kind])
        if kept:
            values[key] = value
    return values, lengths


def _tensors(reader: _Reader, count: int, alignment: float | str) -> tuple[int, int]:
    """Return the tensors' elements, and how many bytes a file with all of them has."""
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        damaged("its general.alignment is no power of two")
    parameters, end = 0, 0
    for _ in range(count):
        name = reader.name("tensor")
        dimensions = reader.number(_U32)
        if dimensions > _DIMENSIONS:
            damaged(f"its tensor {name[:80]!r} has {dimensions:,} dimensions")
        elements = math.prod([reader.number(_U64) for _ in range(dimensions)])
        parameters += elements
        if parameters > _INT64:
            damaged(f"with its tensor {name[:80]!r} it has {parameters:,} parameters")
        block, size = TENSOR_TYPES.get(reader.number(_U32), (1, 0))
        end = max(end, reader.number(_U64) + elements // block * size)
    start = -(-reader.position // alignment) * alignment
    return parameters, start + end if end else reader.position


class _Reader:
    """Reads a file's header. ``position`` is where the next value begins.

    It is not mapped into memory: a file that shrinks meanwhile would end the process with SIGBUS.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.position = 0

    def begin(self) -> tuple[int, int]:
        """Read the beginning; returns how many tensors and how many key-value pairs there are."""
        beginning = self._file.read(len(_LFS_POINTER))
        magic = beginning[: len(_MAGIC)]
        if beginning == _LFS_POINTER:
            raise GgufError("is a Git LFS pointer, not the model itself: fetch it with git lfs pull")
        if not _MAGIC.startswith(magic):
            raise GgufError(f"is no GGUF model (it begins with {magic!r}): llama.cpp needs a .gguf file")
        self._skip(len(_MAGIC))
        version = self.number(_U32)
        if version and not version & 0xFFFF:
            raise GgufError("is a GGUF file for big-endian machines: get the little-endian one")
        if version not in _VERSIONS:
            remedy = "update velesio-worker and llama.cpp" if version > max(_VERSIONS) else "get a newer one"
            raise GgufError(f"is a GGUF file of version {version:,}, and only versions 2 and 3 are read: {remedy}")
        tensors, keys = self.number(_U64), self.number(_U64)
        for count, what in ((tensors, "tensors"), (keys, "keys")):
            if count > _COUNT_LIMIT:
                damaged(f"it says that it has {count:,} {what}")
        return tensors, keys

    def number(self, layout: Struct) -> int:
        return layout.unpack(self._read(layout.size))[0]

    def name(self, what: str) -> str:
        """Read the name of a key or a tensor."""
        length = self.number(_U64)
        if not 0 < length <= _NAME_LIMIT:
            damaged(f"the name of a {what} has {length:,} bytes")
        return self._read(length).decode(errors="replace")

    def text(self) -> str:
        """Read the beginning of a text, and go on behind its end."""
        self._demand(length := self.number(_U64))
        kept = self._read(min(length, _TEXT_KEPT))
        self._skip(length - len(kept))
        return kept.decode(errors="replace")

    def skip_array(self) -> int:
        """Skip an array; returns its length."""
        kind, count = self.number(_U32), self.number(_U64)
        if kind in _SCALARS:
            self._skip(count * _SCALARS[kind].size)
        elif kind == _STRING:
            self._skip_texts(count)
        else:
            damaged(f"it has an array of the type {kind:,}, which llama.cpp does not read")
        return count

    def _skip_texts(self, count: int) -> None:
        """Skip so many texts: hundreds of thousands in a vocabulary, hence no call of our own for each."""
        self._demand(count * _U64.size)
        read, skip, length_at = self._file.read, self._file.seek, _U64.unpack
        at, last = self.position, min(self._size, _HEADER_LIMIT) - _U64.size
        for left in range(count - 1, -1, -1):
            (length,) = length_at(read(_U64.size))
            at += _U64.size + length
            if at > last:  # nothing fits behind this one
                self._demand(at - self.position + left * _U64.size)
            skip(at)
        self.position = at

    def _read(self, count: int) -> bytes:
        self._demand(count)
        self.position += count
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        self._demand(count)
        self.position += count
        self._file.seek(self.position)

    def _demand(self, count: int) -> None:
        end = self.position + count
        if end > _HEADER_LIMIT:
            damaged(f"its header would have more than {_HEADER_LIMIT:,} bytes")
        if end > self._size:
            _cut_off(self._size)
