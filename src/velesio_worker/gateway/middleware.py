"""What every request goes through, as pure ASGI: each layer costs a live stream next to nothing."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Collection, Mapping
from typing import Any, Final

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from velesio_worker.core.exposure import is_own_name
from velesio_worker.core.logs import get_logger
from velesio_worker.gateway import metrics
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import RETRY_SECONDS, ApiError
from velesio_worker.gateway.limits import RateLimits
from velesio_worker.gateway.quiet import QUIET_ROUTES, is_counted
from velesio_worker.gateway.seen import Seen, begin, seen_of
from velesio_worker.gateway.tokens import Token, Tokens, token_in_basic

_SLOWEST: Final = 64 * 1024
"""Bytes a second that a body has to come with, beside ``BODY_SECONDS``."""

_NOBODY: Final = "-"
_LONGEST_SESSION: Final = 128
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""

_HARMLESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_SAFE: Final = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""Headers of every answer that has none of its own of that name."""

log = get_logger("velesio_worker.gateway")


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error in the gateway's own form."""
    return {"error": {"code": error.code, "message": error.message, "param": error.param}}


async def send_error(error: ApiError, send: Send, body: Mapping[str, Any] | None = None) -> None:
    """Answer with an error, in the gateway's own form unless ``body`` has another one."""
    content = orjson.dumps(body or error_body(error))
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class Guard:
    """The outermost layer: the line in the log, figures, headers, and whatever nobody foresaw.

    Args:
        app: what is within.
        own_names_only: whether only requests for an address or localhost are answered: a web page's name may have been
            turned to this host, and its scripts could ask where no token is needed.
        ending: set once requests may be cut off.
        origins: the origins of web pages that may ask all the same.
    """

    def __init__(
        self, app: ASGIApp, *, own_names_only: bool, ending: asyncio.Event, origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._origins = origins
        self._ending = ending
        self._own_names_only = own_names_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = begin(scope, send)
        answer = _Answer(seen, send)
        try:
            self._check(scope, seen)
            await self._app(scope, receive, answer.send)
        except ApiError as error:
            await answer.fail(error)
        except asyncio.CancelledError:
            if not self._ending.is_set():
                raise
            await answer.fail(_stopped())  # the task is this request's alone, and ends here
        except Exception:
            if seen.status:
                raise  # the server breaks the connection off, which tells the client, and logs why
            log.exception("a request could not be answered", action="request_failed")
            await answer.fail(ApiError(500, "internal_error", "The gateway made a mistake; its log has the details."))
        finally:
            _tell(seen)
            scope["state"].clear()  # it leads to the connection, and so to itself: it would wait for the collector

    def _check(self, scope: Scope, seen: Seen) -> None:
        headers = Headers(scope=scope)
        traceparent = headers.get("traceparent", "")
        seen.traceparent = traceparent if _TRACEPARENT.fullmatch(traceparent) else None
        if self._own_names_only and not is_own_name(headers.get("host")):
            raise ApiError(421, "misdirected_request", "Without API_TOKENS ask for localhost or 127.0.0.1.")
        self._check_page(scope["method"], headers)

    def _check_page(self, method: str, headers: Headers) -> None:
        """Refuse what a foreign web page has its reader's browser do; some of it browsers send without asking."""
        origin = headers.get("origin")
        if not self._own_names_only or origin is None or method in _HARMLESS:
            return
        if "*" in self._origins or origin in self._origins or _is_own_origin(origin, headers.get("host")):
            return
        raise ApiError(403, "foreign_origin", "Without API_TOKENS only pages of CORS_ORIGINS may ask for that.")


def _is_own_origin(origin: str, host: str | None) -> bool:
    """Whether a page was served by the name and port that it asks."""
    return host is not None and origin.partition("://")[2].lower() == host.lower()


def _stopped() -> ApiError:
    message = "The gateway is being stopped, and the request did not end in time: try again."
    return ApiError(503, "stopped", message, retry_after=RETRY_SECONDS)


class _Answer:
    """The way of an answer through the outermost layer."""

    __slots__ = ("_awaits_first", "_seen", "_send")

    def __init__(self, seen: Seen, send: Send) -> None:
        self._seen = seen
        self._send = send
        self._awaits_first = False

    async def send(self, message: Message) -> None:
        """Pass a message on; take note of the status, and of when a live answer's first piece leaves."""
        if message["type"] == "http.response.start":
            self._seen.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _SAFE.items():
                headers.setdefault(name, value)
            headers["x-request-id"] = self._seen.id
            self._awaits_first = headers.get("content-type", "").startswith("text/event-stream")
        elif self._awaits_first and not message.get("body", b":").startswith(b":"):
            self._awaits_first = False
            metrics.FIRST_TOKEN.labels(self._seen.route).observe(time.monotonic() - self._seen.begun)
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Answer with an error, unless the answer has begun."""
        if not self._seen.status:
            await send_error(error, self.send)


def _tell(seen: Seen) -> None:
    took = time.monotonic() - seen.begun
    metrics.REQUESTS.labels(seen.route, str(seen.status)).inc()
    metrics.DURATION.labels(seen.route).observe(took)
    quiet = seen.route in QUIET_ROUTES
    (log.debug if quiet else log.info)(
        f"{seen.method} {seen.route} {seen.status}",
        action="request",
        request=seen.id,
        method=seen.method,
        route=seen.route,
        status=seen.status,
        ms=round(took * 1000, 1),
        caller=seen.caller.name if isinstance(seen.caller, Caller) else None,
        jobs=",".join(seen.jobs) or None,
        trace_id=seen.trace_id,
    )


class Bodies:
    """Bounds what a body may be: its size, and how long it may take.

    What is too much raises :class:`ApiError` in whoever reads the body, so that it is told in the route's form.

    Args:
        app: what is within.
        most: the largest body, in bytes.
        seconds: how long one may take, and a second more for each 64 KiB.
    """

    def __init__(self, app: ASGIApp, *, most: int, seconds: float) -> None:
        self._app = app
        self._most = most
        self._seconds = seconds

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        if scope["type"] == "http":
            receive = _Body(scope, receive, self._most, self._seconds).receive
        return self._app(scope, receive, send)


class _Body:
    __slots__ = ("_begun", "_got", "_most", "_receive", "_seconds", "_told", "_whole")

    def __init__(self, scope: Scope, receive: Receive, most: int, seconds: float) -> None:
        length = Headers(scope=scope).get("content-length", "0")
        self._told = int(length) if length.isdecimal() else 0
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._begun = 0.0
        self._got = 0
        self._whole = False

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        if self._told > self._most:
            raise self._too_large()
        now = asyncio.get_running_loop().time()
        self._begun = self._begun or now
        try:
            async with asyncio.timeout_at(self._begun + self._seconds + self._got / _SLOWEST):
                message = await self._receive()
        except TimeoutError:
            close = {"connection": "close"}
            raise ApiError(408, "request_timeout", "The body came too slowly.", headers=close) from None
        if message["type"] != "http.request":
            raise ApiError(499, "client_closed_request", "The client hung up before its body was whole.")
        self._got += len(message.get("body", b""))
        if self._got > self._most:
            raise self._too_large()
        self._whole = not message.get("more_body", False)
        return message

    def _too_large(self) -> ApiError:
        return ApiError(413, "too_large", f"The body is larger than MAX_BODY_BYTES, {self._most} bytes.")


class Cors(CORSMiddleware):
    """Starlette's, which keeps a request's head until it is answered, for those alone who name an origin."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] (ASGI asks for no more)
        self, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        """Answer a request."""
        asks = scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"])
        return super().__call__(scope, receive, send) if asks else self.app(scope, receive, send)


class Identify:
    """Finds out who asks, and whether that is too much; whoever needs to know is told by :func:`caller_of`.

    Args:
        app: what is within.
        tokens: the tokens that may be shown.
        limits: how much each may ask for.
    """

    def __init__(self, app: ASGIApp, *, tokens: Tokens, limits: RateLimits) -> None:
        self._app = app
        self._tokens = tokens
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = seen_of(scope)
        counted = ""
        try:
            caller = self._who(Headers(scope=scope), seen.traceparent)
            if is_counted(scope["path"]):
                counted = await self._limits.admit(caller.name or _NOBODY)
            seen.caller = caller
        except ApiError as error:
            seen.caller = error
        try:
            await self._app(scope, receive, send)
        finally:
            if counted:
                self._limits.end(counted)

    def _who(self, headers: Headers, traceparent: str | None) -> Caller:
        session = headers.get("x-session-id") or headers.get("x-openwebui-chat-id") or ""
        session = "".join(filter(str.isprintable, session))[:_LONGEST_SESSION]
        if not self._tokens:
            return Caller(None, self._tokens.open_key, session or None, traceparent)
        token = self._token(headers)
        return Caller(token.name, token.key, session or None, traceparent)

    def _token(self, headers: Headers) -> Token:
        shown = headers.get("authorization", "")
        scheme, _, rest = shown.partition(" ")
        bearer = rest.strip() if scheme.lower() == "bearer" else token_in_basic(shown)
        for candidate in filter(None, (bearer, headers.get("x-api-key", "").strip())):
            if token := self._tokens.find(candidate):
                return token
        raise ApiError(
            401,
            "invalid_api_key",
            "A token is needed: send Authorization: Bearer <token>, or x-api-key.",
            headers={"www-authenticate": 'Bearer realm="velesio-worker"'},
        )
