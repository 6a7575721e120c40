"""The floor: the least that relays streams to Redis, to be run as a process. It checks nothing and survives nothing.

aiohttp, orjson, XADDs with explicit ids that hiredis packs, one write for all that gathered while the last was under
way. Usage: python floor.py ENGINE_URL REDIS_PORT; each line of its input is a JSON object with ``ids`` and ``tokens``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

import aiohttp
import hiredis
import orjson

HIREDIS: Any = hiredis  # whose types know commands of one part
Entry = tuple[bytes, bytes, bytes, bytes]
"""A key, an id, an event and its data."""


class Replies(asyncio.Protocol):
    """Redis, which answers one batch after the other."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._missing = 0
        self._whole = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, Exception):
                sys.exit(f"Redis answers {reply}")
            self._missing -= 1
        if not self._missing:
            self._whole.set()

    async def send(self, commands: list[bytes]) -> None:
        """Send commands and wait for all replies."""
        self._whole.clear()
        self._missing = len(commands)
        self._transport.write(b"".join(commands))
        await self._whole.wait()


class Floor:
    """Relays jobs."""

    def __init__(self, session: aiohttp.ClientSession, url: str, redis: Replies) -> None:
        self._session, self._url, self._redis = session, url, redis
        self._waiting: list[Entry] = []
        self._bell = asyncio.Event()

    async def flush(self) -> None:
        """Write what waits, for ever."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            batch, self._waiting = self._waiting, []
            if batch:
                await self._redis.send(
                    [
                        HIREDIS.pack_command((b"XADD", key, entry, b"event", event, b"data", data))
                        for key, entry, event, data in batch
                    ]
                )

    async def relay(self, job: str, tokens: int) -> None:
        """Relay one job."""
        key, number, left = f"stream:{job}".encode(), 0, b""
        body = {"prompt": "go", "n_predict": tokens, "stream": True}
        async with self._session.post(f"{self._url}/completion", json=body) as response:
            async for piece in response.content.iter_any():
                *events, left = (left + piece).split(b"\n\n")
                for event in events:
                    number += 1
                    chunk = orjson.loads(event[6:])
                    choice = {"text": chunk["content"], "index": 0, "finish_reason": None}
                    name = b"done" if chunk["stop"] else b"token"
                    self._waiting.append((key, b"1-%d" % number, name, orjson.dumps({"choices": [choice]})))
                self._bell.set()


async def main() -> None:
    url, port = sys.argv[1:]
    loop = asyncio.get_running_loop()
    _, redis = await loop.create_connection(Replies, "127.0.0.1", int(port))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        floor = Floor(session, url, redis)
        flushing = asyncio.create_task(floor.flush())
        while line := await asyncio.to_thread(sys.stdin.readline):
            wanted = json.loads(line)
            await asyncio.gather(*[floor.relay(job, wanted["tokens"]) for job in wanted["ids"]])
        flushing.cancel()


if __name__ == "__main__":
    with suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(main())
