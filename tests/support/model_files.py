"""Models for tests, made of the small one: a tiny one, and such as say another thing of themselves.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.gguf_files import ARRAY, STRING, UINT32, padded, string, value

_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Types of values, and how many bytes one has."""

_BEGIN: Final = struct.Struct("<4sIQQ")
_KIND: Final = struct.Struct("<I")
_LENGTH: Final = struct.Struct("<Q")
_ARRAY_HEAD: Final = struct.Struct("<IQ")
_ALIGNMENT: Final = 32

TINY_LAYERS: Final = 2
TINY_WORDS: Final = 4096
"""The tiny model has so many of the small one's layers and words: the first ones."""

TINY_PARAMETERS: Final = 9_440_064
"""So many weights it has."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor; the last of its dimensions is the slowest."""

    dimensions: list[int]
    kind: int
    data: memoryview


class _Reader:
    """Reads one thing after another."""

    def __init__(self, content: memoryview) -> None:
        self.content = content
        self.at = 0

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        found = form.unpack_from(self.content, self.at)
        self.at += form.size
        return found

    def string(self) -> str:
        (length,) = self.unpack(_LENGTH)
        self.at += length
        return bytes(self.content[self.at - length : self.at]).decode()

    def value(self) -> bytes:
        start = self.at
        (kind,) = self.unpack(_KIND)
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            of, length = self.unpack(_ARRAY_HEAD)
            for _ in range(length if of == STRING else 0):
                self.string()
            self.at += length * _SIZES.get(of, 0)
        else:
            self.at += _SIZES[kind]
        return bytes(self.content[start : self.at])

    def tensor(self) -> tuple[list[int], int, int]:
        """Read a tensor's dimensions, type and place."""
        (dimensions,) = self.unpack(_KIND)
        sizes = [self.unpack(_LENGTH)[0] for _ in range(dimensions)]
        kind, place = self.unpack(_ARRAY_HEAD)
        return sizes, kind, place


def read_model(path: Path) -> tuple[dict[str, bytes], dict[str, Tensor]]:
    """Read a model's file: what it says, as the format has it, and the tensors, by name."""
    reader = _Reader(memoryview(path.read_bytes()))
    _, _, tensors, values = reader.unpack(_BEGIN)
    said = {reader.string(): reader.value() for _ in range(values)}
    heads = {reader.string(): reader.tensor() for _ in range(tensors)}
    data = reader.content[padded(reader.at, _ALIGNMENT) :]
    places = sorted(place for _, _, place in heads.values())
    ends = dict(zip(places, [*places[1:], len(data)], strict=True))
    return said, {name: Tensor(sizes, kind, data[at : ends[at]]) for name, (sizes, kind, at) in heads.items()}


def write_model(path: Path, said: Mapping[str, bytes], tensors: Mapping[str, Tensor]) -> None:
    """Write a model's file."""
    head = _BEGIN.pack(b"GGUF", 3, len(tensors), len(said)) + b"".join(string(name) + said[name] for name in said)
    place = 0
    for name, tensor in tensors.items():
        assert len(tensor.data) % _ALIGNMENT == 0
        head += string(name) + _KIND.pack(len(tensor.dimensions)) + b"".join(map(_LENGTH.pack, tensor.dimensions))
        head += _ARRAY_HEAD.pack(tensor.kind, place)
        place += len(tensor.data)
    with path.open("wb") as file:
        file.write(head.ljust(padded(len(head), _ALIGNMENT), b"\0"))
        file.writelines(tensor.data for tensor in tensors.values())


def tiny_model(small: Path, target: Path, layers: int = TINY_LAYERS) -> None:
    """Make the small model tiny: it is read in a tenth of the time, and writes a token in a twentieth."""
    said, tensors = read_model(small)
    words, merges = (_strings(said[f"tokenizer.ggml.{name}"]) for name in ("tokens", "merges"))
    known = set(words[:TINY_WORDS])
    kinds = said["tokenizer.ggml.token_type"]
    head = _KIND.size + _ARRAY_HEAD.size
    said |= {
        "llama.block_count": value(layers),
        "llama.vocab_size": value(TINY_WORDS),
        "tokenizer.ggml.tokens": value(words[:TINY_WORDS]),
        "tokenizer.ggml.merges": value([merge for merge in merges if merge.replace(" ", "") in known]),
        "tokenizer.ggml.token_type": kinds[: head - _LENGTH.size]
        + _LENGTH.pack(TINY_WORDS)
        + kinds[head : head + 4 * TINY_WORDS],
    }
    kept = {name: each for name, each in tensors.items() if not name.startswith("blk.") or _layer(name) < layers}
    width, all_words = kept["token_embd.weight"].dimensions
    rows = kept["token_embd.weight"].data
    rows = rows[: len(rows) // all_words * TINY_WORDS]
    kept["token_embd.weight"] = Tensor([width, TINY_WORDS], kept["token_embd.weight"].kind, rows)
    write_model(target, said, kept)


def with_pooling(model: Path, target: Path, pooling: int) -> None:
    """Copy a model, and have it say that it is made for embeddings (1, the mean) or for ranking (4)."""
    said, tensors = read_model(model)
    write_model(target, said | {"llama.pooling_type": value(pooling)}, tensors)


def _strings(of: bytes) -> list[str]:
    reader = _Reader(memoryview(of))
    reader.at = _KIND.size
    _, length = reader.unpack(_ARRAY_HEAD)
    return [reader.string() for _ in range(length)]


def _layer(name: str) -> int:
    return int(name.split(".")[1])
