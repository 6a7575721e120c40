"""The events of a streamed message, and the message that is sent whole."""

from __future__ import annotations

import secrets
from typing import Any, Final

from velesio_worker.gateway.anthropic.errors import error_body
from velesio_worker.gateway.errors import ApiError, reads_results
from velesio_worker.gateway.pieces import PartFrames, Piece, cached, count, frame, pieces_of_result
from velesio_worker.wire.fields import json_object

_REASONS: Final = {"length": "max_tokens", "tool_calls": "tool_use"}
_UNKNOWN: Final = dict.fromkeys(
    ("cache_creation", "inference_geo", "output_tokens_details", "server_tool_use", "service_tier")
)
"""What a message's usage has beside the counts, and what means nothing here."""


@reads_results
def message_of(model: str, result: dict[str, Any]) -> dict[str, Any]:
    """Return the message of a job's result.

    Args:
        model: the model that was asked for.
        result: the result of a chat job.

    Raises:
        ApiError: the job was cancelled.
    """
    blocks = [_block(piece) for piece in pieces_of_result(result)]
    called = any(block["type"] == "tool_use" for block in blocks)
    return {
        **_message(model),
        "content": blocks,
        "stop_reason": _reason(result, called),
        "usage": {**_usage(result), **_UNKNOWN},
    }


class MessageFrames(PartFrames):
    """Writes a job's entries as events of a message.

    Args:
        model: the model that was asked for.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model
        self._block = -1

    def error(self, error: ApiError) -> bytes:
        """Return the event that ends a message that failed."""
        return frame(error_body(error))

    def _begin(self) -> bytes:
        return frame({"type": "message_start", "message": _message(self._model)})

    def _open(self, piece: Piece) -> bytes:
        self._block += 1
        return self._event("content_block_start", content_block=_begun(piece))

    def _grow(self, piece: Piece) -> bytes:
        match piece.kind:
            case "reasoning":
                delta = {"type": "thinking_delta", "thinking": piece.text}
            case "text":
                delta = {"type": "text_delta", "text": piece.text}
            case "call":
                delta = {"type": "input_json_delta", "partial_json": piece.text}
        return self._event("content_block_delta", delta=delta)

    def _close(self) -> bytes:
        return self._event("content_block_stop")

    def _finish(self, done: dict[str, Any]) -> bytes:
        delta = {"stop_reason": _reason(done, bool(self._calls)), "stop_sequence": None}
        return frame({"type": "message_delta", "delta": delta, "usage": _usage(done)}) + frame({"type": "message_stop"})

    def _event(self, kind: str, **more: Any) -> bytes:  # noqa: ANN401 (any JSON)
        return frame({"type": kind, "index": self._block, **more})


def _message(model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {**_usage({}), **_UNKNOWN},
    }


def _begun(piece: Piece) -> dict[str, Any]:
    match piece.kind:
        case "reasoning":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "text":
            return {"type": "text", "text": "", "citations": None}
        case "call":
            call_id = piece.id or f"toolu_{secrets.token_hex(12)}"
            return {"type": "tool_use", "id": call_id, "name": piece.name, "input": {}, "caller": {"type": "direct"}}


def _block(piece: Piece) -> dict[str, Any]:
    match piece.kind:
        case "reasoning":
            return {**_begun(piece), "thinking": piece.text}
        case "text":
            return {**_begun(piece), "text": piece.text}
        case "call":
            # one that was cut off, of which the stop reason tells, has none
            return {**_begun(piece), "input": json_object(piece.text.encode())}


def _reason(done: dict[str, Any], called: bool) -> str:  # noqa: FBT001
    reason = _REASONS.get(str(done.get("finish_reason")), "end_turn")
    return "tool_use" if called and reason == "end_turn" else reason


def _usage(done: dict[str, Any]) -> dict[str, Any]:
    """Return the usage; to Anthropic what was in the cache is not among the tokens of the input."""
    known = cached(done)
    return {
        "input_tokens": max(count(done, "prompt_tokens") - known, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": known,
        "output_tokens": count(done, "completion_tokens"),
    }
