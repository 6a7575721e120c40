"""Answers that are none: one exception, which each dialect writes in its own form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from velesio_worker.wire.errors import BadJobError, JobError

_MEANING: Final[Mapping[str, tuple[int, str]]] = {
    "bad_job": (400, "invalid_request"),
    "unknown_type": (400, "invalid_request"),
    "context_exceeded": (400, "context_length_exceeded"),
    "too_large": (413, "too_large"),
    "internal": (500, "internal_error"),
    "engine_error": (502, "engine_error"),
    "engine_crashed": (502, "engine_crashed"),
    "engine_stalled": (502, "engine_stalled"),
    "worker_lost": (502, "worker_lost"),
    "engine_unavailable": (503, "engine_unavailable"),
    "no_worker": (503, "no_worker"),
    "no_capacity": (503, "no_capacity"),
    "out_of_memory": (503, "out_of_memory"),
    "expired": (504, "expired"),
    "timeout": (504, "timeout"),
}
"""What the error codes of jobs (docs/reference/protocol.md) are in HTTP: status, and the code that is told."""

_FIELD: Final = re.compile(r"data\.([\w.]{1,200}): ")
"""How a worker says which parameter of a job is wrong."""

_BRANCHES: Final = frozenset({"bool", "bytes", "float", "int", "str"})

P = ParamSpec("P")
T = TypeVar("T")

UNREADABLE: Final = (LookupError, TypeError, ValueError, AttributeError)
"""What comes of reading JSON that is not as it has to be."""

RETRY_SECONDS: Final = 5
"""When it is worth to ask again for what may pass and says nothing of when."""


class ApiError(Exception):
    """A request that gets no answer.

    Attributes:
        status: the HTTP status.
        code: one word for programs, such as ``model_not_found``.
        message: one sentence for people, which names what to change.
        param: the field at fault, as a path such as ``messages.0.content``.
        retry_after: when to ask again, in seconds.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)


def api_error(error: JobError, *, data: str = "") -> ApiError:
    """Return the error of a job that failed; ``data`` is what stands before its parameters in the request's body."""
    status, code = _MEANING.get(error.code, (500, "internal_error"))
    message, param = str(error), None
    if error.code == BadJobError.code and (field := _FIELD.match(message)):
        message, param = data + message.removeprefix("data."), data + field[1]
    return ApiError(status, code, message, param=param, retry_after=RETRY_SECONDS if status == 503 else None)  # noqa: PLR2004


def queue_is_away() -> ApiError:
    """Return the error of what Redis did not answer."""
    return ApiError(
        503, "queue_unavailable", "The queue does not answer just now: try again.", retry_after=RETRY_SECONDS
    )


def unreadable(error: Exception) -> ApiError:
    """Return the error of an entry, or a result, that no worker wrote."""
    return ApiError(502, "engine_error", f"The answer is not in its usual form ({type(error).__name__}).")


def reads_results(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function that makes an answer of results tell of those that no worker wrote: ApiError, 502."""

    @wraps(function)
    def reads(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except UNREADABLE as error:
            raise unreadable(error) from None

    return reads


def invalid(error: ValidationError) -> ApiError:
    """Return the error of a body that is not as it has to be: its first mistake, with the field."""
    mistakes = error.errors(include_url=False, include_context=False)
    worst = max(mistakes, key=lambda mistake: len(_path(mistake)))  # of a union's branches the one that got furthest
    param = ".".join(_path(worst))
    message = worst["msg"].removeprefix("Value error, ")
    found = _shown(worst["input"]) if worst["type"] != "missing" else ""
    return ApiError(400, "invalid_request", f"{param or 'the body'}: {message}{found}", param=param or None)


def _path(mistake: ErrorDetails) -> list[str]:
    """Return the path of a field, without the names of branches that pydantic puts between."""
    return [str(part) for part in mistake["loc"] if isinstance(part, int) or _is_field(part)]


def _is_field(part: str) -> bool:
    """Whether it is no branch of a union: a type, such as ``list[int]``, or a model of our own."""
    return part.isidentifier() and part not in _BRANCHES and not part[0].isupper()


_SHOWN: Final = 60


def _shown(value: Any) -> str:  # noqa: ANN401 (whatever the client sent)
    if isinstance(value, (dict, list)):
        return ""
    text = repr(value)
    return f" (found {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'})"
