"""Looks at fleets that tests make up."""

from __future__ import annotations

from typing import Any, Final

from velesio_worker.client import Details, EngineInfo, FleetView, GpuInfo, QueueDepths, RunningJob, Waiting, WorkerInfo

LEASE: Final = 12.0
GPU: Final = GpuInfo(0, "H200", 12 * 1024**3, 24 * 1024**3, 87, 60)


def engine(state: str = "ready", **more: Any) -> EngineInfo:
    known: dict[str, Any] = {
        "model": "red",
        "models": ("red",),
        "more": 0,
        "default": "red",
        "context": 512,
        "exchanges": True,
        "slots": 4,
        "running": 1,
        "reason": "",
    }
    return EngineInfo(state, **{**known, **more})


def job(job_id: str, since: float = 0.5, **more: Any) -> RunningJob:
    known: dict[str, Any] = {"type": "completion", "attempt": 1, "tokens": 0, "ttft": None}
    return RunningJob(id=job_id, since=since, **{**known, **more})


def worker(
    name: str,
    *jobs: RunningJob,
    at: float | None = 1.0,
    tokens: int | None = 0,
    lease: float = LEASE,
    stage: str = "working",
    engines: dict[str, EngineInfo] | None = None,
    gpus: tuple[GpuInfo, ...] = (),
) -> WorkerInfo:
    details = Details(pid=7, started=0.1, at=at, stage=stage, tokens=tokens, jobs=jobs, gpus=gpus)
    return WorkerInfo(name, "1", {"text": engine()} if engines is None else engines, len(jobs), lease, details)


def view(*workers: WorkerInfo, lost: tuple[str, ...] = (), **waiting: Waiting) -> FleetView:
    lists = {"text": Waiting(0, 0.0), "image": Waiting(0, 0.0), **waiting}
    return FleetView(workers, lost, QueueDepths(lists, 0, 0, {}, {}, 0))
