"""``velesio-worker serve``, as somebody runs it who tries this out."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.support.environment import base_environment
from tests.support.servers import free_port

COMMAND: Final = (sys.executable, "-m", "velesio_worker", "serve")
LIMIT: Final = 100.0


@contextmanager
def hearing_hangups() -> Generator[None]:
    """Have processes that are started here hear SIGHUP, whoever started this one: it is ignored below nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


class Serve:
    """``velesio-worker serve``, and what it has said."""

    def __init__(self, *arguments: str, cwd: Path, **environment: str) -> None:
        self.port = free_port()
        with hearing_hangups():
            self.process = subprocess.Popen(
                [*COMMAND, "--port", str(self.port), *arguments],
                env=base_environment() | {"LLM_CONCURRENCY": "2"} | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=cwd,
            )
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + LIMIT
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not {what}:\n{self.said}"
            time.sleep(0.02)
        return found

    def says(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until it has said that so often; returns the group, or all of it, each time."""
        self.until(lambda: len(re.findall(pattern, self.said)) >= count, pattern)
        return re.findall(pattern, self.said)

    def ready(self) -> Serve:
        self.says(r"End +Ctrl-C")
        return self

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = self.process.wait(LIMIT)
        self.close()
        return code

    def close(self) -> None:
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def submit(self, **data: Any) -> str:
        job = {"prompt": "Once upon a time", "max_tokens": 200, "stream": True, "ignore_eos": True} | data
        answer = httpx.post(f"{self.url}/jobs", json={"type": "completion", "data": job})
        return answer.json()["links"]["events"]

    def follow(self, events: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the events of a job to the last one."""
        name = ""
        with httpx.stream("GET", f"{self.url}{events}", timeout=LIMIT) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))
                    if name in {"done", "error"}:
                        return
