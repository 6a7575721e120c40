"""What a WebUI says instead of an answer, and which error of a job that is."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from velesio_worker.wire.errors import EngineRefusedError, JobError, OutOfMemoryError

NAME: Final = "the WebUI"
_UNAUTHORISED: Final = frozenset({401, 403})
_SHOWN: Final = 300

_NO_MEMORY: Final = re.compile(
    r"([\w.]+\.)?OutOfMemoryError\b"
    r"|((CUDA|HIP|XPU|MPS) (backend |error: )?)?out of memory\b"  # torch, of each kind of GPU
    r"|(\[enforce fail at [^\]]{1,200}\] ?\w*\. ?)?DefaultCPUAllocator: (can't allocate|not enough) memory\b"
    r"|(\[Errno 12\] )?cannot allocate memory\b"
    r"|ggml\w*: .{0,200}?(out of memory|failed to allocate)\b"  # sd-server
    r"|failed to allocate\b",
    re.IGNORECASE,
)
"""How an error begins that is one of memory; further on it may repeat a job's texts."""

_OF_MEMORY: Final = frozenset({"RuntimeError", "AcceleratorError", "OSError"})
"""Exceptions that may be about memory: others begin with whatever a job says."""


def refusal(status: int, answer: object) -> JobError:
    """Return the exception that stands for an answer that is an error.

    AUTOMATIC1111 says ``{"error", "detail", "errors"}``, Forge ``message`` for ``errors``, FastAPI itself ``detail``
    alone, which may be a list.

    Args:
        status: the HTTP status.
        answer: the body, decoded; None if it is no JSON.
    """
    if status in _UNAUTHORISED:
        return EngineRefusedError(
            f"{NAME} wants a user and a password (--api-auth): put them into SD_SERVER_URL, as "
            "http://user:password@host:port"
        )
    fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    words = [_text(word) for name in ("error", "detail", "errors", "message") if (word := fields.get(name))]
    whole = ": ".join(words) or "nothing more"
    said = whole[:_SHOWN]
    if _lacks_memory(fields):
        return OutOfMemoryError(f"{NAME} ran out of memory: {said}")
    kind = f"{words[0]}: " if words and words[0].isidentifier() else ""  # an exception's name, which repeats nothing
    return EngineRefusedError(f"{NAME} answered with status {status}: {said}", said=said.removeprefix(kind))


def _lacks_memory(fields: dict[str, Any]) -> bool:
    """Whether an error says, in the server's own words, that there is too little memory."""
    kind: object = fields.get("error")  # an exception's name, or else the words themselves
    said: object = fields.get("errors") or fields.get("message")
    if not kind:
        said = said or fields.get("detail")
    elif not isinstance(kind, str) or kind not in _OF_MEMORY:
        said = kind
    return isinstance(said, str) and _NO_MEMORY.match(said) is not None


def is_passing(error: JobError) -> bool:
    """Whether an error is one of a server that starts, or of a proxy before one."""
    return isinstance(error, EngineRefusedError) and str(error).startswith(f"{NAME} answered with status 5")


def _text(value: object) -> str:
    if isinstance(value, list):  # FastAPI's, of what is wrong
        return "; ".join(_problem(problem) for problem in cast("list[object]", value))
    return str(value)


def _problem(problem: object) -> str:
    if not isinstance(problem, dict):
        return str(problem)
    fields = cast("dict[str, Any]", problem)
    path: Any = fields.get("loc")
    place = ".".join(str(step) for step in cast("list[object]", path)) if isinstance(path, list) else ""
    return f"{place}: {fields.get('msg')}"
