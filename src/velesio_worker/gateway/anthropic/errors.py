"""Errors as Anthropic writes them."""

from __future__ import annotations

from typing import Any, Final

from velesio_worker.gateway.errors import ApiError

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_SERVERS: Final = 500


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error as Anthropic writes it."""
    usual = "invalid_request_error" if error.status < _SERVERS else "api_error"
    message = error.message
    if error.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"  # by which Claude Code knows that it has to make it shorter
    return {"type": "error", "error": {"type": _TYPES.get(error.status, usual), "message": message}}
