"""What a GGUF model's file, or files, say about it, and whether they are whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velesio_worker.engines.models.gguf_header import GgufError, GgufHeader, damaged, read_header

__all__ = ["GgufError", "GgufInfo", "part_number", "part_paths", "read_gguf"]

_PART: Final = re.compile(r"(?P<name>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")
_PARTS_LIMIT: Final = 2**16 - 1
_ENCODERS: Final = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
_POOLED: Final = frozenset({1, 2, 3})
_RANK: Final = 4


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """What a model's file says about it.

    Attributes:
        architecture: ``llama``, ``qwen3``, ``bert`` and so on.
        context_length: tokens that it was trained for.
        layers: its blocks; with its output layer llama-server offloads one more to a GPU.
        vocab_size: tokens in its vocabulary.
        parameters: elements of all tensors, those of every part included.
        pooling: 0 none, 1 mean, 2 cls, 3 last, 4 rank; None if the file does not say.
        has_chat_template: whether it has one of its own.
        size: bytes of all its files.
    """

    architecture: str
    context_length: int | None
    layers: int | None
    vocab_size: int | None
    parameters: int
    pooling: int | None
    has_chat_template: bool
    size: int

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings and no text; a reranker with an encoder's architecture counts as well."""
        return self.architecture in _ENCODERS or self.pooling in _POOLED

    @property
    def reranks(self) -> bool:
        """Whether it ranks documents."""
        return self.pooling == _RANK


def read_gguf(path: Path) -> GgufInfo:
    """Read the header of a model's (first) file, and check that nothing is missing at the end of its file or files.

    Raises:
        GgufError: it is no model, or not a whole one; the text goes on where the file's name ends.
        OSError: it cannot be opened.
    """
    parts = _parts(path, read_header(path))
    first = parts[0]
    architecture = first.text("general.architecture")
    if architecture is None:
        raise GgufError("names no architecture (general.architecture): llama.cpp needs the file of a whole model")
    return GgufInfo(
        architecture=architecture,
        context_length=first.number(f"{architecture}.context_length"),
        layers=first.number(f"{architecture}.block_count"),
        vocab_size=first.lengths.get("tokenizer.ggml.tokens"),
        parameters=sum(part.parameters for part in parts),
        pooling=first.number(f"{architecture}.pooling_type"),
        has_chat_template=first.text("tokenizer.chat_template") is not None,
        size=sum(part.size for part in parts),
    )


def part_number(path: Path) -> int:
    """Return which part of a split model (``name-00002-of-00003.gguf``) a file is by its name; 1 if it is none."""
    found = _PART.fullmatch(path.name)
    return int(found["number"]) if found else 1


def part_paths(path: Path) -> Iterator[Path]:
    """Name all files of a model from the first on, by the name of one; whether they exist is another matter."""
    found = _PART.fullmatch(path.name)
    if not found:
        yield path
        return
    for number in range(1, int(found["count"]) + 1):
        yield path.with_name(f"{found['name']}-{number:05}-of-{found['count']}.gguf")


def _parts(path: Path, first: GgufHeader) -> list[GgufHeader]:
    count, number = first.number("split.count") or 1, (first.number("split.no") or 0) + 1
    if not 1 <= number <= count <= _PARTS_LIMIT:
        damaged(f"it says that it is part {number:,} of {count:,}")
    if count == 1:
        return [first]
    ending = f"-{number:05}-of-{count:05}.gguf"
    names = list(part_paths(path))
    if not path.name.endswith(ending) or len(names) != count:
        raise GgufError(f"is part {number} of {count}, and its name does not say so: rename it to NAME{ending}")
    if number > 1:
        raise GgufError(f"is part {number} of {count}: name the first, {names[0].name}")
    return [first, *(_part(other, index, count) for index, other in enumerate(names[1:], start=1))]


def _part(path: Path, index: int, count: int) -> GgufHeader:
    """Read one of the further parts; ``index`` counts from 0."""
    whole = f"is part 1 of {count}, and {path.name}"
    try:
        part = read_header(path)
    except FileNotFoundError:
        raise GgufError(f"{whole} is missing: put it into the same folder") from None
    except GgufError as error:
        raise GgufError(f"{whole} {error}") from None
    if part.number("split.no") != index:
        raise GgufError(f"{whole} holds something else: download it again")
    return part
