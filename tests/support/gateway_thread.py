"""A gateway's routes, served by a thread of the tests' process in front of real workers."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import BaseRoute

from tests.support.scripted_worker import EachByItself
from velesio_worker.client import Client
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.jobs import Jobs


@dataclass(frozen=True)
class _State:
    jobs: Jobs

    def caller_of(self, request: Request) -> Caller:
        return Caller(None, b"key", request.headers.get("x-session-id"))


@contextlib.contextmanager
def gateway_thread(
    redis_url: str, routes: Callable[[Any], Sequence[BaseRoute]], *, queue_name: str = "llama_queue"
) -> Generator[str]:
    """Serve routes; yields their URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        servers: list[uvicorn.Server] = []

        async def serve() -> None:
            async with Client(redis_url, queue_name=queue_name) as client:
                jobs = Jobs(client, EachByItself(client), max_queue=100, new_id=lambda _: uuid.uuid4().hex)
                app = Starlette(routes=routes(_State(jobs)))
                config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None)
                servers.append(uvicorn.Server(config))
                await servers[0].serve([listener])

        thread = threading.Thread(target=anyio.run, args=(serve,), name="gateway")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for server in servers:
                server.should_exit = True
            thread.join(60)
