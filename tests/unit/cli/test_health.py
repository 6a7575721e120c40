"""``velesio-worker health``: one line, and an exit code that HEALTHCHECK allows."""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest

from tests.support.environment import base_environment
from tests.support.servers import free_port
from velesio_worker.__main__ import main as program
from velesio_worker.cli import health as cli_health
from velesio_worker.cli import main as cli

READY: Final[dict[str, Any]] = {"ready": True, "reasons": [], "engines": {"text": "ready", "image": "stopped"}}
UNREADY: Final[dict[str, Any]] = {
    "ready": False,
    "reasons": ["the worker is starting", "Redis at redis://r does not answer:\n  check  REDIS_URL"],
    "engines": {"text": "starting"},
}
ALIVE: Final[dict[str, Any]] = {"alive": True, "reasons": []}
DEAD: Final[dict[str, Any]] = {
    "alive": False,
    "reasons": ["the worker's event loop has not moved for 11 s: restart the worker"],
}


class WorkerDouble(ThreadingHTTPServer):
    """Answers paths with what it is told to.

    Attributes:
        answers: status and body, by path.
        asked: the paths that were asked.
    """

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), _Handler)
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []

    def answer(self, path: str, status: int, body: Any) -> None:
        self.answers[path] = status, body if isinstance(body, bytes) else json.dumps(body).encode()


class _Handler(BaseHTTPRequestHandler):
    server: WorkerDouble  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, body = self.server.answers[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        """Log nothing."""


@contextmanager
def _served(host: str) -> Generator[WorkerDouble, None, None]:
    with WorkerDouble(host) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerDouble]:
    """A double of a worker, which the settings point to."""
    with _served("127.0.0.1") as server:
        monkeypatch.setenv("HEALTH_PORT", str(server.server_port))
        yield server


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """What the command says, and its exit code, both as ``velesio-worker health`` and as a program of its own."""
    code = cli_health.main(arguments)
    shown = capsys.readouterr()
    assert (shown.err, shown.out.count("\n"), shown.out[-1]) == ("", 1, "\n"), shown
    assert cli.main(["health", *arguments]) == code
    assert capsys.readouterr() == shown
    return code, shown.out.rstrip("\n")


def test_a_worker_that_is_ready(worker: WorkerDouble, capsys: pytest.CaptureFixture[str]) -> None:
    worker.answer("/readyz", 200, READY)
    assert said(capsys) == (0, "ready: text engine ready, image engine stopped")
    assert set(worker.asked) == {"/readyz"}


def test_a_worker_that_is_not_ready_says_why_in_one_line(
    worker: WorkerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.answer("/readyz", 503, UNREADY)
    line = "not ready: the worker is starting; Redis at redis://r does not answer: check REDIS_URL"
    assert said(capsys) == (1, line)


def test_whether_it_lives_is_another_question(worker: WorkerDouble, capsys: pytest.CaptureFixture[str]) -> None:
    worker.answer("/livez", 200, ALIVE)
    assert said(capsys, "--live") == (0, "alive")
    worker.answer("/livez", 503, DEAD)
    assert said(capsys, "--live") == (1, f"not alive: {DEAD['reasons'][0]}")
    assert set(worker.asked) == {"/livez"}


def test_an_answer_without_a_reason_is_told_by_its_status(
    worker: WorkerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.answer("/readyz", 503, {"ready": False, "reasons": [], "engines": {}})
    assert said(capsys) == (1, "not ready: status 503")


@pytest.mark.parametrize(("status", "readiness", "code"), [(200, READY, 0), (503, UNREADY, 1)])
def test_all_that_it_knows_can_be_printed(
    worker: WorkerDouble, capsys: pytest.CaptureFixture[str], status: int, readiness: Any, code: int
) -> None:
    report = {"worker": "w1", "ready": not code, "engines": {"text": {"state": "ready"}}}
    worker.answer("/readyz", status, readiness)
    worker.answer("/health", 200, report)
    assert cli_health.main(["--json"]) == code
    assert json.loads(capsys.readouterr().out) == report


@pytest.mark.parametrize(
    "body",
    [b"404 page not found", b"<html>", b"", b"[]", b'"ok"', b"1", b"null", b"\xff", b'{"status":"ok"}', b"[" * 2000],
)
@pytest.mark.parametrize("status", [200, 404, 503])
@pytest.mark.parametrize("arguments", [(), ("--live",), ("--json",)])
def test_somebody_else_at_the_port_is_no_worker(
    worker: WorkerDouble, capsys: pytest.CaptureFixture[str], body: bytes, status: int, arguments: tuple[str, ...]
) -> None:
    for path in ("/readyz", "/livez", "/health"):
        worker.answer(path, status, body)
    port = worker.server_port
    assert said(capsys, *arguments) == (1, f"what answers at 127.0.0.1:{port} is no worker: check HEALTH_PORT")


def test_somebody_who_speaks_no_http_is_no_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Greeter(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 mail.example ESMTP\r\n")
            while self.rfile.read1():
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeter) as server:
        server.daemon_threads = True
        monkeypatch.setenv("HEALTH_PORT", str(server.server_address[1]))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            code, line = said(capsys)
        finally:
            server.shutdown()
            thread.join()
    assert (code, line.startswith("no worker answers at ")) == (1, True)


def test_nobody_at_the_port(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    monkeypatch.setenv("HEALTH_PORT", str(port))
    code, line = said(capsys)
    assert code == 1
    assert line.startswith(f"no worker answers at 127.0.0.1:{port} (")
    assert line.endswith("is one running here, with this HEALTH_HOST and HEALTH_PORT?")


def test_somebody_who_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setenv("HEALTH_PORT", str(silent.getsockname()[1]))
        code = cli_health.main((), limit=0.05)
    assert (code, "timed out" in capsys.readouterr().out) == (1, True)


@pytest.mark.parametrize(
    ("listens", "told"),
    [("127.0.0.1", "0.0.0.0"), ("::1", "::1"), ("::1", "::"), ("127.0.0.1", "localhost")],  # noqa: S104
)
def test_the_worker_of_this_host_is_asked_wherever_it_listens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listens: str, told: str
) -> None:
    with _served(listens) as server:
        monkeypatch.setenv("HEALTH_PORT", str(server.server_port))
        monkeypatch.setenv("HEALTH_HOST", told)
        server.answer("/livez", 200, ALIVE)
        assert said(capsys, "--live") == (0, "alive")


def test_a_proxy_has_no_part_in_it(
    worker: WorkerDouble, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    worker.answer("/livez", 200, ALIVE)
    assert said(capsys, "--live") == (0, "alive")


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 70, "a b", "é", "::1::1"])
def test_a_host_that_there_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    monkeypatch.setenv("HEALTH_HOST", host)
    code, line = said(capsys)
    assert (code, line.startswith(f"no worker answers at {host}:9090 (")) == (1, True), line


def test_a_worker_that_serves_no_health_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEALTH_PORT", "0")
    code, line = said(capsys)
    assert (code, "HEALTH_PORT=0" in line) == (1, True)


def test_settings_that_are_wrong_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEALTH_PORT", "70000")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    code, line = said(capsys)
    assert code == 1
    assert "HEALTH_PORT='70000'" in line
    assert "; " in line
    assert "LOG_LEVEL='loud'" in line


def test_an_option_that_there_is_not_is_told_in_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["velesio-worker", "health", "--alive"])
    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 1
    assert capsys.readouterr() == ("unrecognized arguments: --alive: there are --live and --json\n", "")


def test_it_loads_little_of_what_a_worker_needs() -> None:
    """A container asks every half a minute."""
    script = """
import sys
sys.argv = ["velesio-worker", "health"]
from velesio_worker.__main__ import main
code = main()
loaded = [name for name in ("redis", "httpx", "anyio.from_thread", "prometheus_client", "PIL") if name in sys.modules]
print(loaded)
sys.exit(code)
"""
    environment = {**base_environment(), "HEALTH_PORT": str(free_port())}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    line, loaded = done.stdout.splitlines()
    assert line.startswith("no worker answers")
    assert loaded == "[]"
