"""Who stands in line before a WebUI, and for whom a request is made."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Sequence

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.engines.webui.progress import Course
from velesio_worker.engines.webui.request import ImageRequest, draw_seed
from velesio_worker.wire.errors import JobError
from velesio_worker.wire.events import EngineEvent


class Ticket:
    """A job's place in the line.

    Attributes:
        request: what the job asks for.
    """

    def __init__(self, request: ImageRequest) -> None:
        self.request = request
        self._events: deque[EngineEvent] = deque()
        self._signs = False
        self._error: JobError | None = None
        self._moved = Bell()

    def tell(self, *events: EngineEvent) -> None:
        """Have the job's reader see what happens; without an event, that the WebUI is at work."""
        self._events.extend(events)
        self._signs = True
        self._moved.ring()

    def fail(self, error: JobError) -> None:
        """End the job with an error."""
        self._error = error
        self._moved.ring()

    async def next(self) -> Sequence[EngineEvent]:
        """Wait for what happens next.

        Raises:
            JobError: the job failed.
        """
        while not self._signs:
            if self._error is not None:
                raise self._error
            await self._moved.wait()
        events = [*self._events]
        self._events.clear()
        self._signs = False
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
        self.batch_size = sum(ticket.request.parameters.batch_size for ticket in tickets)
        self.course = Course(request.parameters.steps, request.parameters.n_iter)
        self.seed = draw_seed(self.batch_size * request.parameters.n_iter) if request.seed is None else request.seed

    def leave(self, ticket: Ticket) -> None:
        """Take note that a job does not wait for it any more."""
        self.wanted.discard(ticket)
        if not self.wanted:
            self.unwanted.set()

    def tell(self, *events: EngineEvent) -> None:
        """Have the jobs' readers see what happens."""
        for ticket in self.wanted:
            ticket.tell(*events)

    def fail(self, error: JobError) -> None:
        """End the jobs with an error."""
        for ticket in self.wanted:
            ticket.fail(error)
