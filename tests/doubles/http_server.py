"""What doubles that speak HTTP have in common: a server with threads of its own, which ends with its last answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

LIMIT: Final = 60.0


class HTTPDouble:
    """A server on 127.0.0.1; ``go_on`` is what its stalled answers wait for."""

    def __init__(self, handler: type[QuietHandler]) -> None:
        self._handler = handler
        self.go_on = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def serving(self) -> Generator[Self, None, None]:
        server = Server(self, self._handler)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.go_on.set()
            server.shutdown()
            thread.join()
            server.hang_up()
            server.server_close()


class Server(ThreadingHTTPServer):
    """A thread a connection; all have ended once it is closed."""

    daemon_threads = False

    def __init__(self, double: Any, handler: type[QuietHandler], host: str = "127.0.0.1", port: int = 0) -> None:
        self.double = double
        self._clients: set[socket.socket] = set()
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._clients.add(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        """Close what clients keep open, so that no thread waits for their next request."""
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave in the middle."""


class QuietHandler(BaseHTTPRequestHandler):
    """Answers for a double, which is ``self.server.double``, and logs nothing of requests."""

    protocol_version = "HTTP/1.1"
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride] (the one that is given above)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the standard library's)
        pass
