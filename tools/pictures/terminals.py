"""Pictures of what runs in a terminal: the demo, and the view of a fleet."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.support.servers import RedisServer
from tools.pictures.fleet import fleet
from tools.pictures.recording import Terminal, in_terminal
from tools.pictures.svg import moving, still

_COMMAND: Final = [sys.executable, "-m", "velesio_worker"]
_KEY_SECONDS: Final = 0.07
_DEMO_SECONDS: Final = 180.0
_TOP_SECONDS: Final = 10.0


def demo(folder: Path) -> None:
    """``make demo``, as it goes.

    Raises:
        RuntimeError: the demo failed.
    """
    with in_terminal([*_COMMAND, "demo"], os.environ, columns=100, rows=40) as terminal:
        _typed(terminal, "make demo")
        if terminal.to_its_end(_DEMO_SECONDS):
            raise RuntimeError(f"the demo failed:\n{terminal.screen.text()}")
    label = "make demo starts a Redis, a worker and a llama.cpp server and prints an answer token by token"
    (folder / "demo.svg").write_text(moving(terminal.frames, title="make demo", label=label), "utf-8")


def top(folder: Path) -> None:
    """``velesio-worker top`` with a fleet of four, once it has seen how fast they are.

    Raises:
        RuntimeError: it ended, or showed no such thing.
    """
    with (
        tempfile.TemporaryDirectory(prefix="velesio-pictures-") as data,
        RedisServer(Path(data)) as server,
        server.plain() as redis,
        fleet(redis),
        in_terminal([*_COMMAND, "top"], {**os.environ, "REDIS_URL": server.url}, columns=100, rows=18) as terminal,
    ):
        began = time.monotonic()
        if not terminal.watch(lambda: time.monotonic() - began > _TOP_SECONDS, 2 * _TOP_SECONDS):
            raise RuntimeError(f"top did not go on:\n{terminal.screen.text()}")
        if "gpu-1" not in terminal.screen.text():
            raise RuntimeError(f"top shows no fleet:\n{terminal.screen.text()}")
        shown = terminal.screen.shown()
        terminal.press("q")
        terminal.to_its_end(_TOP_SECONDS)
    label = "velesio-worker top: workers with their engines, GPUs and tokens per second; queues; the jobs that run"
    (folder / "top.svg").write_text(still(shown, title="velesio-worker top", label=label), "utf-8")


def _typed(terminal: Terminal, command: str) -> None:
    """Show the command line that somebody types before the program begins to write."""
    terminal.screen.feed("\x1b[1;32m$\x1b[0m ")
    for number, key in enumerate(command):
        terminal.screen.feed(key)
        terminal.frames.append((number * _KEY_SECONDS, terminal.screen.shown()))
    terminal.screen.feed("\r\n")
    terminal.began = time.monotonic() - len(command) * _KEY_SECONDS
