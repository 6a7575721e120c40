"""Small GGUF files, written as the specification says."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

F32, F16, Q4_0, Q8_0, Q4_K = 0, 1, 2, 8, 12
UINT8, UINT32, FLOAT32, BOOL, STRING, ARRAY = 0, 4, 6, 7, 8, 9
Value = int | float | bool | str | list[str] | list[int]

MODEL: Mapping[str, Value] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "llama.context_length": 2048,
    "llama.block_count": 3,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": ["<s>", "a", "ü" * 200, ""],
    "tokenizer.ggml.token_type": [3, 1, 1, 1],
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "{{ messages }}" * 1000,
}


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: Sequence[int]
    kind: int
    size: int
    """Bytes."""


TENSORS = (
    Tensor("token_embd.weight", (64, 4), F32, 1024),
    Tensor("blk.0.attn_q.weight", (64, 2), Q4_0, 72),
    Tensor("blk.0.attn_norm.weight", (64,), F16, 128),
    Tensor("output.weight", (256, 2), Q4_K, 288),
)
PARAMETERS = 64 * 4 + 64 * 2 + 64 + 256 * 2


def string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def value(of: Value) -> bytes:
    match of:
        case bool():
            return struct.pack("<I?", BOOL, of)
        case int():
            return struct.pack("<II", UINT32, of)
        case float():
            return struct.pack("<If", FLOAT32, of)
        case str():
            return struct.pack("<I", STRING) + string(of)
        case list():
            texts = all(isinstance(item, str) for item in of)
            items = [string(item) if isinstance(item, str) else struct.pack("<I", item) for item in of]
            return struct.pack("<IIQ", ARRAY, STRING if texts else UINT32, len(of)) + b"".join(items)


def header(values: Mapping[str, Value], tensors: Sequence[Tensor] = TENSORS, *, version: int = 3) -> bytes:
    """Everything before the tensors' data, without padding."""
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(values))]
    parts += [string(key) + value(of) for key, of in values.items()]
    offset = 0
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        parts.append(string(tensor.name) + shape + struct.pack("<IQ", tensor.kind, offset))
        offset += padded(tensor.size, alignment(values))
    return b"".join(parts)


def gguf(values: Mapping[str, Value] = MODEL, tensors: Sequence[Tensor] = TENSORS, *, version: int = 3) -> bytes:
    """A whole file; the last tensor's data is not padded."""
    content = header(values, tensors, version=version)
    for tensor in tensors:
        content = content.ljust(padded(len(content), alignment(values)), b"\0") + b"\x55" * tensor.size
    return content


def alignment(values: Mapping[str, Value]) -> int:
    found = values.get("general.alignment", 32)
    return found if isinstance(found, int) else 32


def padded(size: int, to: int) -> int:
    return -(-size // to) * to


def write_split(folder: Path, name: str, count: int) -> list[Path]:
    """A model in several files, each with all tensors; only the first says what it is."""
    paths = [folder / f"{name}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        split: Mapping[str, Value] = {"split.no": number, "split.count": count}
        path.write_bytes(gguf({**MODEL, **split} if number == 0 else split))
    return paths
