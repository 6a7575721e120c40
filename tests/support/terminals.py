"""Commands in a terminal: a pseudo-terminal of 80 columns, and all that was written to it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.environment import base_environment
from tests.support.forks import fork_server

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

    def __init__(self, env: Mapping[str, str], *arguments: str, stdout: Path | None, place: Path | None) -> None:
        self._ours, self._its = pty.openpty()  # open here as well, until the command has opened it and has ended
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        terminal = Path(os.ttyname(self._its))
        self.process = fork_server().start(env, stdout or terminal, *arguments, err=terminal, place=place)
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
        self._end_reading()
        return code, self.shown

    def _end_reading(self) -> None:
        if self._reader.is_alive():
            os.close(self._its)
            self._reader.join(60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)
        self._end_reading()
        os.close(self._ours)


@contextmanager
def in_terminal(
    env: Mapping[str, str], *arguments: str, stdout: Path | None = None, place: Path | None = None
) -> Generator[InTerminal, None, None]:
    """Run a command in a terminal; it is killed should it not have ended."""
    running = InTerminal(env, *arguments, stdout=stdout, place=place)
    try:
        yield running
    finally:
        running.close()
