"""Errors in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from velesio_worker.gateway.errors import ApiError

_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_SERVER: Final = 500


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error as clients of OpenAI's API read it."""
    kind = "server_error" if error.status >= _SERVER else _TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def refused(param: str, message: str) -> ApiError:
    """Return the error of a field that cannot be obeyed."""
    return ApiError(400, "invalid_request", f"{param}: {message}", param=param)


def check_end(finish_reason: str) -> str:
    """Return how an answer ended.

    Raises:
        ApiError: somebody cancelled it; it is no whole answer.
    """
    if finish_reason == "cancelled":
        raise ApiError(499, "cancelled", "The answer was cancelled before its end.")
    return finish_reason


def check_start(mode: object, *, said: bool) -> None:
    """Check that an attempt that begins can be told to a client that has heard of the one before.

    Raises:
        ApiError: it begins anew, and what was said cannot be taken back.
    """
    if said and mode == "restart":
        raise ApiError(502, "worker_lost", "The answer was lost in the middle and would begin anew: ask again.")
