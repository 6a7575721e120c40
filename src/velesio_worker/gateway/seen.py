"""What is known of the request that runs, for its line in the log and for its figures."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import Scope, Send

from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import ApiError

_STATE = "gateway.seen"
LINE = "gateway.line"
"""Where a request's ``state`` has its connection as a :class:`Line`, if its server offers that."""

_CURRENT: ContextVar[Seen | None] = ContextVar("gateway_request", default=None)


class Line(Protocol):
    """A connection, for whoever shows thousands of streams and cannot afford ASGI's way."""

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have something called once the connection is lost: a task that waits for that takes some kilobytes."""
        ...

    def send_piece(self, chunk: bytes) -> Awaitable[None] | None:
        """Send a chunk of the answer, which has begun; returns what waits until there is room, if there is none."""
        ...


@dataclass(slots=True)
class Seen:
    """One request.

    Attributes:
        method: its method.
        send: the server's own ``send``, for what is sent very often.
        id: what the answer's ``x-request-id`` says.
        route: the template of its route, such as ``/jobs/{id}``; never the path, which anybody can make up.
        status: the status that it was answered with; 0: none was.
        caller: who asks, or why that is nobody.
        jobs: the jobs that it made or is about.
        traceparent: the trace that it belongs to, if it says so.
        begun: when it came, in monotonic seconds.
    """

    method: str
    send: Send
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    route: str = "-"
    status: int = 0
    caller: Caller | ApiError | None = None
    jobs: list[str] = field(default_factory=list[str])
    traceparent: str | None = None
    begun: float = field(default_factory=time.monotonic)

    @property
    def trace_id(self) -> str | None:
        """The id of its trace."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]


def begin(scope: Scope, send: Send) -> Seen:
    """Have a request be the one that is seen, in its scope and in its context."""
    seen = Seen(scope["method"], send)
    scope.setdefault("state", {})[_STATE] = seen
    _CURRENT.set(seen)
    return seen


def seen_of(scope: Scope) -> Seen:
    """Return what is known of the request of a scope."""
    seen: Seen = scope["state"][_STATE]
    return seen


def note_job(job_id: str) -> None:
    """Take note of a job that the request of this context makes, or is about."""
    seen = _CURRENT.get()
    if seen is not None:
        seen.jobs.append(job_id)
