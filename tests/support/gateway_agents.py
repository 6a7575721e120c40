"""The routes of a dialect over HTTP, without the rest of the gateway."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from tests.doubles.fleet import CALLER
from tests.support.ports import free_port
from velesio_worker.gateway.caller import Caller


@dataclass(frozen=True)
class Front:
    """What routes need of a gateway: jobs, or a double of them."""

    jobs: Any
    caller: Caller = CALLER

    def caller_of(self, request: Request) -> Caller:
        assert request.url.path
        return self.caller


@contextmanager
def served(routes: Sequence[Route], *used: AbstractAsyncContextManager[Any], limit: float = 30) -> Generator[str]:
    """Serve routes in a thread of their own; yields their address. What they use is ended with them."""

    @asynccontextmanager
    async def alive(_: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for one in used:
                await stack.enter_async_context(one)
            yield

    port = free_port()
    app = Starlette(routes=routes, lifespan=alive)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", loop="asyncio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + limit
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline, "the routes were not served in time"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(limit)


def wait_until(condition: Any, what: str, limit: float = 20) -> None:
    """Wait until a condition holds that another thread brings about."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what} took more than {limit} s"
        time.sleep(0.01)
