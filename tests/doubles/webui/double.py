"""The WebUI's double: a studio behind an HTTP server, and what a test may ask of it."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from tests.doubles.http_server import Server
from tests.doubles.webui.routes import Routes, WebUIHandler
from tests.doubles.webui.setup import Setup
from tests.doubles.webui.studio import Studio


class WebUIDouble:
    """Serves from entering to leaving; generations that are under way then end without an answer.

    Attributes:
        requests: path and body of each POST to txt2img, img2img and options, as they came.
        peak: the most txt2img and img2img requests that were inside at once.
        polls: the number of GET /progress.
        interrupts: for each interrupt, whether a generation was running.
        fetched: addresses that requests named as images; none is ever fetched.
        loads: the names of the models that were loaded, in order.
    """

    def __init__(self, setup: Setup | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.setup = setup or Setup()
        self.studio = Studio(self.setup)
        self._host, self._port = host, port
        self._server: Server | None = None
        self._threads: list[threading.Thread] = []
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.interrupts: list[bool] = []
        self.peak = self.inside = self.polls = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def fetched(self) -> list[str]:
        return self.studio.fetched

    @property
    def log(self) -> list[str]:
        """The warnings that the real program would have written into its log."""
        return self.studio.log

    @property
    def loads(self) -> list[str]:
        return self.studio.shelf.loads

    @property
    def running(self) -> bool:
        """Whether a generation has its turn."""
        return self.studio.running

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return self.studio.turns.waiting

    @property
    def step(self) -> int:
        """The sampling step of whatever runs."""
        return self.studio.state.sampling_step

    def asked(self, route: str) -> list[dict[str, Any]]:
        """The bodies that came to one route, as ``txt2img``."""
        return [body for path, body in self.requests if path.endswith(f"/{route}")]

    def fail_next(self, fault: str) -> None:
        """Spoil one generation more, see ``faults.FAULTS``; with any other word an exception of that class."""
        self.studio.faults.add(fault)

    def pause(self, at: int | None = None) -> None:
        """Let sampling stand still until ``go_on``: now, or once a generation has done its step ``at``."""
        if at is None:
            self.studio.gate.clear()
        else:
            self.studio.pause_at = at

    @property
    def paused(self) -> bool:
        return not self.studio.gate.is_set()

    def go_on(self) -> None:
        self.studio.gate.set()

    @property
    def made(self) -> list[int]:
        """The number of pictures of each generation that came to its end, whether or not its client was still there."""
        return self.studio.made

    def enter(self) -> None:
        """Count one request in."""
        with self.lock:
            self.inside += 1
            self.peak = max(self.peak, self.inside)

    def leave(self) -> None:
        """Count one request out."""
        with self.lock:
            self.inside -= 1

    def __enter__(self) -> Self:
        self._server = server = Server(Routes(self), WebUIHandler, self._host, self._port)
        self._port = server.server_address[1]
        serve = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="webui-double")
        self._threads = [serve, threading.Thread(target=self.studio.load_first, name="webui-double-load")]
        for thread in self._threads:
            thread.start()
        if not self.setup.load_seconds:
            self._threads[1].join()
        self.studio.journal.write("serving", host=self._host, port=self._port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        server = self._server
        assert server is not None
        self.studio.closing.set()
        server.shutdown()
        for thread in self._threads:
            thread.join()
        server.hang_up()
        server.server_close()
