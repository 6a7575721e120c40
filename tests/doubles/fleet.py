"""A queue and workers without Redis: what the gateway sees of them, told by the test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel

from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.jobs import Fleet
from velesio_worker.wire.errors import JobError, job_error
from velesio_worker.wire.events import ERROR, StreamEvent

CALLER = Caller("acme", b"key")


def event(name: str, sequence: int, **data: Any) -> StreamEvent:
    """An entry of a first attempt."""
    return StreamEvent(f"1-{sequence}", name, data)


def start(mode: str = "fresh", attempt: int = 1) -> StreamEvent:
    data = {"type": "chat_completion", "attempt": attempt, "worker": "w1", "model": "m", "mode": mode, "created": 1.5}
    return StreamEvent(f"{attempt}-0", "start", data)


def text(sequence: int, piece: str) -> StreamEvent:
    return event("token", sequence, choices=[{"text": piece, "index": 0, "finish_reason": None}])


def done(sequence: int, reason: str = "stop") -> StreamEvent:
    return event("done", sequence, finish_reason=reason, usage=None, timings=None)


def failed(sequence: int, code: str = "internal", message: str = "It broke.") -> StreamEvent:
    return event("error", sequence, error=message, code=code, retryable=False, partial=False)


@dataclass
class JobsDouble:
    """Jobs whose streams the test writes; each job gets the next of ``streams``.

    Attributes:
        streams: batches of entries, by job; a job that is to go on for ever has no terminal one.
        results: what the jobs' results are, by job.
        refusals: what is raised for the job of this number.
    """

    streams: list[list[list[StreamEvent]]] = field(default_factory=list[list[list[StreamEvent]]])
    results: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    refusals: dict[int, Exception] = field(default_factory=dict[int, Exception])
    submitted: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    options: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    cancelled: list[str] = field(default_factory=list[str])
    known: Fleet | None = None

    async def submit(self, caller: Caller, job_type: str, data: Mapping[str, Any], **options: Any) -> str:
        number = len(self.submitted)
        if number in self.refusals:
            raise self.refusals[number]
        self.submitted.append((job_type, dict(data)))
        self.options.append({"tenant": caller.name, "session": caller.session, **options})
        return f"job-{number}"

    async def watch(self, job_id: str, after: str = "0-0") -> AsyncGenerator[Sequence[StreamEvent], None]:
        assert after == "0-0"
        for batch in self.streams[int(job_id.removeprefix("job-"))]:
            await anyio.lowlevel.checkpoint()
            yield batch
            if batch[-1].terminal:
                return
        await anyio.sleep_forever()

    async def result(self, job_id: str) -> dict[str, Any]:
        async for batch in self.watch(job_id):
            if batch[-1].event == ERROR:
                raise job_error(batch[-1].data["code"], batch[-1].data["error"])
        number = int(job_id.removeprefix("job-"))
        if number >= len(self.results):
            raise JobError("expired")
        return self.results[number]

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    async def fleet(self) -> Fleet:
        assert self.known is not None
        return self.known
