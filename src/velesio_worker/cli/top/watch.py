"""What is made of looks at the fleet, one after the other: rates, ages, and workers that were lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from velesio_worker.client import FleetView, QueueDepths, RunningJob, Waiting, WorkerInfo

LOST_SECONDS: Final = 60.0
"""For so long a worker that was lost is still shown."""

RATE_SECONDS: Final = 5.0
"""Rates are of so many seconds."""

_SILENT_SHARE: Final = 0.7
"""A worker beats every twelfth of its lease: one that has less than this share left has missed three beats."""

LOST: Final = "lost"
SILENT: Final = "silent"
STOPPING: Final = "stopping"


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine of a worker.

    Attributes:
        worker: the worker's name.
        kind: ``text`` or ``image``; empty for a worker of which nothing is known.
        state: the engine's; or ``lost``, ``silent`` (it has missed beats) or ``stopping`` for the worker's.
        model: the one that is loaded, else the default one; empty if neither is known.
        running: how many slots are used.
        slots: how many there are.
        gpu_used: bytes of the memory of the worker's GPUs that are taken; None where that is not told.
        gpu_total: bytes of all of it.
        gpu_use: how much the busiest of them works, 0 to 100.
        rate: tokens per second of the worker; None where that is not known yet.
        gone: for how many seconds it has been lost; None if it is not.
        reason: why the engine failed.
        first: whether it is the first of its worker, which has the GPUs and the rate.
    """

    worker: str
    kind: str
    state: str
    model: str = ""
    running: int = 0
    slots: int = 0
    gpu_used: int | None = None
    gpu_total: int | None = None
    gpu_use: int | None = None
    rate: float | None = None
    gone: float | None = None
    reason: str = ""
    first: bool = True


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job that runs.

    Attributes:
        id: the job's id.
        type: its type.
        worker: who runs it.
        age: for how many seconds this attempt has run.
        attempt: which that is, from 1 on.
        tokens: how many it has made.
        ttft: how long its first token took, in seconds; None before that.
    """

    id: str
    type: str
    worker: str
    age: float
    attempt: int
    tokens: int
    ttft: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """The fleet at a moment.

    Attributes:
        engines: the engines, by worker.
        jobs: the jobs that run, the oldest first.
        untold: how many more run, which workers do not tell one by one.
        depths: how much waits.
        trouble: what is the matter with Redis: then the rest is as it was last; empty if nothing is.
    """

    engines: tuple[EngineRow, ...] = ()
    jobs: tuple[JobRow, ...] = ()
    untold: int = 0
    depths: QueueDepths = field(default_factory=lambda: QueueDepths({}, 0, 0, {}, {}, 0))
    trouble: str = ""

    @property
    def workers(self) -> int:
        """How many workers live."""
        return sum(row.first and row.gone is None for row in self.engines)

    @property
    def lost(self) -> int:
        """How many were lost of late."""
        return sum(row.gone is not None for row in self.engines)

    @property
    def rate(self) -> float | None:
        """Tokens per second of all workers; None where none is known."""
        known = [row.rate for row in self.engines if row.rate is not None]
        return sum(known) if known else None

    @property
    def waiting(self) -> Mapping[str, Waiting]:
        """What waits, by list."""
        return self.depths.waiting


@dataclass(slots=True)
class _Seen:
    """A worker, as it was seen.

    Attributes:
        info: what it told last.
        at: when that was seen first, by the watcher's clock.
        lease: the longest that its lease had left.
        told: moments by the worker's clock, and the tokens that it had made by then.
        gone: since when it is lost, by the watcher's clock.
    """

    info: WorkerInfo
    at: float
    lease: float
    told: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])
    gone: float | None = None

    def note(self, info: WorkerInfo, now: float) -> None:
        """Take note of what it tells now."""
        self.gone = None
        self.lease = max(self.lease, info.lease)
        new = info.details.at is None or not self.told or info.details.at != self.told[-1][0]
        if new:
            self.at = now
        self.info = info
        at, tokens = info.details.at, info.details.tokens
        if not new or at is None or tokens is None:
            return
        if self.told and (at < self.told[-1][0] or tokens < self.told[-1][1]):
            self.told.clear()
        self.told.append((at, tokens))
        while len(self.told) > 2 and at - self.told[1][0] >= RATE_SECONDS:  # noqa: PLR2004 (a rate takes two)
            self.told.popleft()

    @property
    def rate(self) -> float | None:
        """Tokens per second by the worker's own count and clock; None before it has told twice."""
        if len(self.told) < 2 or self.told[-1][0] <= self.told[0][0]:  # noqa: PLR2004
            return None
        return (self.told[-1][1] - self.told[0][1]) / (self.told[-1][0] - self.told[0][0])

    @property
    def silent(self) -> bool:
        """Whether it has missed beats."""
        return self.info.lease < self.lease * _SILENT_SHARE


class Watch:
    """Remembers what it has seen, so that rates can be told, and which workers were lost."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._picture = Picture()

    @property
    def moved(self) -> bool:
        """Whether a rate is known of each worker that tells its tokens and runs a job."""
        busy = [seen for seen in self._seen.values() if seen.gone is None and seen.info.details.jobs]
        return all(seen.rate is not None or seen.info.details.tokens is None for seen in busy)

    def see(self, view: FleetView, now: float) -> Picture:
        """Take note of a look at the fleet; ``now`` is by a clock that never goes back, in seconds."""
        for info in view.workers:
            known = self._seen.get(info.id)
            if known is None:
                self._seen[info.id] = known = _Seen(info, now, info.lease)
            known.note(info, now)
        self._miss(view, now)
        living = [self._seen[info.id] for info in view.workers]
        jobs = [_job(seen, job, now) for seen in living for job in seen.info.details.jobs]
        jobs.sort(key=lambda job: -job.age)
        untold = sum(seen.info.running for seen in living) - len(jobs)
        rows = [row for worker in sorted({*self._seen, *view.lost}) for row in self._rows(worker, now)]
        self._picture = Picture(tuple(rows), tuple(jobs), max(0, untold), view.depths)
        return self._picture

    def fail(self, trouble: str) -> Picture:
        """Return what was seen last, and what is the matter with Redis now."""
        last = self._picture
        return Picture(last.engines, last.jobs, last.untold, last.depths, trouble)

    def _miss(self, view: FleetView, now: float) -> None:
        """Take note of workers that are gone: those that had said that they stop are no loss."""
        living = {info.id for info in view.workers}
        for worker in [worker for worker in self._seen if worker not in living]:
            seen = self._seen[worker]
            seen.gone = now if seen.gone is None else seen.gone
            in_order = seen.info.details.stage == STOPPING and worker not in view.lost
            if in_order or (now - seen.gone > LOST_SECONDS and worker not in view.lost):
                del self._seen[worker]

    def _rows(self, worker: str, now: float) -> list[EngineRow]:
        seen = self._seen.get(worker)
        if seen is None:  # lost before anybody looked
            return [EngineRow(worker, "", LOST, gone=0.0)]
        if seen.gone is not None:
            model = next((engine.model or "" for engine in seen.info.engines.values()), "")
            return [EngineRow(worker, "", LOST, model, gone=now - seen.gone)]
        return _living(seen)


def _living(seen: _Seen) -> list[EngineRow]:
    info, details = seen.info, seen.info.details
    used = sum(gpu.used for gpu in details.gpus) if details.gpus else None
    total = sum(gpu.total for gpu in details.gpus) if details.gpus else None
    use = max((gpu.utilisation for gpu in details.gpus if gpu.utilisation is not None), default=None)
    over = SILENT if seen.silent else STOPPING if details.stage == STOPPING else ""
    rows: list[EngineRow] = []
    for kind, engine in info.engines.items():
        first = not rows
        row = EngineRow(
            info.id,
            kind,
            over or engine.state,
            engine.model or engine.default or "",
            engine.running,
            engine.slots,
            used if first else None,
            total if first else None,
            use if first else None,
            seen.rate if first else None,
            reason=engine.reason,
            first=first,
        )
        rows.append(row)
    return rows or [EngineRow(info.id, "", over or details.stage or "?", running=info.running)]


def _job(seen: _Seen, job: RunningJob, now: float) -> JobRow:
    at = seen.info.details.at
    age = max(0.0, (job.since if at is None else at) - job.since) + now - seen.at
    return JobRow(job.id, job.type, seen.info.id, age, job.attempt, job.tokens, job.ttft)
