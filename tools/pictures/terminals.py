"""Pictures of what runs in a terminal: the demo."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Final

from tools.pictures.recording import Terminal, in_terminal
from tools.pictures.svg import moving

_COMMAND: Final = [sys.executable, "-m", "velesio_worker"]
_KEY_SECONDS: Final = 0.07
_DEMO_SECONDS: Final = 180.0


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


def _typed(terminal: Terminal, command: str) -> None:
    """Show the command line that somebody types before the program begins to write."""
    terminal.screen.feed("\x1b[1;32m$\x1b[0m ")
    for number, key in enumerate(command):
        terminal.screen.feed(key)
        terminal.frames.append((number * _KEY_SECONDS, terminal.screen.shown()))
    terminal.screen.feed("\r\n")
    terminal.began = time.monotonic() - len(command) * _KEY_SECONDS
