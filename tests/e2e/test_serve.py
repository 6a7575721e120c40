"""``serve``: an answer in the browser's reach, whoever is killed, and nothing left behind at the end."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from tests.support.environment import base_environment
from tests.support.processes import wait_until_gone
from tests.support.servers import RedisServer, free_port
from tests.support.serving import COMMAND, LIMIT, Serve, hearing_hangups
from tests.support.tiny import model_path
from velesio_worker.client import SyncClient
from velesio_worker.engines.supervision.process import STOP_SECONDS

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine
_STARTED: Final = r"worker(?: \d)? is process (\d+)"


@pytest.fixture
def serve(tmp_path: Path, model_path: Path) -> Iterator[Callable[..., Serve]]:
    made: list[Serve] = []

    def make(*arguments: str, **environment: str) -> Serve:
        made.append(Serve(*arguments, cwd=tmp_path, **{"MODEL_PATH": str(model_path)} | environment))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        one.close()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_an_answer_through_the_gateway_and_nothing_left_at_the_end(serve: Callable[..., Serve]) -> None:
    one = serve(REDIS_URL="redis://127.0.0.1:1", MODEL_PATH="").ready()
    assert "REDIS_URL is set and not used" in one.said
    assert f"http://127.0.0.1:{one.port}/" in one.said
    first = next(data for name, data in one.follow(one.submit(max_tokens=4)) if name == "token")
    assert first["choices"]
    family = one.family()
    assert len(family) >= 4  # Redis, worker, gateway, engine
    folder = Path(one.says(r"Logs +(\S+)/log")[0])
    assert (folder / "redis-url").stat().st_mode & 0o077 == 0
    assert one.end() == 0
    assert one.said.endswith("==> all of it has ended\n")
    for child in family:
        wait_until_gone(child)
    assert is_free(one.port)
    assert not folder.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_sentence_goes_on_when_its_worker_is_killed_and_another_one_is_started(
    serve: Callable[..., Serve], workers: int
) -> None:
    one = serve("--workers", str(workers), MODEL_PATH="").ready()
    pids = [int(pid) for pid in one.says(_STARTED, workers)]
    modes: list[str] = []
    tokens, ending, worker = 0, "", ""
    for name, data in one.follow(one.submit(max_tokens=120)):
        if name == "start":
            modes.append(data["mode"])
            worker = data["worker"]
        tokens += name == "token"
        if name == "token" and tokens == 10:
            os.kill(_process_of(one, worker, pids), signal.SIGKILL)
        ending = data.get("finish_reason", "") if name == "done" else ending
    assert modes == ["fresh", "continue"]
    assert ending == "length"
    (killed,) = one.says(r"\(process (\d+)\) was ended by SIGKILL; another one is started in 0.5 s")
    assert int(killed) in pids
    assert len({int(pid) for pid in one.says(_STARTED, workers + 1)} - set(pids)) == 1
    gateway = int(one.says(r"gateway is process (\d+)")[0])
    os.kill(gateway, signal.SIGKILL)
    one.says(r"gateway is process (\d+)", 2)
    one.until(lambda: _answers(one), "the gateway is back")
    family = one.family()
    assert one.end(signal.SIGTERM) == 0
    for child in family:
        wait_until_gone(child)


def _answers(one: Serve) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{one.url}/readyz").status_code == 200
    return False


def _process_of(one: Serve, worker: str, pids: list[int]) -> int:
    log = Path(one.says(r"Logs +(\S+)")[0]).read_text()
    return next(pid for pid in pids if re.search(rf"worker {worker} .*pid={pid}\b", log))


def top(one: Serve) -> dict[str, Any]:
    """What ``top --once --json`` says, called as ``serve`` tells."""
    (variable,) = one.says(r"Fleet +(REDIS_URL_FILE=\S+)")
    name, _, value = variable.partition("=")
    command = [sys.executable, "-m", "velesio_worker", "top", "--once", "--json"]
    return json.loads(subprocess.check_output(command, env=base_environment() | {name: value}))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_nothing_lives_on_when_it_is_killed_or_its_terminal_is_closed(
    serve: Callable[..., Serve], number: signal.Signals
) -> None:
    one = serve()
    one.says(r"loading|ready")
    family = one.until(lambda: found if len(found := one.family()) >= 4 else None, "all parts are there")
    one.end(number)
    for child in family:
        wait_until_gone(child)
    assert is_free(one.port)


def test_a_terminal_that_is_gone_leaves_nothing(tmp_path: Path) -> None:
    """As with the window closed: output fails from then on, and SIGHUP comes."""
    master, slave = pty.openpty()
    with hearing_hangups():
        process = subprocess.Popen(
            [*COMMAND, "--port", str(free_port())],
            env=base_environment() | {"LLM_CONCURRENCY": "2"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=tmp_path,
            start_new_session=True,
        )
    os.close(slave)
    shown = b""
    while b"Ctrl-C" not in shown:
        shown += os.read(master, 1000)
    family = psutil.Process(process.pid).children(recursive=True)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    process.wait(LIMIT)
    for child in family:
        wait_until_gone(child)


def test_redis_that_dies_ends_all_with_its_last_lines(serve: Callable[..., Serve]) -> None:
    one = serve().ready()
    family = one.family()
    (redis,) = (child for child in family if "redis-server" in child.name())
    redis.kill()
    assert one.process.wait(LIMIT) == 1
    one.end()
    assert "error: Redis was ended by SIGKILL. Its last lines:" in one.said
    assert "Ready to accept connections" in one.said
    for child in family:
        wait_until_gone(child)


def test_a_redis_of_ones_own_is_used_and_left_alone(serve: Callable[..., Serve], own_redis: RedisServer) -> None:
    own_redis.start()
    one = serve("--redis-url", own_redis.url, "--verbose", DRAIN_SECONDS="5").ready()
    assert "redis-server" not in one.said.partition("worker is process")[0]
    assert re.search(r"^worker \| .*taking text jobs", one.said, re.MULTILINE)
    assert [name for name, _ in one.follow(one.submit(max_tokens=3))][-1] == "done"
    assert one.end() == 0
    with own_redis.plain() as redis:
        assert redis.ping()
        assert not redis.zrange("{llama_queue}:workers", 0, -1)


def test_a_model_that_is_none_is_told_with_the_reason(serve: Callable[..., Serve], tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"no model")
    one = serve("--model", "broken.gguf")
    assert one.process.wait(LIMIT) == 1
    one.end()
    assert "error: no engine can be started." in one.said
    assert "broken.gguf" in one.said


def test_a_wrong_setting_is_told_at_once(serve: Callable[..., Serve]) -> None:
    one = serve(CONTEXT_SIZE="1")
    assert one.process.wait(LIMIT) == 1
    one.end()
    assert "CONTEXT_SIZE='1'" in one.said
    assert "another one is started" not in one.said


def test_a_redis_that_is_away_is_waited_for_and_named(serve: Callable[..., Serve], own_redis: RedisServer) -> None:
    one = serve("--redis-url", own_redis.url)
    one.says("waiting for Redis: ")
    own_redis.start()
    one.ready()
    assert one.end() == 0


def test_a_second_interrupt_ends_a_worker_that_does_not(serve: Callable[..., Serve]) -> None:
    one = serve().ready()
    family = one.family()
    (pid,) = one.says(r"worker is process (\d+)")
    os.kill(int(pid), signal.SIGSTOP)
    one.process.send_signal(signal.SIGINT)
    one.says("stopping; Ctrl-C once more")
    began = time.monotonic()
    assert one.end() == 0
    assert time.monotonic() - began < STOP_SECONDS
    for child in family:
        wait_until_gone(child)


def test_a_worker_that_was_drained_is_not_started_again(serve: Callable[..., Serve]) -> None:
    one = serve("--workers", "2").ready()
    address = Path(one.says(r"REDIS_URL_FILE=(\S+)")[0]).read_text()
    one.until(lambda: len(top(one)["workers"]) == 2, "both are there")
    first, second = (worker["worker"] for worker in top(one)["workers"])
    with SyncClient(address) as client:
        assert list(one.follow(one.submit(max_tokens=7)))
        one.until(lambda: sum(worker.details.tokens or 0 for worker in client.look().workers) == 7, "tokens are told")
        client.drain(first)
        one.says(r"worker \d \(process \d+\) has ended, as it was asked to")
        assert [name for name, _ in one.follow(one.submit(max_tokens=3))][-1] == "done"
        client.drain(second)
    assert one.process.wait(LIMIT) == 1
    one.end()
    assert "was the last one, and has ended as it was asked to" in one.said
    assert "another one is started" not in one.said
