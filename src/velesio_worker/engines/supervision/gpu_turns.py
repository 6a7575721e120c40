"""Whose turn it is on a GPU that holds one engine at a time (``GPU_SHARING=exclusive``)."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

TURN_SECONDS: Final = 30.0
"""How long an engine that has work keeps the GPU while another one waits for it."""


class Turn(Enum):
    """How an engine stands with the GPU."""

    NONE = auto()
    WAITED_FOR = auto()
    HELD = auto()


class GpuTurns:
    """Lets one engine at a time hold the GPU, first come, first served.

    An engine stands in the line as the function that tells it that something has changed: it is the first now, or,
    being the first, has somebody behind it.
    """

    def __init__(self) -> None:
        self._line: list[Callable[[], None]] = []

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for whoever has it now."""
        return len(self._line) > 1

    def turn_of(self, tell: Callable[[], None]) -> Turn:
        """How an engine stands."""
        if tell not in self._line:
            return Turn.NONE
        return Turn.HELD if self._line[0] == tell else Turn.WAITED_FOR

    def join(self, tell: Callable[[], None]) -> None:
        """Wait for one's turn, or have it at once if nobody else does."""
        self._line.append(tell)
        self._line[0]()

    def leave(self, tell: Callable[[], None]) -> None:
        """Give it back, or wait no longer; nothing happens if one does neither."""
        if tell in self._line:
            self._line.remove(tell)
            if self._line:
                self._line[0]()
