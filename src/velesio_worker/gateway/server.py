"""The gateway's process: a socket, uvicorn on it, and an end that leaves nobody in mid-sentence."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import signal
import socket
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Final

import uvicorn

from velesio_worker.core.collector import spare_what_stays
from velesio_worker.core.logs import get_logger
from velesio_worker.gateway.app import Application, build
from velesio_worker.gateway.connection import connection_class
from velesio_worker.gateway.settings import GatewaySettings
from velesio_worker.wire.errors import SettingsError

_BACKLOG: Final = 4096
_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than proxies keep theirs, so that they, who know, are who closes."""

_CANCEL_SECONDS: Final = 10.0
"""How long requests that were cut off may take to cancel their jobs."""

_TICK_SECONDS: Final = 0.05

_COLLECT_AFTER: Final = (5_000, 20, 20)
"""Python's thresholds of the garbage collector, whose pass over all objects stops every stream: a tenth of a second
with 2,000 viewers. Whatever lives with a connection is let go without it (:mod:`velesio_worker.gateway.connection`)."""

log = get_logger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Listen; connections whose client is gone without a word are noticed after two minutes.

    Raises:
        SettingsError: nothing can listen there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        # Of a socket whose protocol is not told, asyncio's own loop would have small pieces wait for one another.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
                if hasattr(socket, option):  # Linux; connections inherit them
                    listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        elsewhere = isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL
        remedy = "GATEWAY_HOST has to be an address of this host" if elsewhere else "give GATEWAY_PORT another port"
        reason = error.strerror if isinstance(error, OSError) else "this is no host name"
        raise SettingsError(
            f"GATEWAY_HOST={host} GATEWAY_PORT={port}: nothing can listen there ({reason}): {remedy}"
        ) from None
    listener.setblocking(False)  # noqa: FBT003 (socket's own signature)
    return listener


def serve(settings: GatewaySettings, listener: socket.socket, *, life: int | None = None) -> None:
    """Serve until a signal says otherwise.

    Args:
        settings: the gateway's.
        listener: the socket that connections come from.
        life: a file that is open as long as there is somebody to serve for; None: that is told by signals alone.
    """
    raise_file_limit()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    app = build(settings)
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=connection_class(settings.body_seconds),
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    _Server(config, app, settings.drain_seconds, life).run(sockets=[listener])


def raise_file_limit() -> None:
    """Allow as many open files as the host does: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS has a limit that it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Server(uvicorn.Server):
    """uvicorn's server with an end of its own.

    uvicorn waits for streams that have no end, cancels them then, and closes what they would need to end well.
    """

    def __init__(self, config: uvicorn.Config, app: Application, drain_seconds: float, life: int | None) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._life = life

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets=sockets)
        if self._life is not None:
            asyncio.get_running_loop().add_reader(self._life, self._end_of_life, self._life)
        spare_what_stays(*_COLLECT_AFTER)
        address = sockets[0].getsockname() if sockets else ("", 0)
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        log.info(f"the gateway listens: http://{host}:{address[1]}", action="gateway_ready", port=address[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; the second time at once.

        Not so one of several processes: who signals them all (a terminal, systemd) signals the one that started them,
        too, which passes the signal on. (uvicorn would send itself the signal again at its end.)
        """
        del sig, frame
        self.force_exit = self.should_exit and self._life is None
        self.should_exit = True

    def _end_of_life(self, life: int) -> None:
        asyncio.get_running_loop().remove_reader(life)  # nothing is ever written there: it has come to its end
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, let those that run end for a while, and cut off the rest."""
        log.info(f"the gateway ends; running requests have {self._drain_seconds:g} s", action="gateway_stopping")
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        self._app.drain()
        await self._until_idle(self._drain_seconds)
        if tasks := tuple(self.server_state.tasks):
            log.warning(f"{len(tasks)} requests are cut off", action="requests_cut_off", requests=len(tasks))
            _cancel(tasks)
            self.force_exit = False
            await self._until_idle(_CANCEL_SECONDS)
        await self.lifespan.shutdown()
        log.info("the gateway has ended", action="gateway_stopped")

    async def _until_idle(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        loop = asyncio.get_running_loop()
        while self.server_state.tasks and not self.force_exit and loop.time() < deadline:  # noqa: ASYNC110 (uvicorn's)
            await asyncio.sleep(_TICK_SECONDS)


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


ENDING: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a gateway."""
