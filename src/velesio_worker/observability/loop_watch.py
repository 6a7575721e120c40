"""Notices from a thread that the event loop does not move, and says in the log where it is stuck."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from velesio_worker.core.logs import get_logger

LOOK_SECONDS: Final = 1.0
_LOOKS: Final = 2
"""At the first look the whole process may just have been woken, and the loop with it."""

_FRAMES: Final = 6

log = get_logger(__name__)


@contextmanager
def loop_watched(stuck_for: Callable[[], float], *, look_seconds: float = LOOK_SECONDS) -> Generator[None, None, None]:
    """Watch the event loop of this thread as long as the context lasts.

    Args:
        stuck_for: for how long the loop has not moved, in seconds; 0 while that is not worth a word.
        look_seconds: how often that is looked at.
    """
    over = threading.Event()
    loop = threading.get_ident()
    arguments = (stuck_for, loop, over, look_seconds)
    threading.Thread(target=_watch, args=arguments, name="loop-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(stuck_for: Callable[[], float], loop: int, over: threading.Event, look_seconds: float) -> None:
    looks = 0
    while not over.wait(look_seconds):
        silent = stuck_for()
        if silent:
            looks += 1
            if looks == _LOOKS:
                log.critical(
                    f"the worker's event loop has not moved for {silent:.0f} s: restart the worker. "
                    f"It is at {_place(loop)}",
                    action="loop_stuck",
                )
        elif looks:
            if looks >= _LOOKS:
                log.warning("the worker's event loop moves again", action="loop_moves")
            looks = 0


def _place(loop: int) -> str:
    """Return where a thread is, innermost call first: files, lines and functions, and no values."""
    frame = sys._current_frames().get(loop)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] (the documented way)
    calls = traceback.extract_stack(frame)[-_FRAMES:] if frame is not None else []
    return " < ".join(f"{call.filename}:{call.lineno} {call.name}" for call in reversed(calls)) or "an unknown place"
