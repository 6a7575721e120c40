"""How far a WebUI is with a request: what it tells, made steady.

A WebUI tells 0.01 and the steps of the request before at the start, 0 while it decodes, and never 1; its own estimate
of what is left is wild at first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

_SMOOTHING: Final = 0.3
_NEARLY: Final = 0.99
_HAIR: Final = 1e-6
"""What fractions may lack to a whole step: 29 / 100 * 100 is less than 29."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a request is.

    Attributes:
        step: the steps that are done, over all images that are made one after the other.
        steps: how many there are.
        fraction: how much of the request is done, from 0 to 1.
        eta: what is left, in seconds; None where that is not known yet.
    """

    step: int
    steps: int
    fraction: float
    eta: float | None

    def entry(self) -> dict[str, Any]:
        """Return the ``progress`` entry's data (wire protocol, section 4)."""
        eta = None if self.eta is None else round(self.eta, 1)
        return {"stage": "sampling", "step": self.step, "steps": self.steps, "fraction": self.fraction, "eta": eta}


class Course:
    """Follows one request.

    Args:
        steps: the steps of one image.
        rounds: how many images, or batches of them, are made one after the other.
        clock: the time, in seconds.
    """

    def __init__(self, steps: int, rounds: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps = steps * rounds
        self._clock = clock
        self._step = 0
        self._fraction = 0.0
        self._eta: float | None = None
        self._sampling_since: float | None = None
        self._first_step = 0

    def moved(self, answer: object) -> Position | None:
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
        if self._sampling_since is None:
            self._sampling_since, self._first_step = self._clock(), step
        self._step = step
        self._fraction = min(max(self._fraction, round(share, 4)), _NEARLY)
        return Position(self._step, self._steps, self._fraction, self._left(step))

    def _left(self, step: int) -> float | None:
        """Estimate what is left from the steps so far, smoothed."""
        if self._sampling_since is None or step <= self._first_step:
            return None
        each = (self._clock() - self._sampling_since) / (step - self._first_step)
        left = each * (self._steps - step)
        self._eta = left if self._eta is None else self._eta + _SMOOTHING * (left - self._eta)
        return max(self._eta, 0.0)

    def end(self) -> Position:
        """Return where a request is that is done."""
        return Position(self._steps, self._steps, 1.0, 0.0)


def state_of(answer: object) -> dict[str, Any]:
    """Return the ``state`` of an answer to ``GET /progress``; empty if there is none."""
    state: Any = cast("dict[str, Any]", answer).get("state") if isinstance(answer, dict) else None
    return cast("dict[str, Any]", state) if isinstance(state, dict) else {}


def _count(state: dict[str, Any], name: str) -> int:
    value = state.get(name)
    return value if isinstance(value, int) else 0
