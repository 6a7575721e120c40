"""A gateway's rooms over HTTP within a test, on a real queue."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from velesio_worker.client import Client
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.jobs import Jobs
from velesio_worker.wire.events import StreamEvent


class Followed:
    """Follows streams one by one, with a connection for each."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def watch(self, job_id: str, after: str = "0-0") -> AsyncGenerator[Sequence[StreamEvent], None]:
        async for event in self._client.events(job_id, after):
            yield [event]


@dataclass
class Rooms:
    """What routes need of the gateway: a caller is whom the header ``x-api-key`` names."""

    jobs: Jobs

    def caller_of(self, request: Request) -> Caller:
        """Return who sent a request."""
        name = request.headers.get("x-api-key")
        return Caller(name, (name or "").encode())


@asynccontextmanager
async def room(
    redis_url: str, routes: Callable[[Rooms], list[Route]], kind: str
) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Have a room of the gateway open while the block runs; it begins once a worker lives for jobs of ``kind``."""
    async with Client(redis_url) as client:
        jobs = Jobs(client, Followed(client), max_queue=100, new_id=lambda _: uuid.uuid4().hex)
        with anyio.fail_after(100):
            while not any(kind in worker.kinds for worker in await client.workers()):
                await anyio.sleep(0.02)
        transport = httpx.ASGITransport(Starlette(routes=list(routes(Rooms(jobs)))))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=120) as http:
            yield http
