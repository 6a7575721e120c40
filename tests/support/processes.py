"""Worker processes, as an operator starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.environment import base_environment
from tests.support.forks import Forked, fork_server
from tests.support.servers import free_port


class WorkerProcess:
    """``velesio-worker`` as a process of its own, its log read as JSON.

    Args:
        log: where its log goes.
        settings: environment variables, by name.
    """

    def __init__(self, log: Path, **settings: str) -> None:
        self._log = log
        self.environment = {
            **base_environment(),
            "LLAMA_PORT": str(free_port()),
            "RUN_SD": "false",
            "HEALTH_PORT": "0",
            "LOG_FORMAT": "json",
            "GPU_LAYERS": "0",
            "LLAMA_OPEN": "true",  # so that tests, and other workers, may ask its llama-server
            **settings,
        }
        self.process: subprocess.Popen[bytes] | Forked | None = None

    def start(self) -> None:
        self.process = fork_server().start(self.environment, self._log)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def lines(self) -> list[dict[str, Any]]:
        """The lines of the log that are complete."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def wait_for(self, action: str, *, count: int = 1, limit: float = 90) -> dict[str, Any]:
        """Wait until the log has ``count`` lines with this action; returns the last of them."""
        deadline = time.monotonic() + limit
        while True:
            found = [line for line in self.lines() if line.get("action") == action]
            if len(found) >= count:
                return found[count - 1]
            ended = self.process is not None and self.process.poll() is not None
            assert not ended, f"the worker ended before {action}:\n{self.log_text()}"
            assert time.monotonic() < deadline, f"no {action} in {limit} s:\n{self.log_text()}"
            time.sleep(0.02)

    def log_text(self) -> str:
        return self._log.read_text(errors="replace")

    def engine(self) -> psutil.Process:
        """The llama-server that this worker started."""
        children = psutil.Process(self.pid).children()
        assert len(children) == 1, children
        return children[0]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, limit: float = 90) -> int:
        assert self.process is not None
        return self.process.wait(limit)

    def stop(self) -> int:
        """SIGTERM, then wait; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.process is not None and self.process.poll() is None:
            family = [psutil.Process(self.pid)]
            with suppress(psutil.NoSuchProcess):  # it ends at this moment
                family += family[0].children(recursive=True)
            for member in family[::-1]:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            self.process.wait(60)


def wait_until_gone(process: psutil.Process, limit: float = 60) -> None:
    """Wait until a process has ended."""
    deadline = time.monotonic() + limit
    while is_there(process):
        assert time.monotonic() < deadline, f"{process} is still there"
        time.sleep(0.02)


def is_there(process: psutil.Process) -> bool:
    """Whether a process has not ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it went between the two questions
        return False


MakeWorker = Callable[..., WorkerProcess]
