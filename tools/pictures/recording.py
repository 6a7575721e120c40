"""Runs a program in a terminal and notes what it writes, and when."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tools.pictures.screen import Cell, Screen

IDLE_SECONDS: Final = 0.05
ENDING_SECONDS: Final = 20.0


@dataclass
class Terminal:
    """A program in its terminal.

    Attributes:
        screen: what stands there.
        frames: what stood there, each time with the seconds since the start.
    """

    screen: Screen
    process: subprocess.Popen[bytes]
    terminal: int
    began: float = field(default_factory=time.monotonic)
    frames: list[tuple[float, list[list[Cell]]]] = field(default_factory=list[tuple[float, list[list[Cell]]]])
    _decode: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def watch(self, until: Callable[[], bool], seconds: float) -> bool:
        """Note what is written until a condition holds, or the program ends; False: it took longer than that."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                return False
            if select.select([self.terminal], [], [], IDLE_SECONDS)[0]:
                try:
                    written = os.read(self.terminal, 65536)
                except OSError:  # it has ended
                    return until()
                if not written:
                    return until()
                self.screen.feed(self._decode.decode(written))
                self.frames.append((time.monotonic() - self.began, self.screen.shown()))
        return True

    def to_its_end(self, seconds: float) -> int:
        """Note what is written to the program's end; returns its exit code."""
        self.watch(lambda: False, seconds)
        return self.process.wait(ENDING_SECONDS)

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self.terminal, keys.encode())


@contextmanager
def in_terminal(
    command: Sequence[str], env: Mapping[str, str], *, columns: int, rows: int
) -> Generator[Terminal, None, None]:
    """Run a program in a terminal of its own while the block runs."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    look = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": str(columns), "LINES": str(rows)}
    given = {name: value for name, value in env.items() if name not in {"NO_COLOR", "CI"}}
    process = subprocess.Popen(
        command, env={**given, **look}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Terminal(Screen(columns, rows), process, ours)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.close(ours)
