"""Events of jobs as workers publish them, and chunks as clients read them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import orjson

from velesio_worker.gateway.live import Frames
from velesio_worker.wire.events import DONE, START, TOKEN, StreamEvent

_NUMBERS = count()
USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
TIMINGS = {"cache_n": 3, "prompt_n": 1, "predicted_n": 2}


def event(name: str, data: dict[str, Any]) -> StreamEvent:
    return StreamEvent(f"1-{next(_NUMBERS)}", name, data)


def start(mode: str = "fresh") -> StreamEvent:
    return event(START, {"type": "chat_completion", "attempt": 1, "worker": "w", "model": "tiny", "mode": mode})


def delta(said: dict[str, Any], **more: Any) -> StreamEvent:
    return event(TOKEN, {"choices": [{"delta": said, "index": 0, "finish_reason": None, **more}]})


def piece(text: str, **more: Any) -> StreamEvent:
    return event(TOKEN, {"choices": [{"text": text, "index": 0, "finish_reason": None, **more}]})


def done(reason: str = "stop", **more: Any) -> StreamEvent:
    return event(DONE, {"finish_reason": reason, "usage": USAGE, "timings": TIMINGS, **more})


ROLE = delta({"role": "assistant", "content": None})
"""What llama-server begins each chat with."""


def said(frames: Frames, events: Iterable[StreamEvent | tuple[int, StreamEvent]]) -> list[Any]:
    """Feed events, with the index of their job or of the only one; return the chunks to the end."""
    out = b""
    for one in events:
        index, fed = one if isinstance(one, tuple) else (0, one)
        out += frames.feed(index, fed)
    return chunks(out + frames.end())


def chunks(out: bytes) -> list[Any]:
    """Read server-sent events strictly: each is one line of data, and nothing else."""
    assert out.endswith(b"\n\n")
    read: list[Any] = []
    for block in out.removesuffix(b"\n\n").split(b"\n\n"):
        assert block.startswith(b"data: "), block
        assert b"\n" not in block, block
        data = block.removeprefix(b"data: ")
        read.append("[DONE]" if data == b"[DONE]" else orjson.loads(data))
    return read
