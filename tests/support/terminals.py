"""Commands in a terminal: a pseudo-terminal of 80 columns, and all that was written to it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.environment import base_environment

_COLOURS: Final = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "COLUMNS", "LINES", "TMUX")
_ROWS, _COLUMNS = 24, 80


def environment(**more: str) -> dict[str, str]:
    """An environment in which nothing but the terminal decides about colours, of a terminal that can show no images."""
    plain = {
        name: value
        for name, value in base_environment().items()
        if name not in _COLOURS and not name.startswith(("TERM", "KITTY", "LC_TERMINAL"))
    }
    return plain | {"TERM": "xterm-256color"} | more


class InTerminal:
    """A ``velesio-worker`` whose standard error, and output unless it is given elsewhere, are a terminal."""

    def __init__(self, env: Mapping[str, str], *arguments: str, stdout: int | None, place: Path | None) -> None:
        self._ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "velesio_worker", *arguments],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=its if stdout is None else stdout,
            stderr=its,
            cwd=place,
        )
        os.close(its)
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self._ours, 65536):
                self._written += chunk
        except OSError:  # EIO: nobody has it open any more
            pass

    @property
    def shown(self) -> str:
        """All that was written to the terminal so far."""
        return self._written.decode(errors="replace")

    def ended(self) -> tuple[int, str]:
        """Wait for its end; returns the exit code, and all that was shown."""
        code = self.process.wait(60)
        self._reader.join(60)
        return code, self.shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)
        self._reader.join(60)
        os.close(self._ours)


@contextmanager
def in_terminal(
    env: Mapping[str, str], *arguments: str, stdout: int | None = None, place: Path | None = None
) -> Generator[InTerminal, None, None]:
    """Run a command in a terminal; it is killed should it not have ended."""
    running = InTerminal(env, *arguments, stdout=stdout, place=place)
    try:
        yield running
    finally:
        running.close()
