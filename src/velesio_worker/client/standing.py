"""How a job stands, by what Redis has of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from redis.asyncio import Redis

from velesio_worker.queue.keys import result_key, stream_key
from velesio_worker.wire.events import DONE, ERROR, StreamEvent, parse_entry, read_result

_CANCELLED = "cancelled"


class State(StrEnum):
    """Where a job is on its way."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to the job any more."""
        return self not in {State.WAITING, State.RUNNING}


class Standing(NamedTuple):
    """How a job stands.

    Attributes:
        state: where it is. A job that Redis has nothing of is ``waiting``: it may have expired, or never have been.
        result: its result, an error as ``{"error", "code"}``; None if it has none, or none any more.
        last: the last entry of its stream; None if it has none.
    """

    state: State
    result: dict[str, Any] | None
    last: StreamEvent | None


async def standing_of(redis: Redis, job_id: str) -> Standing:
    """Return how a job stands. Raises RedisError."""
    commands: Any = redis
    stored: bytes | None = await commands.get(result_key(job_id))
    if stored is not None:
        result = read_result(stored)
        return Standing(_state_of(ERROR if "error" in result else DONE, result), result, None)
    entries: list[Any] = await commands.xrevrange(stream_key(job_id), count=1)
    if not entries:
        return Standing(State.WAITING, None, None)
    last = parse_entry(*entries[0])
    state = _state_of(last.event, last.data) if last.terminal else State.RUNNING
    return Standing(state, None, last)


def _state_of(event: str, data: dict[str, Any]) -> State:
    if event == ERROR:
        return State.FAILED
    return State.CANCELLED if data.get("finish_reason") == _CANCELLED else State.DONE
