"""Health and metrics over HTTP, from threads of their own: they answer when the event loop does not move."""

from __future__ import annotations

import asyncio
import errno
import socket
import socketserver
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, ClassVar, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import anyio
import anyio.abc
import anyio.to_thread
import orjson
import prometheus_client
from prometheus_client import CollectorRegistry, disable_created_metrics

from velesio_worker.core.logs import get_logger
from velesio_worker.observability.health import Health
from velesio_worker.wire.errors import SettingsError

MOST_REQUESTS: Final = 64
"""So many requests are answered at a time; further ones are turned away."""

REPORT_SECONDS: Final = 4.0
"""How long the event loop may take to say how everything is."""

REQUEST_SECONDS: Final = 10.0
"""How long a request and its answer may take in all: whoever is slow holds its place no longer."""

_POLL_SECONDS: Final = 0.05
_PATHS: Final = ("/livez", "/readyz", "/health", "/metrics")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
log = get_logger(__name__)


class _Handler(WSGIRequestHandler):
    timeout: ClassVar[float | None] = 2.0  # of a connection that sends nothing, in seconds

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
        self._room = threading.BoundedSemaphore(MOST_REQUESTS)
        super().__init__(address[:2], _Handler)  # pyright: ignore[reportArgumentType]

    def server_bind(self) -> None:
        """Bind without asking a name server what this host is called, which the base does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as the base has it)
        """Answer in a thread of its own, if not too many do."""
        if self._room.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread could be started
                self._room.release()
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
            self._room.release()

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
    loop = asyncio.get_running_loop()

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
        loop.call_soon_threadsafe(begin, asked)
        try:
            return asked.result(seconds)
        except TimeoutError:
            asked.cancel()
            raise TimeoutError(f"no answer within {seconds:g} s") from None

    return report


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
