"""Probabilities of tokens as completions tell them, which is another form than that of chats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def legacy_logprobs(tokens: Sequence[dict[str, Any]], most: int, offset: int = 0) -> tuple[dict[str, Any], int]:
    """Return the engine's probabilities in the form of completions.

    Args:
        tokens: llama-server's ``completion_probabilities``: ``[{"token", "logprob", "top_logprobs"}]``.
        most: how many of the likeliest are wanted at each place.
        offset: in characters, where in the text the first token begins.

    Returns:
        The probabilities, and where the next token begins.
    """
    told: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [] if most else None, "text_offset": []}
    for token in tokens:
        text = token.get("token") or ""
        told["tokens"].append(text)
        told["token_logprobs"].append(token.get("logprob"))
        told["text_offset"].append(offset)
        if most:
            likeliest: list[dict[str, Any]] = token.get("top_logprobs") or []
            told["top_logprobs"].append({other.get("token") or "": other.get("logprob") for other in likeliest[:most]})
        offset += len(text)
    return told, offset
