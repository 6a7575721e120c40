"""The response object, and the items of its output as they are made."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

from velesio_worker.gateway.pieces import Piece, cached, count
from velesio_worker.gateway.responses.request import ResponsesRequest

_PREFIX: Final = {"reasoning": "rs", "text": "msg", "call": "fc"}


class Item:
    """An item of the output while it is made.

    Args:
        first: the first piece of it.
        base: what its ids are made of.
        index: its place in the output.
    """

    def __init__(self, first: Piece, base: str, index: int) -> None:
        self.kind = first.kind
        self.index = index
        self.id = f"{_PREFIX[first.kind]}_{base}{index:04x}"
        self._call = {"call_id": first.id or f"call_{base}{index:04x}", "name": first.name}
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        """What it says so far."""
        return "".join(self._texts)

    @property
    def logprobs(self) -> list[dict[str, Any]]:
        """The log probabilities so far."""
        return self._logprobs

    def grow(self, piece: Piece) -> None:
        """Add a piece."""
        self._texts.append(piece.text)
        self._logprobs += piece.logprobs

    def part(self, *, empty: bool = False) -> dict[str, Any]:
        """Return the one part of its content, or of the summary of a reasoning."""
        text = "" if empty else self.text
        if self.kind == "reasoning":
            return {"type": "summary_text", "text": text}
        return {
            "type": "output_text",
            "text": text,
            "annotations": [],
            "logprobs": [] if empty else list(self._logprobs),
        }

    def written(self, status: str) -> dict[str, Any]:
        """Return the item; one that is ``in_progress`` without what it says."""
        begun = status == "in_progress"
        if self.kind == "call":
            said = "" if begun else self.text
            return {"id": self.id, "type": "function_call", "status": status, **self._call, "arguments": said}
        parts = [] if begun else [self.part()]
        if self.kind == "reasoning":
            return {"id": self.id, "type": "reasoning", "summary": parts}
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": parts}


class Answer:
    """The response of one request, as far as it is made.

    Args:
        body: the request.

    Attributes:
        items: the items of its output.
    """

    def __init__(self, body: ResponsesRequest) -> None:
        self.base = secrets.token_hex(16)
        self.items: list[Item] = []
        self._asked = _asked(body)
        self._created = int(time.time())

    def open(self, piece: Piece) -> Item:
        """Begin an item."""
        self.items.append(Item(piece, self.base, len(self.items)))
        return self.items[-1]

    def written(
        self, status: str, done: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the response.

        Args:
            status: ``in_progress``, ``completed``, ``incomplete`` or ``failed``.
            done: the data of the job's last entry, or its result.
            error: what went wrong.
        """
        last = "completed" if status == "completed" else "incomplete"
        ends = ["completed"] * (len(self.items) - 1) + [last]
        return {
            "id": f"resp_{self.base}",
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            **self._asked,
            "output": [item.written(end) for item, end in zip(self.items, ends, strict=False)],
            "usage": _usage(done) if done and done.get("usage") else None,
        }


def status_of(done: dict[str, Any]) -> str:
    """Return the status of a response whose job ended like that."""
    return "incomplete" if done.get("finish_reason") == "length" else "completed"


def _usage(done: dict[str, Any]) -> dict[str, Any]:
    taken, made = count(done, "prompt_tokens"), count(done, "completion_tokens")
    return {
        "input_tokens": taken,
        "input_tokens_details": {"cached_tokens": cached(done), "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": taken + made,
    }


def _asked(body: ResponsesRequest) -> dict[str, Any]:
    """Return what a response repeats of its request; where clients want a value and there is none, OpenAI's own."""
    reasoning, text = body.reasoning, body.text
    tools = [
        {"type": "function", **{name: tool.get(name) for name in ("name", "description", "parameters", "strict")}}
        for tool in body.functions()
    ]
    return {
        "model": body.model,
        "previous_response_id": None,
        "instructions": body.instructions,
        "tools": tools,
        "tool_choice": body.tool_choice or "auto",
        "truncation": "disabled",
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "text": {"format": (text and text.format) or {"type": "text"}},
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": body.top_logprobs or 0,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "store": False,
        "background": False,
        "service_tier": "default",
        "metadata": body.metadata or {},
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        "user": None,
    }
