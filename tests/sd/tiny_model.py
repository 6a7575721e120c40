"""A tiny image model with random weights for stable-diffusion.cpp's sd-server, written in half a second.

It paints noise. It has the shape of FLUX (https://github.com/black-forest-labs/flux, ``model.py``), the smallest that
sd-server takes: one double and one single block of width 128, a CLIP text encoder, the tiny autoencoder TAEF1
(https://github.com/madebyollin/taesd). The encoder's sizes are fixed in the server, hence its 70 MB.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

SEED = 1234
WIDTH = 128
"""Width of the diffusion model; its heads have the same width, so there is one."""

_POOL = 1 << 16
"""Weights drawn once; each tensor is a piece of them, repeated."""
_Q4_BLOCK = struct.Struct("<e16s")
"""ggml's Q4_0: 32 weights as a half-precision scale and 4 bits each; a weight is scale * (nibble - 8)."""
_Q4_DEVIATION = math.sqrt(255 / 12 + 0.25)
"""Root mean square of (nibble - 8) over the 16 nibbles."""


class TensorType(NamedTuple):
    """A type of number as the two formats call it."""

    ggml: int
    safetensors: str


F32 = TensorType(0, "F32")
F16 = TensorType(1, "F16")
Q4_0 = TensorType(2, "")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor; ``shape`` has the slowest dimension first, as PyTorch has it."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: bytes


@dataclass(frozen=True, slots=True)
class TinyModel:
    """The three files that sd-server is started with."""

    diffusion: Path
    autoencoder: Path
    text_encoder: Path

    def arguments(self) -> list[str]:
        """Return the server's flags that name the files."""
        return [
            *("--diffusion-model", str(self.diffusion)),
            *("--taesd", str(self.autoencoder)),
            *("--clip_l", str(self.text_encoder)),
        ]


class Weights:
    """Random weights, the same for the same seed on every machine: uniform around 0, of a given deviation."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._units = [(2 * self._random.random() - 1) * math.sqrt(3) for _ in range(_POOL)]
        self._nibbles = self._random.randbytes(_POOL)
        self._pools: dict[float, bytes] = {}

    def f16(self, name: str, shape: tuple[int, ...], deviation: float) -> Tensor:
        """Return a tensor of half-precision weights."""
        pool = self._pools.get(deviation)
        if pool is None:
            pool = struct.pack(f"<{_POOL}e", *(unit * deviation for unit in self._units))
            self._pools[deviation] = pool
        return Tensor(name, shape, F16, self._piece(pool, 2, 2 * math.prod(shape)))

    def q4(self, name: str, shape: tuple[int, ...], deviation: float) -> Tensor:
        """Return a tensor of 4-bit weights; its last dimension is a multiple of 32."""
        scale = deviation / _Q4_DEVIATION
        blocks = (self._nibbles[at : at + 16] for at in range(0, _POOL, 16))
        pool = b"".join(_Q4_BLOCK.pack(scale, nibbles) for nibbles in blocks)
        return Tensor(name, shape, Q4_0, self._piece(pool, _Q4_BLOCK.size, math.prod(shape) // 32 * _Q4_BLOCK.size))

    def _piece(self, pool: bytes, unit: int, size: int) -> bytes:
        # Another start for each tensor, so that no two layers are the same.
        start = self._random.randrange(len(pool) // unit) * unit
        return (pool[start:] + pool * (size // len(pool) + 1))[:size]


def write_tiny_model(folder: Path, seed: int = SEED) -> TinyModel:
    """Write the model's three files, about 78 MB.

    Args:
        folder: Where to; made if it is not there. Files of the same names are written anew.
        seed: The same seed gives the same bytes.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = TinyModel(folder / "tiny-flux.safetensors", folder / "tiny-taef1.safetensors", folder / "tiny-clip_l.gguf")
    weights = Weights(seed)
    write_safetensors(model.diffusion, list(_flux(weights)))
    write_safetensors(model.autoencoder, list(_autoencoder(weights)))
    write_gguf(model.text_encoder, "clip_l", list(_text_encoder(weights)))
    return model


def write_safetensors(path: Path, tensors: Sequence[Tensor]) -> None:
    """Write a safetensors file: the header's length, the header as JSON, the data one after another.

    Source: https://github.com/huggingface/safetensors, "Format".
    """
    header: dict[str, object] = {}
    offset = 0
    for tensor in tensors:
        end = offset + len(tensor.data)
        header[tensor.name] = {
            "dtype": tensor.type.safetensors,
            "shape": tensor.shape,
            "data_offsets": (offset, end),
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(tensor.data for tensor in tensors)


def write_gguf(path: Path, architecture: str, tensors: Sequence[Tensor]) -> None:
    """Write a GGUF file of version 3 with one piece of metadata, the architecture.

    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1)
    header += _gguf_string("general.architecture") + struct.pack("<I", 8) + _gguf_string(architecture)
    offset = 0
    for tensor in tensors:
        # ggml names the fastest dimension first.
        dimensions = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        header += _gguf_string(tensor.name) + struct.pack("<I", len(tensor.shape)) + dimensions
        header += struct.pack("<IQ", tensor.type.ggml, offset)
        offset += len(_aligned(tensor.data))
    with path.open("wb") as file:
        file.write(_aligned(header))
        file.writelines(_aligned(tensor.data) for tensor in tensors)


def _gguf_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)


class _Linear(Protocol):
    def __call__(self, name: str, inputs: int, outputs: int) -> Iterator[Tensor]: ...


def _flux(weights: Weights) -> Iterator[Tensor]:
    """Yield the diffusion model."""

    def linear(name: str, inputs: int, outputs: int) -> Iterator[Tensor]:
        name = f"model.diffusion_model.{name}"
        yield weights.f16(f"{name}.weight", (outputs, inputs), inputs**-0.5)
        yield _constant(f"{name}.bias", outputs, 0, F16)

    channels, frequencies, pooled, context = 64, 256, 768, 4096
    yield from linear("img_in", channels, WIDTH)
    yield from linear("txt_in", context, WIDTH)
    for name, inputs in (("time_in", frequencies), ("vector_in", pooled)):
        yield from linear(f"{name}.in_layer", inputs, WIDTH)
        yield from linear(f"{name}.out_layer", WIDTH, WIDTH)
    yield from _double_block(linear, "double_blocks.0")
    yield from _single_block(linear, "single_blocks.0")
    yield from linear("final_layer.linear", WIDTH, channels)
    yield from linear("final_layer.adaLN_modulation.1", WIDTH, 2 * WIDTH)


def _double_block(linear: _Linear, block: str) -> Iterator[Tensor]:
    for stream in (f"{block}.img", f"{block}.txt"):
        yield from linear(f"{stream}_mod.lin", WIDTH, 6 * WIDTH)
        yield from linear(f"{stream}_attn.qkv", WIDTH, 3 * WIDTH)
        yield from _query_key_norms(f"{stream}_attn.norm")
        yield from linear(f"{stream}_attn.proj", WIDTH, WIDTH)
        yield from linear(f"{stream}_mlp.0", WIDTH, 4 * WIDTH)
        yield from linear(f"{stream}_mlp.2", 4 * WIDTH, WIDTH)


def _single_block(linear: _Linear, block: str) -> Iterator[Tensor]:
    yield from linear(f"{block}.linear1", WIDTH, 7 * WIDTH)
    yield from linear(f"{block}.linear2", 5 * WIDTH, WIDTH)
    yield from _query_key_norms(f"{block}.norm")
    yield from linear(f"{block}.modulation.lin", WIDTH, 3 * WIDTH)


def _query_key_norms(name: str) -> Iterator[Tensor]:
    for norm in ("query_norm", "key_norm"):
        yield _constant(f"model.diffusion_model.{name}.{norm}.scale", WIDTH, 1, F16)


def _autoencoder(weights: Weights) -> Iterator[Tensor]:
    """Yield TAEF1: 16 latent channels, three stages of three blocks between latents and pixels."""
    latent, inner, colours = 16, 64, 3

    def convolution(name: str, inputs: int, outputs: int, gain: float = 1, *, bias: bool = True) -> Iterator[Tensor]:
        yield weights.f16(f"{name}.weight", (outputs, inputs, 3, 3), gain * (inputs * 9) ** -0.5)
        if bias:
            yield _constant(f"{name}.bias", outputs, 0, F16)

    def block(name: str) -> Iterator[Tensor]:
        # The last one is weak: the block adds its result to its input, and ten in a row must not run away.
        for layer, gain in ((0, 0.9), (2, 0.9), (4, 0.3)):
            yield from convolution(f"{name}.conv.{layer}", inner, inner, gain)

    def stage(side: str, resize: int, blocks: Sequence[int]) -> Iterator[Tensor]:
        yield from convolution(f"{side}.layers.{resize}", inner, inner, bias=False)
        for layer in blocks:
            yield from block(f"{side}.layers.{layer}")

    # The numbers left out are layers without weights.
    yield from convolution("decoder.layers.0", latent, inner)
    for layer in (2, 3, 4):
        yield from block(f"decoder.layers.{layer}")
    yield from stage("decoder", 6, (7, 8, 9))
    yield from stage("decoder", 11, (12, 13, 14))
    yield from stage("decoder", 16, (17,))
    yield from convolution("decoder.layers.18", inner, colours, 0.5)
    yield from convolution("encoder.layers.0", colours, inner)
    yield from block("encoder.layers.1")
    for resize in (2, 6, 10):
        yield from stage("encoder", resize, range(resize + 1, resize + 4))
    yield from convolution("encoder.layers.14", inner, latent)


def _text_encoder(weights: Weights) -> Iterator[Tensor]:
    """Yield CLIP's text encoder, ViT-L/14."""
    width, inner, layers, vocabulary, positions = 768, 3072, 12, 49408, 77

    def linear(name: str, inputs: int, outputs: int) -> Iterator[Tensor]:
        yield weights.q4(f"text_model.{name}.weight", (outputs, inputs), inputs**-0.5)
        yield _constant(f"text_model.{name}.bias", outputs, 0, F32)

    def norm(name: str) -> Iterator[Tensor]:
        yield _constant(f"text_model.{name}.weight", width, 1, F32)
        yield _constant(f"text_model.{name}.bias", width, 0, F32)

    yield weights.q4("text_model.embeddings.token_embedding.weight", (vocabulary, width), 0.5)
    yield weights.f16("text_model.embeddings.position_embedding.weight", (positions, width), 0.1)
    for number in range(layers):
        layer = f"encoder.layers.{number}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{projection}", width, width)
        yield from linear(f"{layer}.mlp.fc1", width, inner)
        yield from linear(f"{layer}.mlp.fc2", inner, width)
        yield from norm(f"{layer}.layer_norm1")
        yield from norm(f"{layer}.layer_norm2")
    yield from norm("final_layer_norm")


def _constant(name: str, size: int, value: float, tensor_type: TensorType) -> Tensor:
    number = struct.pack("<e" if tensor_type is F16 else "<f", value)
    return Tensor(name, (size,), tensor_type, number * size)
