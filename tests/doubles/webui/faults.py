"""Generations that fail on order."""

from __future__ import annotations

import os
import threading
from typing import Final

from tests.doubles.webui.setup import ClosingError, Setup, crash

FAULTS: Final = {
    "oom": "OutOfMemoryError",
    "nan": "NansException",
    "hang": "hang",
    "crash": "crash",
    "drop": "drop",
}
"""By short name: out of memory, a broken model, a step without end, the end of the process, no answer but a closed
connection. Any other word is the class of an exception."""

_TEXTS: Final = {
    "OutOfMemoryError": (
        "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.20 GiB is "
        "free."
    ),
    "NansException": (
        "A tensor with NaNs was produced in Unet. Use --disable-nan-check commandline argument to disable this check."
    ),
}


class DroppedError(Exception):
    """The connection is to be closed without an answer."""


class Faults:
    """The faults that wait for a generation: each spoils one."""

    def __init__(self, setup: Setup, closing: threading.Event) -> None:
        self._note = setup.fail_note
        self._closing = closing
        self._waiting = [setup.fail_with] if setup.fail_with else []
        self._memory = setup.memory_pixels

    def add(self, fault: str) -> None:
        self._waiting.append(fault)

    def take(self, pixels: int) -> str | None:
        """The fault of the generation that starts now, which holds so many pixels at once."""
        if self._memory is not None and pixels > self._memory:
            return FAULTS["oom"]
        if not self._waiting or (self._note and self._note.exists()):
            return None
        if self._note:
            self._note.touch()
        fault = self._waiting.pop(0)
        return FAULTS.get(fault, fault)

    def strike(self, fault: str) -> None:
        """Spoil a generation in the middle of it.

        Raises:
            RefusedError, DroppedError, ClosingError: instead of a result.
        """
        match fault:
            case "hang":
                self._closing.wait()
                raise ClosingError
            case "crash":
                os._exit(1)
            case "drop":
                raise DroppedError
            case _:
                raise crash(fault, _TEXTS.get(fault, "something went wrong"))
