"""How far a WebUI is with a request: what it tells, made steady.

A WebUI tells 0.01 and the steps of the request before at the start, 0 while it decodes, and never 1; its own estimate
of what is left is wild at first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from velesio_worker.engines.webui.api import state_of

_SMOOTHING: Final = 0.3
_NEARLY: Final = 0.99
_HAIR: Final = 1e-6
"""What fractions may lack to a whole step: 29 / 100 * 100 is less than 29."""


class Course:
    """Follows one request, and says where it is with the data of a ``progress`` entry (wire protocol, section 4).

    That has the steps that are done over all images that are made one after the other, how many there are, how much of
    the request is done, from 0 to 1, and what is left, in seconds; None where that is not known yet.

    Args:
        steps: the steps of one image.
        rounds: how many images, or batches of them, are made one after the other.
        clock: the time, in seconds.
    """

    def __init__(self, steps: int, rounds: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps = steps * rounds
        self._clock = clock
        self._step = 0
        self._eta: float | None = None
        self._began: tuple[float, int] | None = None

    def moved(self, answer: object) -> dict[str, Any] | None:
        """Take note of an answer to ``GET /progress``; returns where the request is, None if it has not moved on."""
        state = state_of(answer)
        count, number = _count(state, "job_count"), _count(state, "job_no")
        per_round = _count(state, "sampling_steps")
        if count <= 0 or per_round <= 0:
            return None  # not begun: what it tells is of the request before
        share = min(number + min(_count(state, "sampling_step"), per_round) / per_round, count) / count
        step = min(int(share * self._steps + _HAIR), self._steps)
        if step <= self._step:
            return None
        self._step = step
        self._estimate(step)
        return self._entry(step, min(round(share, 4), _NEARLY), None if self._eta is None else round(self._eta, 1))

    def _estimate(self, step: int) -> None:
        """Estimate what is left from the steps so far, smoothed."""
        now = self._clock()
        if self._began is None:
            self._began = now, step
            return
        since, first = self._began
        left = (now - since) / (step - first) * (self._steps - step)
        self._eta = left if self._eta is None else self._eta + _SMOOTHING * (left - self._eta)

    def end(self) -> dict[str, Any]:
        """Return where a request is that is done."""
        return self._entry(self._steps, 1.0, 0.0)

    def _entry(self, step: int, fraction: float, eta: float | None) -> dict[str, Any]:
        return {"stage": "sampling", "step": step, "steps": self._steps, "fraction": fraction, "eta": eta}


def _count(state: dict[str, Any], name: str) -> int:
    value = state.get(name)
    return value if isinstance(value, int) else 0
