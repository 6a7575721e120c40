"""The terminal view in a real terminal, 80 by 24, on four workers at work, one of which is killed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.environment import base_environment
from tests.support.fleet_of_four import four_workers, shared_server
from tests.support.processes import WorkerProcess
from tests.support.streams import NO_END, push

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]
LIMIT: Final = 60.0
ROOT: Final = Path(__file__).parents[2]


class Terminal:
    """A terminal of 80 by 24 characters in which a command runs."""

    def __init__(self, folder: Path, command: list[str], **environment: str) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]
        words = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
        self._run("new-session", "-d", "-x", "80", "-y", "24", shlex.join(words))

    def _run(self, *words: str) -> str:
        env = base_environment() | {"LANG": "C.UTF-8", "TERM": "xterm-256color"}
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True, env=env).stdout

    def page(self, *, colours: bool = False) -> str:
        return self._run("capture-pane", "-p", *(["-e"] if colours else []))

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def shows(self, *words: str, not_: str = "\0") -> str:
        """Wait until the page has all of these words, and not that one; returns it."""
        deadline = time.monotonic() + LIMIT
        while not all(word in (page := self.page()) for word in words) or not_ in page:
            assert time.monotonic() < deadline, f"not {words}:\n{page}"
            time.sleep(0.05)
        return page

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("top")


@pytest.fixture
def fleet(folder: Path, model_path: Path, redis_url: str) -> Iterator[list[WorkerProcess]]:
    settings = {"REDIS_URL": redis_url, "LLM_CONCURRENCY": "2", "LEASE_SECONDS": "3", "DRAIN_SECONDS": "1"}
    with (
        shared_server(model_path, folder / "server.log") as url,
        four_workers(folder, LLAMA_SERVER_URL=url, **settings) as workers,
    ):
        yield workers


def test_four_workers_one_of_which_dies(folder: Path, fleet: list[WorkerProcess], plain: Any, redis_url: str) -> None:
    for number in range(4):
        push(plain, f"story-{number}", max_tokens=900, stream=True, logit_bias=NO_END)
    command = [sys.executable, "-m", "velesio_worker", "top"]
    terminal = Terminal(folder, command, REDIS_URL=redis_url, PYTHONPATH=str(ROOT / "src"), NO_COLOR="1")
    try:
        page = terminal.shows("4 workers", "4/8 slots", "story-0", "story-3", "q Quit")
        lines = page.splitlines()
        assert len(lines) == 24
        assert max(map(len, lines)) <= 80
        assert all(lines[row].split()[1:3] == ["text", "ready"] for row in range(2, 6))
        terminal.shows("4 workers", "tok/s", not_="- tok/s")

        terminal.press("Enter")
        terminal.shows("stream of story-", "[attempt 1 on ")
        terminal.press("q")  # an Escape that a key follows at once would be another key

        terminal.press("c")
        terminal.shows("Cancel completion story-", "y  yes")
        terminal.press("y")
        terminal.shows("3/8 slots", "3 jobs")

        busy = next(worker for worker in fleet if plain.hget(_hash(worker), "text_running") != "0")
        name = _name(busy)
        busy.signal(signal.SIGKILL)
        page = terminal.shows("3 workers, 1 lost", "lost ")
        assert any(name[-8:] in line and "lost" in line for line in page.splitlines())
        again = re.compile(r"^story-\d .*s +2 +\d", re.MULTILINE)
        deadline = time.monotonic() + LIMIT
        while not again.search(page := terminal.page()):  # others go on with its job, in a second attempt
            assert time.monotonic() < deadline, page
            time.sleep(0.05)
        assert not re.search(r"\x1b\[([34][0-8]|9)", terminal.page(colours=True))

        living = next(worker for worker in fleet if worker is not busy)
        place = sorted([_name(worker) for worker in fleet if worker is not busy] + [name])
        terminal.press("BTab", *["Down"] * place.index(_name(living)), "d")
        terminal.shows(f"Drain {_name(living)}?")
        terminal.press("y")
        assert living.wait_for("worker_drained")
        assert living.wait() == 0
        terminal.shows("2 workers")  # the lost one is named for a while only
        terminal.press("q")
        deadline = time.monotonic() + LIMIT
        while terminal_lives(terminal):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        terminal.close()


def terminal_lives(terminal: Terminal) -> bool:
    """Whether the command still runs in it: tmux ends with its last one."""
    try:
        terminal.page()
    except subprocess.CalledProcessError:
        return False
    return True


def _hash(worker: WorkerProcess) -> str:
    return f"{{llama_queue}}:worker:{_name(worker)}"


def _name(worker: WorkerProcess) -> str:
    return worker.wait_for("worker_ready")["worker"]
