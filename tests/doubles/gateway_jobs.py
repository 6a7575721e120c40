"""The gateway's jobs without a queue: what was submitted is seen, and answered by the test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack, cast

import anyio
from starlette.requests import Request

from velesio_worker.client import Client, JobOptions
from velesio_worker.client.fleet import EngineInfo, QueueDepths, WorkerInfo
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import Fleet, Jobs, Model, Watched
from velesio_worker.wire.errors import JobError
from velesio_worker.wire.events import TERMINAL, StreamEvent, terminal_of


@dataclass
class Submitted:
    """A job as it was submitted, and what the test answers."""

    job_id: str
    caller: Caller
    job_type: str
    data: dict[str, Any]
    options: JobOptions
    entries: list[StreamEvent] = field(default_factory=list[StreamEvent])
    outcome: dict[str, Any] | JobError | None = None
    news: anyio.Event = field(default_factory=anyio.Event)
    read: int = 0

    def say(self, event: str, **data: Any) -> None:
        """Write an entry of its stream."""
        self.entries.append(StreamEvent(f"1-{len(self.entries)}", event, data))
        self.news.set()
        self.news = anyio.Event()

    def end(self, outcome: dict[str, Any] | JobError) -> None:
        """End it with a result, or an error."""
        self.outcome = outcome
        result = outcome.result() if isinstance(outcome, JobError) else outcome
        event, data = terminal_of(result)
        self.say(event, **data)


def worker(name: str, kinds: Sequence[str]) -> WorkerInfo:
    """Return a worker that is ready, with four slots of each kind."""
    ready = EngineInfo("ready", "small", (), 0, None, None, exchanges=False, slots=4, running=0, reason="")
    return WorkerInfo(name, "0", dict.fromkeys(kinds, ready), 0, 10.0)


class JobsInMemory(Jobs):
    """Jobs that wait for the test to answer them, or are answered at once.

    Args:
        answers: outcomes by type of job, for those that end as soon as they are submitted.
        models: the models that the workers have.
        kinds: what the workers take.
    """

    def __init__(
        self,
        answers: Mapping[str, dict[str, Any] | JobError] | None = None,
        models: Sequence[Model] = (),
        kinds: Sequence[str] = ("text", "image"),
    ) -> None:
        nobody = cast("Any", None)
        super().__init__(cast("Client", nobody), cast("Watched", nobody), max_queue=10, new_id=lambda _: "")
        self.answers = dict(answers or {})
        self.submitted: list[Submitted] = []
        self.cancelled: list[str] = []
        self.previews: dict[str, bytes] = {}
        self.now = Fleet(
            (worker("w1", kinds), worker("w2", kinds)) if kinds else (), QueueDepths({}, 0, 0, {}, {}, 0), tuple(models)
        )

    async def submit(
        self, caller: Caller, job_type: str, data: Mapping[str, Any], **options: Unpack[JobOptions]
    ) -> str:
        if not self.now.workers:
            raise ApiError(503, "no_worker", "No worker is running.", retry_after=5)
        job = Submitted(f"job-{len(self.submitted)}", caller, job_type, dict(data), options)
        self.submitted.append(job)
        if (outcome := self.answers.get(job_type)) is not None:
            job.end(outcome)
        return job.job_id

    def _job(self, job_id: str) -> Submitted:
        return next(job for job in self.submitted if job.job_id == job_id)

    async def watch(self, job_id: str, after: str = "0-0") -> AsyncGenerator[Sequence[StreamEvent], None]:
        assert after == "0-0"
        job, seen = self._job(job_id), 0
        while True:
            news, entries = job.news, job.entries[seen:]
            if entries:
                seen += len(entries)
                yield entries
                job.read = max(job.read, seen)
                if entries[-1].event in TERMINAL:
                    return
            else:
                await news.wait()

    async def events(self, job_id: str, after: str = "0-0") -> AsyncGenerator[StreamEvent, None]:
        async for batch in self.watch(job_id, after):
            for event in batch:
                yield event

    async def result(self, job_id: str) -> dict[str, Any]:
        async for _ in self.watch(job_id):
            pass
        outcome = self._job(job_id).outcome
        assert outcome is not None
        if isinstance(outcome, JobError):
            raise outcome
        return outcome

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    async def preview(self, job_id: str) -> bytes | None:
        return self.previews.get(job_id)

    async def fleet(self) -> Fleet:
        return self.now

    async def until_read(self, job: Submitted) -> None:
        """Wait until whoever follows a job has done with all that was said so far."""
        with anyio.fail_after(10):
            while job.read < len(job.entries):
                await anyio.sleep(0.005)

    async def until_submitted(self, count: int) -> list[Submitted]:
        """Wait until so many jobs were submitted."""
        with anyio.fail_after(10):
            while len(self.submitted) < count:
                await anyio.sleep(0.005)
        return self.submitted


@dataclass
class GatewayDouble:
    """What routes need of the gateway: a caller is whom the header ``x-api-key`` names."""

    jobs: JobsInMemory

    def caller_of(self, request: Request) -> Caller:
        """Return who sent a request."""
        name = request.headers.get("x-api-key")
        if name == "wrong":
            raise ApiError(401, "invalid_api_key", "There is no such token.")
        return Caller(name, (name or "").encode())
