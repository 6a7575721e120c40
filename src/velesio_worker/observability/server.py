"""Health and metrics over HTTP, from threads of their own: they answer when the event loop does not move."""

from __future__ import annotations

import asyncio
import errno
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from http import HTTPStatus
from typing import Any, ClassVar, Final
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

import anyio
import anyio.abc
import anyio.to_thread
import orjson
import prometheus_client
from prometheus_client import CollectorRegistry, disable_created_metrics

from velesio_worker.core.exposure import is_loopback, is_own_name
from velesio_worker.core.logs import get_logger
from velesio_worker.observability.health import Health
from velesio_worker.wire.errors import SettingsError

MOST_REQUESTS: Final = 64
"""So many requests are answered at a time; further ones are turned away."""

MOST_OF_ONE: Final = 8
"""So many of them may come from one address."""

KEPT_FOR_LOOPBACK: Final = 8
"""So many of the places are for this host alone: HEALTHCHECK asks from here."""

HEAD_SECONDS: Final = 3.0
"""How long the head of a request may take in all."""

REPORT_SECONDS: Final = 4.0
"""How long the event loop may take to say how everything is."""

REQUEST_SECONDS: Final = 10.0
"""How long a request and its answer may take in all: whoever is slow holds its place no longer."""

_LONGEST_LINE: Final = 65536
_POLL_SECONDS: Final = 0.05
_PATHS: Final = ("/livez", "/readyz", "/health", "/metrics")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
log = get_logger(__name__)


class _Places:
    """Who is being answered: so many at a time, and of one address, and some places are for this host alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: Counter[str] = Counter()

    def take(self, peer: str) -> bool:
        """Take a place; returns whether there was one."""
        with self._lock:
            local = sum(count for other, count in self._of.items() if is_loopback(other))
            far = self._of.total() - local
            room = self._of.total() < MOST_REQUESTS if is_loopback(peer) else far < MOST_REQUESTS - KEPT_FOR_LOOPBACK
            if not room or self._of[peer] >= MOST_OF_ONE:
                return False
            self._of[peer] += 1
            return True

    def give_back(self, peer: str) -> None:
        with self._lock:
            self._of[peer] -= 1
            if not self._of[peer]:
                del self._of[peer]


class _ServerHandler(ServerHandler):
    server_software = None  # pyright: ignore[reportAssignmentType] (then there is no such header)


class _Handler(WSGIRequestHandler):
    timeout: ClassVar[float | None] = 2.0  # of a connection that sends nothing, in seconds
    server: HealthListener  # pyright: ignore[reportIncompatibleVariableOverride]

    def version_string(self) -> str:
        """Tell nobody which Python this is."""
        return "velesio-worker"

    def send_header(self, keyword: str, value: str) -> None:
        """Send a header, but for the server's name, which nobody needs."""
        if keyword.lower() != "server":
            super().send_header(keyword, value)

    def handle(self) -> None:
        """Answer one request, whose head has to be there in time."""
        limit = threading.Timer(HEAD_SECONDS, self._cut_off)
        limit.daemon = True
        limit.start()
        try:
            self.raw_requestline = self.rfile.readline(_LONGEST_LINE + 1)
            if len(self.raw_requestline) > _LONGEST_LINE:
                self.requestline = self.request_version = self.command = ""
                self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
                return
            if not self.parse_request():
                return
        finally:
            limit.cancel()
        if self.server.is_local and not is_own_name(self.headers.get("Host")):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)  # a web page's name, which was turned to this address
            return
        output: Any = self.wfile
        application: Any = self.server.get_app()
        handler = _ServerHandler(self.rfile, output, self.get_stderr(), self.get_environ(), multithread=False)
        handler.request_handler = self  # pyright: ignore[reportAttributeAccessIssue] (as the base's handle does)
        handler.run(application)

    def _cut_off(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        line = format % args
        log.debug(line, action="health_request")


class HealthListener(socketserver.ThreadingMixIn, WSGIServer):
    """Listens from its making on; answers once it has an application and is run.

    Raises:
        OSError: nothing can listen there.
    """

    daemon_threads = True
    request_queue_size = MOST_REQUESTS

    def __init__(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except UnicodeError:
            raise socket.gaierror(socket.EAI_NONAME, "this is no host name") from None
        self.address_family, _, _, _, address = found[0]
        self._places = _Places()
        self.is_local = is_loopback(str(address[0]))
        super().__init__(address[:2], _Handler)  # pyright: ignore[reportArgumentType]

    def server_bind(self) -> None:
        """Bind without asking a name server what this host is called, which the base does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as the base has it)
        """Answer in a thread of its own, if not too many do."""
        if self._places.take(client_address[0]):
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread could be started
                self._places.give_back(client_address[0])
                raise
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer, in that thread."""

        def cut_off() -> None:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

        limit = threading.Timer(REQUEST_SECONDS, cut_off)
        limit.daemon = True
        try:
            limit.start()
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._places.give_back(client_address[0])

    def handle_error(self, request: object, client_address: object) -> None:
        """Take note of it; who scans ports need not fill the log."""
        del request
        log.debug(f"a request from {client_address} was broken off", action="health_request")


class HealthApp:
    """Answers ``/livez``, ``/readyz``, ``/health`` and ``/metrics``. A WSGI application.

    Args:
        health: says how the worker is.
        report: has the event loop say all that is known; raises TimeoutError if it does not come to that.
        registry: what is measured.
    """

    def __init__(self, health: Health, report: Callable[[], Mapping[str, Any]], registry: CollectorRegistry) -> None:
        self._health = health
        self._report = report
        prometheus: Any = prometheus_client
        self._metrics = prometheus.make_wsgi_app(registry)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        path, method = environ.get("PATH_INFO", "/"), environ["REQUEST_METHOD"]
        headers = [("Allow", "GET, HEAD")]
        if method not in {"GET", "HEAD"}:
            status, body = 405, {"error": f"{method} is not allowed: use GET"}
        elif path == "/metrics":
            return self._measured(environ, start_response)
        else:
            status, body = self._answer(path)
        content = orjson.dumps(body, default=str, option=orjson.OPT_APPEND_NEWLINE)
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [] if method == "HEAD" else [content]

    def _measured(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer with all metrics, whatever a query picks; to HEAD with the same headers alone."""
        begun: list[Any] = []

        def begin(status: str, headers: list[tuple[str, str]]) -> None:
            begun[:] = status, headers

        metrics = self._metrics({**environ, "QUERY_STRING": "", "REQUEST_METHOD": "GET"}, begin)
        status, headers = begun
        start_response(status, [*headers, ("Content-Length", str(sum(map(len, metrics))))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else metrics

    def _answer(self, path: str) -> tuple[int, Mapping[str, Any]]:
        match path:
            case "/livez":
                reasons = self._health.stuck()
                return (503 if reasons else 200), {"alive": not reasons, "reasons": reasons}
            case "/readyz":
                readiness = self._health.readiness()
                return (200 if readiness["ready"] else 503), readiness
            case "/health":
                try:
                    return 200, self._report()
                except (TimeoutError, CancelledError, RuntimeError) as error:  # the loop is stuck, or comes to its end
                    trouble = str(error) or "the worker ends"
                    return 503, {"worker": self._health.worker, **self._health.readiness(), "error": trouble}
            case _:
                return 404, {"error": f"there is {', '.join(_PATHS)}"}


@asynccontextmanager
async def served(
    health: Health,
    registry: CollectorRegistry,
    *,
    host: str,
    port: int,
    must: bool,
    report_seconds: float = REPORT_SECONDS,
) -> AsyncGenerator[int, None]:
    """Serve health and metrics as long as the context lasts; yields the port, 0 if nothing is served.

    Args:
        health: says how the worker is.
        registry: what is measured.
        host: the address to listen on.
        port: the port to listen on; 0: nothing is served.
        must: whether an address that cannot be had is an error, since somebody asked for it.
        report_seconds: how long the event loop may take to say all that is known.

    Raises:
        SettingsError: the address cannot be had.
    """
    if not port:
        yield 0
        return
    try:
        server = await anyio.to_thread.run_sync(HealthListener, host, port)
    except OSError as error:
        remedy = "give each worker of a host a HEALTH_PORT of its own, or 0 for none"
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            remedy = "HEALTH_HOST has to be an address of this host"
        reason = error.strerror or error
        trouble = f"HEALTH_HOST={host} HEALTH_PORT={port}: nothing can listen there ({reason}): {remedy}"
        if must:
            raise SettingsError(trouble) from None
        log.warning(f"{trouble}. This worker serves no health and no metrics", action="health_not_served")
        yield 0
        return
    disable_created_metrics()  # they would double the number of series
    async with anyio.create_task_group() as reports:
        report = _reporter(health, reports, report_seconds)
        server.set_app(HealthApp(health, report, registry))
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="health", daemon=True)
        thread.start()
        log.info(f"health and metrics: http://{_shown(host)}:{port}", action="health_served", port=port)
        try:
            yield port
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(server.shutdown)
                server.server_close()
            reports.cancel_scope.cancel()


def _reporter(health: Health, tasks: anyio.abc.TaskGroup, seconds: float) -> Callable[[], Mapping[str, Any]]:
    """Return what has the event loop say all that is known, from another thread; it waits for a stuck loop so long.

    (anyio's portal would not do: a thread that starts a task there waits until the loop has taken it up.)
    """
    loop, context = asyncio.get_running_loop(), copy_context()

    async def answer(asked: Future[Mapping[str, Any]]) -> None:
        if asked.set_running_or_notify_cancel():
            try:
                asked.set_result(await health.check())
            except Exception as error:  # noqa: BLE001 (whoever asked gets it)
                asked.set_exception(error)
            except anyio.get_cancelled_exc_class():
                asked.set_exception(CancelledError())  # the worker ends: nobody waits for it
                raise

    def begin(asked: Future[Mapping[str, Any]]) -> None:
        if tasks.cancel_scope.cancel_called:
            asked.cancel()
        else:
            tasks.start_soon(answer, asked)

    def report() -> Mapping[str, Any]:
        asked: Future[Mapping[str, Any]] = Future()
        loop.call_soon_threadsafe(begin, asked, context=context)  # in a thread's own anyio may not know the loop
        try:
            return asked.result(seconds)
        except TimeoutError:
            asked.cancel()
            raise TimeoutError(f"no answer within {seconds:g} s") from None

    return report


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
