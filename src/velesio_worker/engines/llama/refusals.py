"""What llama-server says instead of an answer, and which error of a job that is."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from velesio_worker.wire.errors import (
    BadJobError,
    ContextExceededError,
    EngineRefusedError,
    EngineUnavailableError,
    JobError,
    OutOfMemoryError,
)
from velesio_worker.wire.fields import count_in

BUSY: Final = 503
"""llama-server's status while it loads its model."""

OK: Final = 200
LONGEST_WORDS: Final = 1000
"""Characters of a server's own words; they stand in a job's result and in its stream."""

_REFUSALS: Final = frozenset({400, 404, 422, 501})

_NO_MEMORY: Final = re.compile(
    r"((\w+ error|cudaMalloc failed): )?out of memory\b|ggml\w*: .{0,200}?(out of memory|failed to allocate)\b",
    re.IGNORECASE,
)
_TOO_LONG: Final = (
    (
        re.compile(
            r"context size has been exceeded"
            r"|(the )?(request|input)( \(\d+ tokens\))? (exceeds the available|is larger than the max) context size",
            re.IGNORECASE,
        ),
        "llama-server ran out of context ({}): shorten the prompt, lower max_tokens or raise CONTEXT_SIZE.",
    ),
    (  # of embeddings and rerankings, which are read in one go
        re.compile(r"input( \(\d+ tokens\))? is too large to process\b", re.IGNORECASE),
        "llama-server: {}: shorten the input, or start the worker with LLAMA_ARGS='--batch-size N --ubatch-size N'.",
    ),
)
"""How llama-server's own words begin; further on, or in the words of others, a job's texts may be repeated."""

_MISSING: Final = (
    (
        re.compile("This server does not support embeddings"),
        (
            "Give the job an embedding model (data.model), or start the worker with "
            "LLAMA_ARGS='--embeddings --pooling mean'"
        ),
    ),
    (
        re.compile("This server does not support reranking"),
        "Give the job a reranking model (data.model), or start the worker with LLAMA_ARGS=--rerank",
    ),
    (
        re.compile(r"\w+ input is not supported"),
        "Give the job a text only, or start the worker with the model's projector: LLAMA_ARGS='--mmproj FILE'",
    ),
)
"""What llama-server must be started for, and how that is done here."""


_MISTAKES: Final = re.compile(
    r"failed to parse (messages|tools)\b|\[json\.exception\.|vector::_m_range_check|unable to generate parser"
    r"|[\s-]*(while executing \w+ at line|error: jinja|jinja exception)|missing tool\b|unsupported content"
    r"|failed to (parse grammar|initialize samplers)|error parsing grammar",
    re.IGNORECASE,
)
"""How a producer's mistake begins that llama-server answers with status 500.

Found by sending it such jobs. What begins otherwise is a mistake of its own.
"""


def decode_refusal(status: int, body: object) -> JobError:
    """Return the error that stands for an error answer of llama-server."""
    error = cast("dict[str, Any]", body).get("error") if isinstance(body, dict) else None
    fields: dict[str, Any] = cast("dict[str, Any]", error) if isinstance(error, dict) else {"message": error}
    message = str(fields.get("message") or f"status {status}")[:LONGEST_WORDS]
    kind = fields.get("type")
    if too_long := _too_long(fields, message):
        return ContextExceededError(too_long, prompt_tokens=count_in(fields, "n_prompt_tokens"))
    if _NO_MEMORY.match(message):
        return OutOfMemoryError(f"llama-server: {message}. Lower GPU_LAYERS, CONTEXT_SIZE or LLM_CONCURRENCY.")
    if status == BUSY or kind == "unavailable_error":
        return EngineUnavailableError(f"llama-server is not ready: {message}")
    remedy = next((f". {remedy}." for sign, remedy in _MISSING if sign.match(message)), "")
    if kind == "invalid_request_error" or status in _REFUSALS or remedy or _MISTAKES.match(message):
        return BadJobError(f"llama-server refuses the job: {message}{remedy}", said=message)
    return EngineRefusedError(f"llama-server answered with status {status}: {message}", said=message)


def _shown(fields: dict[str, Any], name: str) -> str:
    count = count_in(fields, name)
    return "too many" if count is None else str(count)


def _too_long(error: dict[str, Any], message: str) -> str:
    """Say that a text does not fit, and what to do; empty if that is not what llama-server says."""
    if error.get("type") == "exceed_context_size_error":
        return (
            f"The prompt has {_shown(error, 'n_prompt_tokens')} tokens, but a job's context has "
            f"{_shown(error, 'n_ctx')}: shorten the prompt or raise CONTEXT_SIZE."
        )
    return next((advice.format(message) for sign, advice in _TOO_LONG if sign.match(message)), "")
