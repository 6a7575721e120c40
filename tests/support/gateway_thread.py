"""The gateway's application, served by a thread of the tests' process in front of real workers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, Generator

import anyio
import httpx
import uvicorn

from tests.support.servers import wait_until
from velesio_worker.client import Client
from velesio_worker.gateway.app import Application, build
from velesio_worker.gateway.connection import connection_class
from velesio_worker.gateway.server import listen
from velesio_worker.gateway.settings import GatewaySettings


class _Server(uvicorn.Server):
    """uvicorn's server, which would wait for streams that have no end."""

    def __init__(self, config: uvicorn.Config, app: Application) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.drain()
        await super().shutdown(sockets)


@contextlib.contextmanager
def gateway_thread(
    redis_url: str, *, queue_name: str = "llama_queue", api_tokens: str | None = None, port: int = 0
) -> Generator[str]:
    """Serve a gateway, without tokens unless some are given; yields its URL."""
    settings = GatewaySettings(redis_url=redis_url, queue_name=queue_name, api_tokens=api_tokens)
    connections = connection_class(settings.body_seconds)
    app = build(settings)
    config = uvicorn.Config(app, interface="asgi3", http=connections, ws="none", log_config=None)
    server = _Server(config, app)
    with listen("127.0.0.1", port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([listener],), name="gateway")
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the gateway is served")
            assert thread.is_alive()
            yield url
        finally:
            server.should_exit = True
            thread.join(60)


@contextlib.asynccontextmanager
async def gateway_client(redis_url: str, kind: str) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve a gateway and yield a client of it, once a worker lives for jobs of ``kind``."""
    async with Client(redis_url) as client:
        with anyio.fail_after(100):
            while not any(kind in worker.kinds for worker in await client.workers()):
                await anyio.sleep(0.02)
    with gateway_thread(redis_url) as url:
        async with httpx.AsyncClient(base_url=url, timeout=120) as http:
            yield http
