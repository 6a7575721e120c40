"""Server-sent events from Redis Streams as they are usually written; run by an interpreter that has what it takes.

Usage: python bench/peer_app.py PORT REDIS_URL RESPONSE READERS. RESPONSE is ``starlette`` (StreamingResponse) or
``sse-starlette`` (EventSourceResponse); READERS ``viewer`` (each viewer has a connection to Redis and reads by itself)
or ``job`` (each job is read once, and its viewers have a queue each).
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedFunctionDecorator=false

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio as aioredis
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

Entry = tuple[bytes, dict[bytes, bytes]]


async def entries_of(redis: Any, key: str) -> AsyncIterator[Entry]:
    """Read a stream to its end."""
    after = b"0"
    while True:
        for _, entries in await redis.xread({key: after}, count=512, block=2000) or ():
            for after, fields in entries:
                yield after, fields
                if fields[b"event"] == b"done":
                    return


class PerViewer:
    """A connection to Redis, and a reader, for each viewer."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def entries(self, job: str) -> AsyncIterator[Entry]:
        redis = aioredis.Redis.from_url(self._url)
        try:
            async for entry in entries_of(redis, f"stream:{job}"):
                yield entry
        finally:
            await redis.aclose()


class PerJob:
    """A reader for each job that is watched, and a queue for each viewer."""

    def __init__(self, url: str) -> None:
        self._redis = aioredis.Redis.from_url(url, max_connections=10_000)  # a hundred, else
        self._viewers: dict[str, set[asyncio.Queue[Entry]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def _read(self, job: str) -> None:
        async for entry in entries_of(self._redis, f"stream:{job}"):
            for queue in self._viewers[job]:
                queue.put_nowait(entry)

    async def entries(self, job: str) -> AsyncIterator[Entry]:
        queue: asyncio.Queue[Entry] = asyncio.Queue()
        if job not in self._viewers:
            self._viewers[job] = {queue}
            self._tasks.add(asyncio.create_task(self._read(job)))
        self._viewers[job].add(queue)
        try:
            while True:
                entry = await queue.get()
                yield entry
                if entry[1][b"event"] == b"done":
                    return
        finally:
            self._viewers[job].discard(queue)


def main() -> None:
    port, url, response, readers = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    source: Any = None

    async def plain(job: str) -> AsyncIterator[bytes]:
        async for entry_id, fields in source.entries(job):
            yield b"id: %b\nevent: %b\ndata: %b\n\n" % (entry_id, fields[b"event"], fields[b"data"])

    async def events(job: str) -> AsyncIterator[dict[str, str]]:
        async for entry_id, fields in source.entries(job):
            yield {"id": entry_id.decode(), "event": fields[b"event"].decode(), "data": fields[b"data"].decode()}

    async def show(request: Request) -> Response:
        nonlocal source
        if source is None:
            source = PerViewer(url) if readers == "viewer" else PerJob(url)
        job = request.path_params["job"]
        if response == "starlette":
            return StreamingResponse(plain(job), media_type="text/event-stream")
        from sse_starlette.sse import EventSourceResponse  # noqa: PLC0415

        return EventSourceResponse(events(job))

    app = Starlette(routes=[Route("/jobs/{job}/events", show)])
    uvicorn.run(
        app, host="127.0.0.1", port=int(port), loop="uvloop", http="httptools", log_level="warning", backlog=4096
    )


if __name__ == "__main__":
    main()
