"""``GET /jobs/{id}/events``: a job's stream, live and from any point, for any number of viewers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from velesio_worker.client.fanout import Hub, HubClosedError
from velesio_worker.core.logs import get_logger
from velesio_worker.gateway import metrics
from velesio_worker.gateway.app_state import gateway_of
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.hang_ups import until_hung_up
from velesio_worker.gateway.live import LIVE_HEADERS
from velesio_worker.gateway.native import is_young, own_job, standing_of
from velesio_worker.gateway.seen import LINE, Line, seen_of

_BEGINNING: Final = "0-0"
_ENTRY: Final = re.compile(r"[0-9]{1,10}-[0-9]{1,18}")

_NEEDED: Final = ("type", "method", "state")
"""What uvicorn and the layers above need of a request whose answer has begun; the rest is a kilobyte of each viewer."""

log = get_logger(__name__)


async def events(request: Request) -> Response:
    """Show a job's stream; ``Last-Event-ID``, or else ``?after=``, is the entry to go on behind."""
    gateway = gateway_of(request)
    job_id = own_job(request, gateway.caller_of(request))
    after = request.headers.get("last-event-id") or request.query_params.get("after") or _BEGINNING
    if not _ENTRY.fullmatch(after):
        raise ApiError(
            400,
            "invalid_request",
            "Last-Event-ID and after name an entry of the stream, such as 1-17.",
            param="after",
        )
    if not is_young(job_id):  # which it takes Redis to know
        await standing_of(gateway, job_id)
    return _Events(gateway.viewers, job_id, after)


class _Chunks:
    """Frames as HTTP/1.1 has them; what many viewers are sent in turn is made once."""

    def __init__(self) -> None:
        self._body = self._chunk = b""

    def of(self, body: bytes) -> bytes:
        """Return the chunk that a piece of an answer is."""
        if body is not self._body:
            self._body, self._chunk = body, b"%x\r\n%b\r\n" % (len(body), body)
        return self._chunk


_chunks: Final = _Chunks()


def _send_chunk(send: Callable[[bytes], Awaitable[None] | None], body: bytes) -> Awaitable[None] | None:
    return send(_chunks.of(body))


def _way_out(scope: Scope) -> Callable[[bytes], Awaitable[None] | None]:
    """Return how pieces are sent of an answer that has begun; most of what was asked is forgotten."""
    line: Line | None = scope["state"].get(LINE)
    if line is not None:
        needed = {name: scope[name] for name in _NEEDED}
        scope.clear()
        scope.update(needed)
        return partial(_send_chunk, line.send_piece)
    send = seen_of(scope).send

    async def pass_on(body: bytes) -> None:
        message: Message = {"type": "http.response.body", "body": body, "more_body": True}
        await send(message)

    return pass_on


class _Events(Response):
    """A viewer, as raw ASGI: past the beginning its pieces go to the server's own ``send``, or to its connection."""

    def __init__(self, viewers: Hub, job_id: str, after: str) -> None:  # not Response's: it makes headers of its own
        self._viewers = viewers
        self._job_id = job_id
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [*LIVE_HEADERS]})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        why = "left"
        metrics.VIEWERS.inc()
        try:
            async with until_hung_up(scope, receive):
                why = await self._show(_way_out(scope))
        finally:
            metrics.VIEWERS.dec()
            metrics.ENDED_VIEWERS.labels(why).inc()
        await seen_of(scope).send({"type": "http.response.body", "body": b""})

    async def _show(self, send: Callable[[bytes], Awaitable[None] | None]) -> str:
        try:
            return (await self._viewers.show(self._job_id, self._after, send)).reason.value
        except (RedisError, HubClosedError) as error:  # the viewer comes again, and is told why if that lasts
            log.warning(f"a stream could not be shown: {error}", action="stream_lost", job_id=self._job_id)
            return "lost"
