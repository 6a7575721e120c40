"""How far something is: a bar on standard error where that is a terminal, and few plain lines, or none, elsewhere.

Nothing of it is ever on standard output, which programs read. Texts that others wrote are harmless here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from velesio_worker.core.terminal import is_drawn
from velesio_worker.engines.models.meter import Meter
from velesio_worker.wire.printable import printable

if TYPE_CHECKING:  # which take their time
    from rich.progress import ProgressColumn

    from velesio_worker.engines.models.transfer import OnProgress


class Note(Protocol):
    """Notes how far it is: how much of how much is done (None: nobody knows), and what is shown beside it."""

    def __call__(self, text: str | None = None, done: float | None = None, total: float | None = None) -> None:
        """Note it; what is left out stays as it is."""


@contextmanager
def download_bar(name: str) -> Generator[OnProgress, None, None]:
    """Show how a download goes: a bar, or a line at the start, at each tenth and every 30 s.

    Yields:
        what is told the bytes that are there, and those there are in all or None.
    """
    if is_drawn(sys.stderr):
        from rich import progress  # noqa: PLC0415 (only where it is drawn)

        left = progress.TimeRemainingColumn(compact=True)
        columns = progress.BarColumn(), progress.DownloadColumn(binary_units=True), progress.TransferSpeedColumn(), left
        with _bar(name, *columns) as note:
            yield lambda done, total: note(done=done, total=total)
        return
    meter = Meter()

    def report(done: int, total: int | None) -> None:
        meter.note(done, total)
        if meter.is_due():
            print(meter, file=sys.stderr, flush=True)

    yield report


@contextmanager
def step_bar(text: str) -> Generator[Note, None, None]:
    """Show how far a job is: a bar that goes away at its end, or a line at each tenth."""
    if is_drawn(sys.stderr):
        from rich import progress  # noqa: PLC0415 (only where it is drawn)

        columns = progress.BarColumn(), progress.TaskProgressColumn(), progress.TimeElapsedColumn()
        with _bar(text, *columns, transient=True) as note:
            yield note
        return
    tenth = -1

    def report(text: str | None = None, done: float | None = None, total: float | None = None) -> None:
        nonlocal tenth
        share = min(max(done / total, 0.0), 1.0) if done is not None and total else 0.0
        if done is not None and int(10 * share) > tenth:
            tenth = int(10 * share)
            print(f"{100 * share:3.0f} %  {printable(text or '')}".rstrip(), file=sys.stderr, flush=True)

    yield report


@contextmanager
def spinner(text: str) -> Generator[Note, None, None]:
    """Show that something takes its time, such as a model that loads, and for how long; nothing without a terminal."""
    if not is_drawn(sys.stderr):
        yield lambda text=None, done=None, total=None: None  # noqa: ARG005 (nobody looks)
        return
    from rich import progress  # noqa: PLC0415 (only where it is drawn)

    with _bar(text, progress.SpinnerColumn(), progress.TimeElapsedColumn(), transient=True) as note:
        yield note


@contextmanager
def _bar(text: str, *columns: ProgressColumn, transient: bool = False) -> Generator[Note, None, None]:
    """Draw one line anew until the end; what is logged or printed on standard error meanwhile stands above it."""
    from rich.console import Console  # noqa: PLC0415 (only where it is drawn)
    from rich.progress import Progress, TextColumn  # noqa: PLC0415

    shown = TextColumn("{task.description}", markup=False)  # what others wrote is no markup
    bar = Progress(shown, *columns, console=Console(stderr=True), transient=transient, redirect_stdout=False)
    task = bar.add_task(printable(text), total=None)

    def note(text: str | None = None, done: float | None = None, total: float | None = None) -> None:
        bar.update(task, completed=done, total=total, description=None if text is None else printable(text))

    handlers: list[logging.StreamHandler[Any]] = [
        each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)
    ]
    before = sys.stderr
    with bar:
        for handler in handlers:
            handler.setStream(sys.stderr)
        try:
            yield note
        finally:
            for handler in handlers:
                handler.setStream(before)
