"""Requests that are answered by jobs: whole, or live. Whoever hangs up has the jobs cancelled."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final, Protocol, cast

import anyio
import orjson
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from velesio_worker.core.logs import get_logger
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import ApiError, api_error, queue_is_away, reads_results
from velesio_worker.gateway.hang_ups import until_hung_up
from velesio_worker.gateway.jobs import UNREAD_SECONDS, Jobs
from velesio_worker.wire.errors import JobError, job_error
from velesio_worker.wire.events import ERROR, TOKEN, StreamEvent

QUIET_SECONDS: Final = 10.0
"""After so long without a word a live answer begins all the same, and says that it lives."""

CANCEL_SECONDS: Final = 5.0
"""How long an end waits for Redis to take the cancels."""

Part = tuple[str, dict[str, Any]]
"""A job of a request: its type and its parameters."""

ErrorBody = Callable[[ApiError], Mapping[str, Any]]
"""Writes an error in the form of a dialect."""

_PING: Final = b": ping\n"
"""With one line break: a whole empty event makes clients fail."""

LIVE_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]

log = get_logger(__name__)


class Frames(Protocol):
    """Turns the events of one request's jobs into the bytes of a dialect; one object per request."""

    def feed(self, index: int, event: StreamEvent) -> bytes:
        """Return what is to be said of an event of the request's ``index``-th job; empty if nothing is.

        Raises:
            ApiError: the job began anew after some of it was said.
        """
        ...

    def end(self) -> bytes:
        """Return what is to be said when all jobs are done."""
        ...

    def error(self, error: ApiError) -> bytes:
        """Return what is to be said of an error in mid-answer; nothing follows."""
        ...


def dialect(routes: Iterable[Route], error_body: ErrorBody) -> list[Route]:
    """Have the errors of routes told in their dialect's form, those that nobody foresaw as well."""
    return [
        Route(
            route.path, partial(_told, route.endpoint, error_body), methods=sorted(route.methods or ()), name=route.name
        )
        for route in routes
    ]


async def _told(handler: Callable[[Request], Awaitable[Response]], error_body: ErrorBody, request: Request) -> Response:
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 (whatever it is, the client gets an answer)
        return failure(_error_of(error), error_body)


def _unforeseen(error: Exception) -> ApiError:
    log.error("a request could not be answered", action="request_failed", exc_info=error)
    return ApiError(500, "internal_error", "The gateway made a mistake; its log has the details.")


def failure(error: ApiError, error_body: ErrorBody) -> Response:
    """Return the response that tells of an error."""
    return Response(orjson.dumps(error_body(error)), error.status, error.headers, "application/json")


async def answer(request: Request, jobs: Jobs, caller: Caller, job_type: str, data: dict[str, Any]) -> dict[str, Any]:
    """Run a job for a request and return its result; a client that hangs up has it cancelled.

    Raises:
        ApiError: it was not taken, or failed.
    """
    [result] = await answers(request, jobs, caller, [(job_type, data)])
    return result


async def answers(request: Request, jobs: Jobs, caller: Caller, parts: list[Part]) -> list[dict[str, Any]]:
    """Run several jobs for a request and return their results in order; should one fail, the others are cancelled.

    ``parts`` is emptied.

    Raises:
        ApiError: one was not taken, or failed; or the client hung up.
    """
    results: list[dict[str, Any]] = [{}] * len(parts)
    troubles: list[Exception] = []

    async with _running(jobs, caller, parts) as going:

        async def wait(index: int, job_id: str, scope: anyio.CancelScope) -> None:
            try:
                results[index] = await jobs.result(job_id)
                going.discard(job_id)
            except JobError as error:
                going.discard(job_id)
                troubles.append(error)
            except RedisError as error:
                troubles.append(error)
            if troubles:
                scope.cancel()

        async with until_hung_up(request.scope, request.receive), anyio.create_task_group() as tasks:
            for index, job_id in enumerate(tuple(going)):
                tasks.start_soon(wait, index, job_id, tasks.cancel_scope)
        if troubles:
            raise _error_of(troubles[0])
        if going:
            raise ApiError(499, "client_closed_request", "The client hung up.")
    return results


class _Going(dict[str, None]):
    """The jobs of a request that have not ended, in order."""

    def discard(self, job_id: str) -> None:
        """Take note that a job has ended."""
        self.pop(job_id, None)


@asynccontextmanager
async def _running(jobs: Jobs, caller: Caller, parts: list[Part]) -> AsyncGenerator[_Going, None]:
    """Submit jobs; those that have not ended when the block does are cancelled.

    What is submitted is taken from the list: it would be kept else, megabytes perhaps, for as long as its answer takes.
    """
    going = _Going()
    try:
        while parts:
            going[await jobs.submit(caller, *parts.pop(0), unread_timeout=UNREAD_SECONDS)] = None
        yield going
    finally:
        if going:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_SECONDS):
                for job_id in going:
                    await _cancel(jobs, job_id)


async def _cancel(jobs: Jobs, job_id: str) -> None:
    try:
        await jobs.cancel(job_id)
    except RedisError as error:  # nobody reads the job any more: it is cancelled for that a while later
        log.warning(f"a job could not be cancelled: {error}", action="cancel_failed", job_id=job_id)


def _error_of(trouble: Exception) -> ApiError:
    while isinstance(trouble, ExceptionGroup):
        trouble = cast("ExceptionGroup[Exception]", trouble).exceptions[0]
    if isinstance(trouble, ApiError):
        return trouble
    if isinstance(trouble, JobError):
        return api_error(trouble)
    if isinstance(trouble, RedisError):
        log.warning(f"a request could not be answered: {trouble}", action="queue_unavailable")
        return queue_is_away()
    return _unforeseen(trouble)


class LiveResponse(Response):
    """An answer whose pieces are sent as they are made, as server-sent events; raw ASGI.

    What fails before the first piece is a status with a body, later an event. A client that hangs up has the jobs
    cancelled.

    Args:
        jobs: where the jobs go.
        caller: for whom.
        parts: the jobs; the list is emptied.
        frames: how their events are written.
        error_body: how errors are written in front of the first piece.
        quiet: after how many seconds without a word the answer begins all the same, or says that it lives.
    """

    def __init__(
        self,
        jobs: Jobs,
        caller: Caller,
        parts: list[Part],
        frames: Frames,
        error_body: ErrorBody,
        *,
        quiet: float = QUIET_SECONDS,
    ) -> None:
        super().__init__()
        self._jobs = jobs
        self._caller = caller
        self._parts = parts
        self._feed, self._end = reads_results(frames.feed), reads_results(frames.end)
        self._frames = frames
        self._error_body = error_body
        self._quiet = quiet
        self._begun = False
        self._held = bytearray()
        self._turn = anyio.Lock(fast_acquire=True)
        self._spoke_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            async with _running(self._jobs, self._caller, self._parts) as going:
                await self._stream(going, scope, receive, send)
        except ApiError as error:
            await self._fail(error, scope, receive, send)

    async def _stream(self, going: _Going, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with until_hung_up(scope, receive), anyio.create_task_group() as tasks:
                tasks.start_soon(self._say_that_it_lives, send)
                await self._pass_on(going, send)
                tasks.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 (told in the dialect's form)
            raise _error_of(error) from None

    async def _pass_on(self, going: _Going, send: Send) -> None:
        """Write the events of all jobs, and the end when all are done."""
        async with anyio.create_task_group() as tasks:
            for index, job_id in enumerate(tuple(going)):
                tasks.start_soon(self._follow, index, job_id, going, send)
        self._held += self._end()
        await self._say(send, self._released(), more=False)

    async def _follow(self, index: int, job_id: str, going: _Going, send: Send) -> None:
        async with aclosing(self._jobs.watch(job_id)) as batches:
            async for batch in batches:
                if batch[-1].terminal:
                    going.discard(job_id)
                for event in batch:
                    if event.event == ERROR:
                        raise job_error(str(event.data.get("code", "")), str(event.data.get("error", "")))
                    self._held += self._feed(index, event)
                if self._held and any(event.event == TOKEN for event in batch):
                    await self._say(send, self._released())

    def _released(self) -> bytes:
        """What is to be said now; it waited for a piece of output, in front of which an error is still a status."""
        held = bytes(self._held)
        self._held.clear()
        return held

    async def _say(self, send: Send, body: bytes, *, more: bool = True) -> None:
        async with self._turn:
            if not self._begun:
                self._begun = True
                await send({"type": "http.response.start", "status": 200, "headers": [*LIVE_HEADERS]})
            await send({"type": "http.response.body", "body": body, "more_body": more})
            self._spoke_at = time.monotonic()

    async def _say_that_it_lives(self, send: Send) -> None:
        while True:
            wait = self._spoke_at + self._quiet - time.monotonic()
            if wait > 0:
                await anyio.sleep(wait)
            else:
                await self._say(send, _PING)

    async def _fail(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        if self._begun:
            await self._say(send, self._frames.error(error), more=False)
        else:
            await failure(error, self._error_body)(scope, receive, send)
