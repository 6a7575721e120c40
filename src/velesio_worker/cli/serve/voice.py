"""What ``serve`` says: a few lines for people, and all that its parts write in a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from velesio_worker.cli.base import harmless

_DOWNLOADING: Final = re.compile(r"downloading [^\[\n]+[^\s\[]")


class Voice:
    """Speaks to people. A terminal that was closed is no reason to stop.

    Args:
        console: where to; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._doing = ""

    def say(self, text: str) -> None:
        """Say that something is done, or has happened."""
        self.show(f"==> {text}")

    def show(self, text: str) -> None:
        """Print a text as it is."""
        with suppress(OSError):
            self._console.print(harmless(text), markup=False)
            self._console.file.flush()

    @contextmanager
    def waiting(self) -> Generator[Self, None, None]:
        """Show what is waited for as long as the context lasts: on a terminal in one line that moves."""
        if not self._console.is_terminal:
            yield self
            return
        with self._console.status("starting") as self._status:
            yield self
        self._status = None

    def doing(self, text: str, passed: float) -> None:
        """Say what is waited for now, and since when, in seconds; without a terminal once for each text."""
        if self._status is not None:
            self._status.update(f"{escape(harmless(text))}, {passed:.0f} s")
        elif text != self._doing:
            self.say(text)
        self._doing = text


class Journal:
    """Keeps what the parts write. A context manager.

    Args:
        path: the file; it is this user's alone.
        aloud: whether to print it, too.

    Attributes:
        download: what a part said last of a download; empty before that, and once it is over.
    """

    def __init__(self, path: Path, *, aloud: bool = False) -> None:
        path.touch(mode=0o600)
        self.path = path
        self._file = path.open("a", encoding="utf-8", errors="replace")
        self._aloud = aloud
        self.download = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def of(self, part: str) -> Callable[[str], None]:
        """Return what takes the lines of a part."""

        def take(line: str) -> None:
            text = f"{part} | {harmless(line)}\n"
            if found := _DOWNLOADING.search(text):
                self.download = found[0]
            elif "action=model_download" in text:  # it is there, or is tried again
                self.download = ""
            with suppress(OSError, ValueError):  # the disk is full, the terminal gone, or all of it has ended
                self._file.write(text)
                self._file.flush()
                if self._aloud:
                    sys.stderr.write(text)
                    sys.stderr.flush()

        return take
