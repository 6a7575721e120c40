"""``/v1/embeddings``: vectors as numbers, or as base64 of little-endian float32."""

from __future__ import annotations

import base64
import sys
from array import array
from typing import Any, Final, Literal

from velesio_worker.gateway.errors import ApiError, reads_results
from velesio_worker.gateway.live import Part
from velesio_worker.gateway.openai.errors import refused
from velesio_worker.gateway.openai.fields import Body, Texts

_TAKEN: Final = ("dimensions", "embd_normalize")


class EmbeddingBody(Body):
    """The body of a request for vectors: of a text, of tokens, or of several of them."""

    model: str
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    def part(self, model: str) -> Part:
        """Return the job.

        Raises:
            ApiError: there is no text.
        """
        if not self.input:
            raise refused("input", "is empty: give a text, a list of token ids, or a list of either.")
        data = self.given(_TAKEN) | {"model": model, "input": self.input}
        return "embedding", data | {"encoding_format": "float", "defaults": "engine"}


@reads_results
def embedding_answer(model: str, body: EmbeddingBody, result: dict[str, Any]) -> dict[str, Any]:
    """Return the vectors in the order of the texts. May take a moment.

    Raises:
        ApiError: the job was cancelled, or the engine made no vectors of whole texts.
    """
    vectors: list[dict[str, Any]] = result.get("data") or []
    if not vectors:
        raise ApiError(499, "cancelled", "The request was cancelled before its end.")
    usage: dict[str, Any] = result.get("usage") or {}
    read = usage.get("prompt_tokens") or 0
    coded = body.encoding_format == "base64"
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": as_base64(_vector(item)) if coded else _vector(item),
            }
            for index, item in enumerate(sorted(vectors, key=lambda vector: vector.get("index") or 0))
        ],
        "model": model,
        "usage": {"prompt_tokens": read, "total_tokens": usage.get("total_tokens") or read},
    }


def _vector(item: dict[str, Any]) -> list[float]:
    vector: Any = item.get("embedding")
    if not isinstance(vector, list) or (vector and isinstance(vector[0], list)):
        raise ApiError(502, "engine_error", "The engine made no vector of a whole text: it is started without pooling.")
    return vector  # pyright: ignore[reportUnknownVariableType] (JSON)


def as_base64(vector: list[float]) -> str:
    """Return a vector as base64 of little-endian float32."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
