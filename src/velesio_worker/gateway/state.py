"""What the routes of a dialect need of the gateway."""

from __future__ import annotations

from typing import Protocol

from starlette.requests import Request

from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.jobs import Jobs


class State(Protocol):
    """The gateway, as far as a dialect knows it."""

    @property
    def jobs(self) -> Jobs:
        """Where jobs go."""
        ...

    def caller_of(self, request: Request) -> Caller:
        """Return who sent a request. Raises ApiError (401)."""
        ...
