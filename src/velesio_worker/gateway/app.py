"""The gateway, composed: start reading here."""

from __future__ import annotations

from asyncio import Event
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import anyio
import orjson
from prometheus_client import disable_created_metrics
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from velesio_worker.client.fanout import Hub
from velesio_worker.gateway import native_routes
from velesio_worker.gateway.anthropic import routes as anthropic
from velesio_worker.gateway.app_state import STATE, Gateway
from velesio_worker.gateway.ids import new_job_id
from velesio_worker.gateway.jobs import Jobs
from velesio_worker.gateway.limits import RateLimits
from velesio_worker.gateway.metrics import FanOutFigures
from velesio_worker.gateway.middleware import Bodies, Cors, Guard, Identify, error_body
from velesio_worker.gateway.openai import routes as openai
from velesio_worker.gateway.openapi import Operation, document
from velesio_worker.gateway.page import routes as page
from velesio_worker.gateway.queue_client import QueueClient
from velesio_worker.gateway.responses import routes as responses
from velesio_worker.gateway.routing import Room, Rooms
from velesio_worker.gateway.sdapi import routes as sdapi
from velesio_worker.gateway.settings import GatewaySettings, origins_of
from velesio_worker.gateway.text import routes as text
from velesio_worker.gateway.tokens import Tokens, read_tokens

_EXPOSED = ("location", "retry-after", "x-request-id")


_DIALECTS: Final = (
    (openai, "/v1"),
    (responses, "/v1/responses"),
    (anthropic, "/v1/messages"),
    (sdapi, "/sdapi/v1"),
    (text, "/completion"),
)
"""The dialects, each with the path below which what there is not is told in its form."""


def rooms_of(gateway: Gateway) -> list[Room]:
    """Return the rooms, the gateway's own last: what is nobody's is told in its form."""
    dialects = [Room(room.routes(gateway), room.error_body, prefix) for room, prefix in _DIALECTS]
    return [*dialects, Room(page.routes(), error_body), Room(native_routes.routes(), error_body)]


def operations() -> Sequence[Operation]:
    """Return what all rooms offer to programs, for ``/openapi.json``; the page is for people."""
    return [operation for room, _ in _DIALECTS for operation in room.OPERATIONS] + [*native_routes.OPERATIONS]


def build(settings: GatewaySettings) -> Application:
    """Return the gateway as an ASGI application; what it uses is begun and ended with its lifespan."""
    disable_created_metrics()  # they would double the number of series
    client = QueueClient(settings.redis_url, queue_name=settings.queue_name)
    hub = Hub(settings.redis_url)
    jobs = Jobs(client, hub, max_queue=settings.max_queue, new_id=new_job_id)
    return Application(Gateway(settings, client, jobs, hub, Event()), [client, hub])


class Application:
    """The gateway as an ASGI application.

    Args:
        gateway: what its routes share.
        parts: what is entered as it begins, and left in the other order as it ends.
    """

    def __init__(self, gateway: Gateway, parts: Sequence[Any] = ()) -> None:
        self.gateway = gateway
        self._parts = parts
        self._lifespan = Router(lifespan=self._alive)
        self._app = self._layers(Rooms([_openapi_room(), *rooms_of(gateway)]))

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request, or begin and end (the lifespan of ASGI)."""
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        scope.setdefault("state", {})[STATE] = self.gateway
        return self._app(scope, receive, send)

    def drain(self) -> None:
        """Take note that the gateway ends: viewers are told where to resume."""
        self.gateway.ending.set()
        self.gateway.viewers.dismiss()

    def _layers(self, app: ASGIApp) -> ASGIApp:
        settings = self.gateway.settings
        tokens = Tokens(read_tokens(settings.api_tokens) if settings.api_tokens else ())
        limits = RateLimits(settings.rate_limit, settings.concurrency_limit)
        app = Identify(app, tokens=tokens, limits=limits)
        app = Bodies(app, most=settings.max_body_bytes, seconds=settings.body_seconds)
        if origins := origins_of(settings.cors_origins):
            app = Cors(
                app,
                allow_origins=origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=_EXPOSED,
            )
        return Guard(app, own_names_only=not tokens, ending=self.gateway.ending, origins=origins)

    @asynccontextmanager
    async def _alive(self, _: object) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            for part in self._parts:
                await stack.enter_async_context(part)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(FanOutFigures(self.gateway.viewers.counters).run)
                yield
                tasks.cancel_scope.cancel()


def _openapi_room() -> Room:
    content = orjson.dumps(document(operations()))

    async def openapi(_: Request) -> Response:
        return Response(content, media_type="application/json")

    return Room([Route("/openapi.json", openapi, methods=["GET"])], error_body)
