"""The entries of a chat job's stream, as a worker writes them, and what server-sent events say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from hypothesis import strategies as st

from velesio_worker.wire.events import StreamEvent

TEXTS = st.text(max_size=12)


def _named(name: str, arguments: dict[str, str]) -> tuple[str, str]:
    return name, orjson.dumps(arguments).decode()


CALLS = st.lists(
    st.builds(_named, st.text("abc", min_size=1, max_size=3), st.dictionaries(TEXTS, TEXTS, max_size=2)), max_size=3
)
"""Calls of tools, names and arguments."""

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def started(mode: str = "fresh", attempt: int = 1) -> StreamEvent:
    data = {"type": "chat_completion", "attempt": attempt, "worker": "w1", "model": "tiny", "mode": mode, "created": 1}
    return StreamEvent(f"{attempt}-0", "start", data)


def token(delta: dict[str, Any], **more: Any) -> StreamEvent:
    choice = {"delta": delta, "index": 0, "finish_reason": None, **more}
    return StreamEvent("1-1", "token", {"choices": [choice]})


def done(reason: str = "stop", usage: dict[str, Any] | None = USAGE) -> StreamEvent:
    return StreamEvent("1-9", "done", {"finish_reason": reason, "usage": usage, "timings": None})


def call(index: int, arguments: str, name: str | None = None, call_id: str | None = None) -> dict[str, Any]:
    """A delta that goes on with a call; the first one has the name and the id."""
    fragment: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if name is not None:
        fragment["function"]["name"] = name
        fragment |= {"id": call_id, "type": "function"}
    return {"tool_calls": [fragment]}


TWO_CALLS = (
    token(call(0, "", "ls", "c0")),
    token(call(0, '{"a"')),
    token(call(0, ":1}")),
    token(call(1, "{}", "cat", "c1")),
    done("tool_calls"),
)
"""A stream that calls two tools, the first one in pieces."""


def chat_result(
    text: str = "",
    *,
    reasoning: str = "",
    calls: Sequence[tuple[str, str, str]] = (),
    reason: str = "stop",
    usage: dict[str, Any] | None = USAGE,
) -> dict[str, Any]:
    """A chat job's result; ``calls`` are ids, names and arguments."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call_id, name, arguments in calls
        ]
    return {"text": text, "finish_reason": reason, "usage": usage, "timings": None, "message": message}


def entries_of(result: dict[str, Any], cut: Any) -> list[StreamEvent]:
    """The entries that such a result came with, in pieces as ``cut`` cuts its texts."""
    message = result["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    deltas += [{"reasoning_content": piece} for piece in cut(message.get("reasoning_content", ""))]
    deltas += [{"content": piece} for piece in cut(message["content"])]
    for n, one in enumerate(message.get("tool_calls", ())):
        first, *rest = cut(one["function"]["arguments"]) or [""]
        deltas.append(call(n, first, one["function"]["name"], one["id"]))
        deltas += [call(n, piece) for piece in rest]
    return [started(), *map(token, deltas), done(result["finish_reason"], result["usage"])]


def cut_at(places: Iterable[int]) -> Any:
    """Return what cuts a text at some of its places."""

    def cut(text: str) -> list[str]:
        ends = sorted({place % len(text) for place in places} - {0}) if text else []
        return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if text]

    return cut


def deep(levels: int = 400) -> dict[str, Any]:
    """What can be read, and not be written again."""
    inner: dict[str, Any] = {}
    for _ in range(levels):
        inner = {"a": inner}
    return inner


def sse(raw: bytes) -> list[dict[str, Any]]:
    """Return the data of server-sent events, each of which names its type as its event."""
    found: list[dict[str, Any]] = []
    for block in raw.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append(orjson.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def said(frames: Any, events: Iterable[StreamEvent]) -> list[dict[str, Any]]:
    """Return what frames say of a job's entries, to the end."""
    return sse(b"".join([*(frames.feed(0, event) for event in events), frames.end()]))
