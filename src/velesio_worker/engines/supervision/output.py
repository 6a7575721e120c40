"""How much of an engine's output is passed on: one that writes without an end fills no disk with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

LINES_A_SECOND: Final = 200
BURST_LINES: Final = 500
"""So many at once are passed on: a start has some hundred."""

_LONG: Final = 500
"""A line counts once more for each so many characters."""


class OutputBudget:
    """Passes lines on, and of too many how many were left out.

    Args:
        on_line: gets each line that is passed on.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._left = float(BURST_LINES)
        self._counted_at = time.monotonic()
        self._left_out = 0

    def take(self, line: str) -> None:
        """Pass a line on, if there is room for it; where there was none, not before a second's worth is."""
        now = time.monotonic()
        self._left = min(BURST_LINES, self._left + (now - self._counted_at) * LINES_A_SECOND)
        self._counted_at = now
        if self._left < (LINES_A_SECOND if self._left_out else 1):
            if not self._left_out:
                asyncio.get_running_loop().call_later(1.0, self.settle)  # should nothing follow
            self._left_out += 1
            return
        self.settle()
        self._left -= 1 + len(line) // _LONG
        self._on_line(line)

    def settle(self) -> None:
        """Say how many lines were left out, if any were."""
        if self._left_out:
            count, self._left_out = self._left_out, 0
            self._on_line(f"{count} lines left out: more than {LINES_A_SECOND} a second")
