"""The server out of the wheel as a process: it must serve, fail and end as llama.cpp's own program does."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.environment import base_environment
from tests.support.servers import free_port, wait_until
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine

LEVEL = re.compile(r"^[\d.]+ [DIWE] ")
SOON = 10.0
"""How long an end may take, in seconds: the process that started it kills it then. It takes less than one here."""


class Server:
    """The server as the worker starts it; what it writes goes to a file.

    Args:
        log: that file.
        model: the model's file.
        flags: further flags.
        environment: further environment variables.
        output: where its output goes instead of to the file.
        redirect: what a shell does with its standard streams.
    """

    def __init__(
        self,
        log: Path,
        model: Path,
        *flags: str,
        environment: dict[str, str] | None = None,
        output: int | None = None,
        redirect: str = "",
    ) -> None:
        self._log = log
        self.port = free_port()
        wanted = ["--port", str(self.port), "--ctx-size", "1024", "--parallel", "2", "--threads", "1", "--no-warmup"]
        command = [
            sys.executable,
            "-m",
            "velesio_worker.engines.llama.embedded",
            "--model",
            str(model),
            *wanted,
            *flags,
        ]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", *command] if redirect else command,
                env=base_environment() | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=file if output is None else output,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def ask(self, path: str, body: Any = None, key: str = "") -> tuple[int, Any]:
        """Send a request; returns the status code and the JSON of the answer."""
        with closing(self.send(path, body, key)) as connection:
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def send(self, path: str, body: Any = None, key: str = "") -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, json.dumps(body), headers | {"Content-Type": "application/json"})
        return connection

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.said()
        try:
            return self.ask("/health")[0] == 200 and self._minds_signals()
        except (OSError, HTTPException):
            return False

    def _minds_signals(self) -> bool:
        """Whether it catches signals yet: it answers a moment earlier, as llama.cpp's own program does."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except FileNotFoundError:  # no Linux
            return True
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        return all(caught >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGINT))

    def end(self, number: signal.Signals, limit: float = SOON) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(limit)


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path, model_path: Path) -> Iterator[Start]:
    """Start servers; all of them are gone afterwards."""
    started: list[Server] = []

    def begin(*flags: str, model: Path = model_path, ready: bool = True, **options: Any) -> Server:
        server = Server(tmp_path / f"server-{len(started)}.log", model, *flags, **options)
        started.append(server)
        if ready:
            wait_until(server.is_ready, "the server is ready")
        return server

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(SOON)


@contextmanager
def streaming(server: Server) -> Generator[IO[bytes]]:
    """A long answer of which the first token has come."""
    body = {"prompt": "Once upon a time", "n_predict": 900, "ignore_eos": True, "stream": True}
    with closing(server.send("/completion", body)) as connection:
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        yield response


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0_and_the_log_says_so(start: Start, number: signal.Signals) -> None:
    server = start()
    assert server.end(number) == 0
    lines = server.said().splitlines()
    assert lines[-1].endswith("cleaning up before exit...")
    assert [line for line in lines if not LEVEL.match(line)] == []


def test_a_signal_ends_it_while_an_answer_streams_to_a_client_that_stays(start: Start) -> None:
    server = start()
    with streaming(server):
        assert server.end(signal.SIGTERM) == 0


def test_a_signal_ends_it_while_a_long_prompt_is_read(start: Start, small_model_path: Path) -> None:
    server = start(
        *("--ctx-size", "8192", "--batch-size", "8192", "--ubatch-size", "4096", "--slots"), model=small_model_path
    )
    with closing(server.send("/completion", {"prompt": "word " * 4000, "n_predict": 1})):
        wait_until(lambda: any(slot["is_processing"] for slot in server.ask("/slots")[1]), "the prompt is read")
        assert server.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_while_the_model_loads(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    endless = tmp_path / "endless.gguf"
    os.mkfifo(endless)
    server = start(model=endless, ready=False)
    wait_until(lambda: "loading model" in server.said(), "the model is being loaded")
    assert server.ask("/health")[0] == 503
    assert server.end(number) == -number


def test_a_taken_port_ends_it_with_exit_code_1_and_the_log_says_so(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = start("--port", str(other.getsockname()[1]), ready=False)
        assert server.process.wait(100) == 1
    assert "couldn't bind" in server.said()


@pytest.mark.parametrize("size", [None, 0, 100_000])
def test_a_model_that_is_missing_or_cut_off_ends_it_with_exit_code_1(
    start: Start, tmp_path: Path, model_path: Path, size: int | None
) -> None:
    model = tmp_path / "cut.gguf"
    if size is not None:
        with model_path.open("rb") as whole:
            model.write_bytes(whole.read(size))
    server = start(model=model, ready=False)
    assert server.process.wait(100) == 1
    assert "failed to load model" in server.said()
    assert server.said().splitlines()[-1].endswith("exiting due to model loading error")


def test_a_flag_that_is_none_ends_it_with_exit_code_1(start: Start) -> None:
    server = start("--foo", ready=False)
    assert server.process.wait(100) == 1
    assert server.said() == "error: invalid argument: --foo\n"


def test_it_serves_and_ends_when_nobody_reads_its_log_any_more(start: Start) -> None:
    reading, writing = os.pipe()
    server = start(output=writing)
    os.close(writing)
    os.close(reading)
    for _ in range(2):
        assert server.ask("/completion", {"prompt": "a", "n_predict": 2})[0] == 200
    assert server.end(signal.SIGTERM) == 0


def test_it_ends_when_its_log_is_full_and_nobody_reads(start: Start) -> None:
    reading, writing = os.pipe()
    try:
        server = start(output=writing)
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while os.write(writing, b"x"):
                pass
        os.set_blocking(writing, True)
        assert server.end(signal.SIGTERM) == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_without_standard_streams_no_client_gets_the_log(start: Start) -> None:
    server = start(redirect="<&- >&- 2>&-")
    status, answer = server.ask("/completion", {"prompt": "a", "n_predict": 2})
    assert (status, answer["tokens_predicted"]) == (200, 2)
    assert server.end(signal.SIGTERM) == 0


def test_a_client_that_leaves_frees_its_slot(start: Start, small_model_path: Path) -> None:
    server = start("--slots", model=small_model_path)
    with streaming(server):
        assert any(slot["is_processing"] for slot in server.ask("/slots")[1])
    wait_until(lambda: not any(slot["is_processing"] for slot in server.ask("/slots")[1]), "the slot is free")


def test_flags_reach_the_server(start: Start) -> None:
    flags = ["--embeddings", "--pooling", "mean", "--alias", "one", "-np", "4", "--no-slots", "--temp", "0.25"]
    server = start(*flags, environment={"LLAMA_API_KEY": "secret"})
    assert server.ask("/props")[0] == 401
    props = server.ask("/props", key="secret")[1]
    assert (props["total_slots"], props["default_generation_settings"]["params"]["temperature"]) == (4, 0.25)
    assert server.ask("/v1/models", key="secret")[1]["data"][0]["id"] == "one"
    assert server.ask("/slots", key="secret")[0] == 501
    status, answer = server.ask("/v1/embeddings", {"input": ["a", "b"]}, key="secret")
    assert (status, len(answer["data"])) == (200, 2)


def test_a_grammar_given_as_a_flag_holds_for_every_answer(start: Start) -> None:
    server = start("--grammar", 'root ::= "yes" | "no"')
    assert server.ask("/completion", {"prompt": "a", "n_predict": 8})[1]["content"] in {"yes", "no"}


def test_reranking_ranks(start: Start) -> None:
    server = start("--rerank")
    status, answer = server.ask("/v1/rerank", {"query": "a", "documents": ["b", "c", "d"]})
    assert (status, len(answer["results"])) == (200, 3)


def test_the_chat_template_is_the_one_in_the_file(start: Start, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for message in messages %}[{{ message.content }}]{% endfor %}")
    server = start("--chat-template-file", str(template))
    answer = server.ask("/apply-template", {"messages": [{"role": "user", "content": "Hi"}]})[1]
    assert answer["prompt"].startswith("[Hi]")


def test_a_second_server_waits_for_nothing_that_the_first_left(start: Start) -> None:
    first = start()
    with streaming(first):
        assert first.end(signal.SIGTERM) == 0
    second = start("--port", str(first.port), ready=False)
    second.port = first.port
    wait_until(second.is_ready, "the second server is ready, sooner than the kernel forgets a connection")
