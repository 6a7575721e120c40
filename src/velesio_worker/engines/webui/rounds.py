"""Who stands in line before a WebUI, for whom a request is made, and how far that is."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.engines.webui.api import state_of
from velesio_worker.engines.webui.request import ImageRequest, draw_seed
from velesio_worker.wire.errors import JobError
from velesio_worker.wire.events import Done, EngineEvent

_SMOOTHING: Final = 0.3
_NEARLY: Final = 0.99
_HAIR: Final = 1e-6
"""What fractions may lack to a whole step: 29 / 100 * 100 is less than 29."""


class Ticket:
    """A job's place in the line.

    Attributes:
        request: what the job asks for.
    """

    def __init__(self, request: ImageRequest) -> None:
        self.request = request
        self._events: list[EngineEvent | Done] = []
        self._signs = False
        self._error: JobError | None = None
        self._moved = Bell()

    def tell(self, *events: EngineEvent | Done) -> None:
        """Have the job's reader see what happens; without an event, that the WebUI is at work."""
        self._events.extend(events)
        self._signs = True
        self._moved.ring()

    def fail(self, error: JobError) -> None:
        """End the job with an error."""
        self._error = error
        self._moved.ring()

    async def next(self) -> Sequence[EngineEvent | Done]:
        """Wait for what happens next.

        Raises:
            JobError: the job failed.
        """
        while not self._signs:
            if self._error is not None:
                raise self._error
            await self._moved.wait()
        events, self._events, self._signs = self._events, [], False
        return events


class Round:
    """One request, and the jobs that it is for.

    Args:
        tickets: the jobs', which ask for the same.

    Attributes:
        tickets: as above, in the order of their images.
        wanted: those of them that still wait for it.
        unwanted: set once none does.
        task: the request's id.
        most_pixels: how many pixels its images may have.
        batch_size: how many images are made at once.
        course: how far it is.
        seed: of the first image; the others' follow one another.
        spoiled: whether somebody else was seen to interrupt it.
        behind: when the image in front of it, somebody else's, was begun, in the WebUI's own words; None: there is
            none any more.
        sent_at: when it was sent, on anyio's clock, in seconds.
    """

    def __init__(self, tickets: Sequence[Ticket]) -> None:
        request = tickets[0].request
        self.tickets = list(tickets)
        self.wanted = set(tickets)
        self.unwanted = anyio.Event()
        self.spoiled = False
        self.behind: str | None = None
        self.sent_at = math.inf
        self.task = f"task({secrets.token_hex(8)})"
        self.most_pixels = request.most_pixels
        self.batch_size = sum(ticket.request.parameters.batch_size for ticket in tickets)
        self.course = Course(request.steps, request.parameters.n_iter)
        self.seed = draw_seed(self.batch_size * request.parameters.n_iter) if request.seed is None else request.seed

    def leave(self, ticket: Ticket) -> None:
        """Take note that a job does not wait for it any more."""
        self.wanted.discard(ticket)
        if not self.wanted:
            self.unwanted.set()

    def tell(self, *events: EngineEvent | Done) -> None:
        """Have the jobs' readers see what happens."""
        for ticket in self.wanted:
            ticket.tell(*events)

    def fail(self, error: JobError) -> None:
        """End the jobs with an error."""
        for ticket in self.wanted:
            ticket.fail(error)


class Course:
    """Follows one request, and says where it is with the data of a ``progress`` entry (wire protocol, section 4).

    A WebUI tells 0.01 and the steps of the request before at the start, 0 while it decodes, and never 1; its own
    estimate of what is left is wild at first. What is said here never goes back, and counts the steps of all images
    that are made one after the other; ``eta`` is None where it is not known yet.

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
