"""What the scripts answer, and are told, in types."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, Self


class ClaimStatus(StrEnum):
    """What a claim came to."""

    CLAIMED = "claimed"
    FINISHED = "finished"
    HELD = "held"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"


class ClaimReply(NamedTuple):
    """The reply of ``claim.lua``, whose head says more.

    Attributes:
        attempt: the job's attempt, counted from 1.
        owner: the worker that owns the job now; empty for none.
        counted: how many attempts of the submission count against ``max_attempts``, this one too.
        base: the last attempt of earlier submissions under the same id; 0 if there were none.
        suspect: whether an engine was lost while it read the job's request.
        begun: whether the attempt's stream holds the entry that begins it.
    """

    status: ClaimStatus
    attempt: int
    first: bool
    owner: str
    slot: str
    nonce: str
    counted: int
    base: int
    suspect: bool = False
    begun: bool = False


class Taken(IntEnum):
    """How a job came into a slot that ``take.lua`` was to fill."""

    BEFORE = -1
    """It lay there, and was not begun from there."""
    IN_TURN = 0
    WARM = 1
    """The worker's engine has read what its session begins with."""


class PublishStatus(StrEnum):
    """What became of entries."""

    WRITTEN = "written"
    BEHIND = "behind"
    FENCED = "fenced"
    TAKEN = "taken"
    GONE = "gone"


class PublishReply(NamedTuple):
    """The reply of ``publish.lua``; ``at``: the sequence of the attempt's last entry in the stream, -1 for none."""

    status: PublishStatus
    at: int

    @classmethod
    def read(cls, reply: list[Any]) -> Self:
        """Read what Redis answered."""
        status, at = reply
        return cls(PublishStatus(status.decode()), int(at))


class Entries(NamedTuple):
    """Entries of a stream that follow upon each other.

    Attributes:
        first: the sequence of the first one.
        life: how long the stream is kept after the last one, in seconds.
        parts: events and data in turn.
    """

    first: int
    life: int
    parts: Sequence[str | bytes]


class LeaseEnd(NamedTuple):
    """A worker, the end of its lease just as Redis has it, and the seconds that are left of it, perhaps negative.

    Attributes:
        worker: its id; empty if the name is none that a worker has.
        name: the name, as Redis has it.
    """

    worker: str
    ends: str
    left: float
    name: bytes
