"""Which route answers a request; what there is none for is told in the form of its dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.middleware import send_error
from velesio_worker.gateway.seen import seen_of


class Room(NamedTuple):
    """The routes of a dialect, and how it writes errors.

    Attributes:
        routes: its routes, which tell of errors in its form.
        error_body: writes an error in its form.
        prefix: below which path requests for routes that there are not count as the dialect's; empty: nowhere.
    """

    routes: Sequence[Route]
    error_body: Callable[[ApiError], Mapping[str, Any]]
    prefix: str = ""


class Rooms:
    """Finds the route of a request, in the order in which they stand. An ASGI application."""

    def __init__(self, rooms: Sequence[Room]) -> None:
        self._rooms = rooms
        self._routes = [(room, route) for room in rooms for route in room.routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        response = await self._response(scope, receive, send)
        await response(scope, receive, send)  # Starlette would keep the request, and four frames above it

    async def _response(self, scope: Scope, receive: Receive, send: Send) -> ASGIApp:
        allowed: set[str] = set()
        elsewhere: Room | None = None
        for room, route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                seen_of(scope).route = route.path
                scope.update(found)
                return await route.endpoint(Request(scope, receive, send))
            if match is Match.PARTIAL:
                seen_of(scope).route = route.path
                allowed |= route.methods or set()
                elsewhere = elsewhere or room
        error = _not_allowed(scope["method"], allowed) if allowed else _not_found()
        return _error(error, elsewhere or self._room_of(scope["path"]))

    def _room_of(self, path: str) -> Room:
        """Return the room whose prefix says most of a path; the last one where none does."""
        below = [room for room in self._rooms if room.prefix and path.startswith(room.prefix)]
        return max(below, key=lambda room: len(room.prefix), default=self._rooms[-1])


def _error(error: ApiError, room: Room) -> ASGIApp:
    async def tell(_: Scope, _receive: Receive, send: Send) -> None:
        await send_error(error, send, room.error_body(error))

    return tell


def _not_found() -> ApiError:
    return ApiError(404, "not_found", "There is no such route; /openapi.json lists those that there are.")


def _not_allowed(method: str, allowed: set[str]) -> ApiError:
    allow = ", ".join(sorted(allowed))
    return ApiError(405, "method_not_allowed", f"{method} is not allowed here: use {allow}.", headers={"allow": allow})
