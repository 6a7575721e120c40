"""A double of llama-server, to be run as a process: its bytes, one write for each token, at a pace or flat out.

A token's text is `` <number>:<written>``, the first one's `` 0:<written>:<asked>``, in monotonic nanoseconds: when it
was written, and when the request had been read.

The tokens of all streams are written at the same moments, as those of all slots of a llama-server come out of one
batch; ``spread``: evenly over the time between two, as those of as many servers would be. Either way it does not
depend on when requests come: whoever sends all at once would be given all at once, and has less to wake up for.

Usage: python engine.py PORT RATE SLOTS [PHASE]. RATE: tokens a second of each stream; 0: as fast as they are taken.
PHASE: ``batch`` or ``spread``.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import re
import secrets
import sys
import time
from contextlib import suppress
from typing import Any, Final

TICK_SECONDS: Final = 0.0005
_GOLDEN: Final = 0.6180339887498949
"""Multiples of it, less their whole parts, are evenly spread however many there are."""

BURST: Final = 16
"""So many tokens a stream writes at a time where it has no pace."""

_MARKER: Final = f"<__media_{secrets.token_hex(16)}__>"
"""Drawn anew at each start, as llama-server does."""

_LENGTH: Final = re.compile(rb"(?i)content-length: *(\d+)")
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_TOKEN: Final = (
    b'data: {"index":0,"content":" %b","tokens":[%d],"stop":false,"id_slot":-1,"tokens_predicted":%d,'
    b'"tokens_evaluated":7}\n\n'
)
_DELTA: Final = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" %b"}}],"created":1,"id":"chatcmpl-1",'
    b'"model":"double","object":"chat.completion.chunk"}\n\n'
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(document: dict[str, Any]) -> bytes:
    return _chunk(b"data: " + json.dumps(document).encode() + b"\n\n")


def _answer(document: dict[str, Any] | None) -> bytes:
    body = json.dumps(document or {"error": {"message": "no such route"}}).encode()
    status = b"200 OK" if document else b"404 Not Found"
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class Stream:
    """One generation.

    Args:
        wire: whose it is.
        tokens: how many it has.
        chat: whether it is told in OpenAI's form.
    """

    def __init__(self, wire: Wire, tokens: int, *, chat: bool) -> None:
        self.wire = wire
        self.number = 0
        self._tokens = tokens
        self._chat = chat
        self.asked = time.monotonic_ns()
        wire.transport.write(_HEAD)

    @property
    def over(self) -> bool:
        return self.number >= self._tokens or self.wire.lost

    def write(self) -> None:
        """Write the next token, and what follows upon the last."""
        number, now = self.number, time.monotonic_ns()
        text = b"%d:%d" % (number, now) if number else b"0:%d:%d" % (now, self.asked)
        self.number += 1
        self.wire.transport.write(
            _chunk(_DELTA % text if self._chat else _TOKEN % (text, number, number + 1)),
        )
        if self.number == self._tokens:
            self._end()

    def _end(self) -> None:
        timings = {"prompt_n": 7, "prompt_ms": 1.0, "predicted_n": self._tokens, "predicted_ms": 1.0}
        if self._chat:
            about = {"created": 1, "id": "chatcmpl-1", "model": "double", "object": "chat.completion.chunk"}
            usage = {"prompt_tokens": 7, "completion_tokens": self._tokens, "total_tokens": self._tokens + 7}
            end = _event(about | {"choices": [{"finish_reason": "length", "index": 0, "delta": {}}]})
            end += _event(about | {"choices": [], "usage": usage, "timings": timings}) + _chunk(b"data: [DONE]\n\n")
        else:
            last: dict[str, Any] = {
                "index": 0,
                "content": "",
                "tokens": [],
                "stop": True,
                "stop_type": "limit",
                "id_slot": -1,
            }
            end = _event(last | {"tokens_predicted": self._tokens, "tokens_evaluated": 7, "timings": timings})
        self.wire.transport.write(end + b"0\r\n\r\n")


def first_moment(now: float, gap: float, number: int) -> float:
    """Return when a stream's first token is due: the same moments for all of number 0, evenly spread ones for others.

    Args:
        now: the time, in seconds.
        gap: the time between two tokens of a stream, in seconds.
        number: which stream, for its phase.
    """
    phase = gap * (number * _GOLDEN % 1)
    return math.ceil((now - phase) / gap) * gap + phase


class Pace:
    """Writes the tokens of all streams when they are due; whose reader does not keep up waits.

    Args:
        rate: tokens a second of each; 0: no pause.
        spread: whether each stream has moments of its own.
    """

    def __init__(self, rate: float, *, spread: bool = False) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._spread = spread
        self._begun = 0
        self._due: list[tuple[float, int, Stream]] = []
        self._count = 0
        self._set: asyncio.Handle | None = None

    def begin(self, stream: Stream) -> None:
        """Have a stream's tokens written, from its next moment on."""
        now = asyncio.get_running_loop().time()
        self._begun += 1
        if not self._gap:
            self.add(stream, now)
            return
        self.add(stream, first_moment(now, self._gap, self._begun if self._spread else 0))

    def add(self, stream: Stream, at: float) -> None:
        """Have a stream's next token written at a moment of the loop's time."""
        self._count += 1
        heapq.heappush(self._due, (at, self._count, stream))
        if self._set is None:
            self._wait()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._due:
            self._set = None
        elif self._gap:
            self._set = loop.call_at(max(self._due[0][0], loop.time() + TICK_SECONDS), self._tick)
        else:
            self._set = loop.call_soon(self._tick)

    def _tick(self) -> None:
        now, ready = asyncio.get_running_loop().time(), list[tuple[float, Stream]]()
        while self._due and self._due[0][0] <= now + TICK_SECONDS:
            due, _, stream = heapq.heappop(self._due)
            ready.append((due, stream))
        self._set = asyncio.get_running_loop().call_soon(int)  # so that add() does not set a second one
        for due, stream in ready:
            for _ in range(1 if self._gap else BURST):
                if stream.over or stream.wire.full:
                    break
                stream.write()
            if not stream.over and stream.wire.full:
                stream.wire.waiting = (due, stream)
            elif not stream.over:
                self.add(stream, due + self._gap)
        self._wait()


class Wire(asyncio.Protocol):
    """A connection."""

    def __init__(self, pace: Pace, slots: int) -> None:
        self._pace = pace
        self._slots = slots
        self._read = b""
        self.full = self.lost = False
        self.waiting: tuple[float, Stream] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's)
        self.lost = True

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.waiting is not None:
            (due, stream), self.waiting = self.waiting, None
            self._pace.add(stream, due)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:
            head, _, rest = self._read.partition(b"\r\n\r\n")
            found = _LENGTH.search(head)
            length = int(found.group(1)) if found else 0
            if len(rest) < length:
                return
            self._read = rest[length:]
            self._serve(head.split(b" ")[1].partition(b"?")[0].decode(), rest[:length])

    def _serve(self, path: str, body: bytes) -> None:
        chat = path.endswith("chat/completions")
        if chat or path == "/completion":
            asked = json.loads(body)
            names = ("n_predict", "max_tokens", "max_completion_tokens")
            tokens = next((asked[name] for name in names if asked.get(name) is not None), 100)
            self._pace.begin(Stream(self, tokens, chat=chat))
            return
        documents: dict[str, dict[str, Any]] = {
            "/health": {"status": "ok"},
            "/props": {
                "default_generation_settings": {"n_ctx": 4096},
                "total_slots": self._slots,
                "model_path": "double.gguf",
                "media_marker": _MARKER,
            },
        }
        self.transport.write(_answer(documents.get(path)))


async def main() -> None:
    port, rate, slots, *phase = sys.argv[1:]
    pace = Pace(float(rate), spread=phase == ["spread"])
    server = await asyncio.get_running_loop().create_server(
        lambda: Wire(pace, int(slots)), "127.0.0.1", int(port), backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    with suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(main())
