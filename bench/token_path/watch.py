"""Readers that take note of when each token came: of a Redis Stream, and of an engine's or a proxy's HTTP stream.

Raw sockets: what a reader takes itself is no delay of what it reads.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import hiredis

_HIREDIS: Final[Any] = hiredis  # whose types know commands of one part
_TOKEN: Final = re.compile(rb" (\d+):(\d+)(?::(\d+))?")
ENDS: Final = (b"done", b"error")


class Seen(NamedTuple):
    """A token that came, and in monotonic nanoseconds when it was written, asked for (0: not said) and seen."""

    number: int
    written: int
    asked: int
    seen: int


def tokens_in(text: bytes, seen: int) -> list[Seen]:
    """Return the tokens that a text of the double's holds; what the worker put together is taken apart."""
    return [Seen(int(one[1]), int(one[2]), int(one[3] or 0), seen) for one in _TOKEN.finditer(text)]


def delays(seen: Sequence[Seen]) -> list[float]:
    """Return how long tokens were on their way, in milliseconds."""
    return [(one.seen - one.written) / 1e6 for one in seen]


def faults_in(numbers: Sequence[int], tokens: int) -> str:
    """Say what is wrong with a stream that has to hold the numbers from 0 on, in order; empty if nothing is."""
    if list(numbers) == list(range(tokens)):
        return ""
    missing, there = len(set(range(tokens)) - set(numbers)), set(numbers)
    doubled, strange = len(numbers) - len(there), len(there - set(range(tokens)))
    faults = (
        f"{count} {what}" for count, what in ((missing, "missing"), (doubled, "doubled"), (strange, "strange")) if count
    )
    return ", ".join(faults) or "in a wrong order"


class StreamWatch(asyncio.Protocol):
    """Follows streams by a blocking XREAD.

    Attributes:
        seen: the tokens that came, by job.
        over: set once each stream has ended.
    """

    def __init__(self, jobs: Sequence[str]) -> None:
        self.seen: dict[str, list[Seen]] = {job: [] for job in jobs}
        self.over = asyncio.Event()
        self._after = dict.fromkeys((f"stream:{job}".encode() for job in jobs), b"0-0")
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        command = (b"XREAD", b"COUNT", b"4096", b"BLOCK", b"0", b"STREAMS", *self._after, *self._after.values())
        self._transport.write(_HIREDIS.pack_command(command))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, Exception):
                raise reply
            for key, entries in reply or ():
                self._take(key, entries, now)
            if self._after:
                self._ask()
            else:
                self.over.set()

    def _take(self, key: bytes, entries: list[Any], now: int) -> None:
        seen = self.seen[key.decode().removeprefix("stream:")]
        for entry_id, fields in entries:
            self._after[key] = entry_id
            named = dict(zip(fields[::2], fields[1::2], strict=True))
            if named[b"event"] == b"token":
                seen += tokens_in(named[b"data"], now)
            elif named[b"event"] in ENDS:
                del self._after[key]
                return


@asynccontextmanager
async def watching(port: int, jobs: Sequence[str]) -> AsyncGenerator[StreamWatch]:
    """Follow the streams of jobs, which may not be there yet."""
    loop = asyncio.get_running_loop()
    transport, watch = await loop.create_connection(lambda: StreamWatch(jobs), "127.0.0.1", port)
    try:
        yield watch
    finally:
        transport.close()


class HttpWatch(asyncio.Protocol):
    """Asks for a stream and follows it.

    Attributes:
        seen: the tokens that came.
        over: done once the answer is whole; a failure says why it is not.
    """

    def __init__(self, request: bytes) -> None:
        self.seen: list[Seen] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._left = self._in_body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, data = time.monotonic_ns(), self._left + data
        if not self._in_body:
            _, self._in_body, data = data.partition(b"\r\n\r\n") if b"\r\n\r\n" in data else (b"", b"", data)
        whole, mark, rest = data.rpartition(b"\n\n")
        self.seen += tokens_in(whole, now)
        self._left = rest
        if (mark or rest) and rest.endswith(b"0\r\n\r\n") and not self.over.done():
            self.over.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(exc or ConnectionError(f"the answer is cut: {self._left[-200:]!r}"))


def request(path: str, body: dict[str, Any], token: str = "") -> bytes:
    """Return the bytes of a POST."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {token}\r\n" if token else ""
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(data), data)


async def follow(port: int, what: bytes, count: int) -> list[HttpWatch]:
    """Send a request on so many connections and follow all answers to their ends.

    Raises:
        ConnectionError: an answer was cut.
    """
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: HttpWatch(what), "127.0.0.1", port) for _ in range(count)]
    await asyncio.gather(*[watch.over for _, watch in made])
    return [watch for _, watch in made]
