"""How a transfer goes: how far, how fast, how long still, and when that is worth a line."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

LINE_SECONDS: Final = 30.0
WINDOW_SECONDS: Final = 10.0
"""What the speed is measured over."""

MEBIBYTE: Final = 1024 * 1024
_TENTHS: Final = 10


class Meter:
    """Measures one transfer; the clock tells the time in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done = 0
        self._total: int | None = None
        self._samples: deque[tuple[float, int]] = deque()
        self._line: tuple[float, int] | None = None

    def note(self, done: int, total: int | None) -> None:
        """Note how many bytes are there, and how many there are in all if that is known."""
        if done < self._done:
            self._samples.clear()  # it began anew
        self._done, self._total = done, total
        now = self._clock()
        self._samples.append((now, done))
        while self._samples[0][0] < now - WINDOW_SECONDS:
            self._samples.popleft()

    def is_due(self) -> bool:
        """Whether a line is due, for who writes few: at the start, at each tenth, and every 30 s; notes that it is."""
        now, tenth = self._clock(), _TENTHS * self._done // self._total if self._total else 0
        if self._line is not None and now < self._line[0] + LINE_SECONDS and tenth == self._line[1]:
            return False
        self._line = now, tenth
        return True

    @property
    def rate(self) -> float:
        """Bytes per second over the last seconds; 0 while it cannot be told."""
        (began, first), (now, last) = self._samples[0], self._samples[-1]
        return (last - first) / (now - began) if now > began else 0.0

    def __str__(self) -> str:
        done, speed = self._done / MEBIBYTE, f"{self.rate / MEBIBYTE:.1f} MiB/s"
        if not self._total:
            return f"{done:.0f} MiB  {speed}"
        text = f"{100 * self._done // self._total:3} %  {done:.0f} of {self._total / MEBIBYTE:.0f} MiB  {speed}"
        return f"{text}  {_duration((self._total - self._done) / self.rate)} left" if self.rate else text


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
