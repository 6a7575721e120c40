"""How figures are written: in the cells of the screen, in a plain table, and for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from velesio_worker.cli.top.watch import EngineRow, JobRow, Picture
from velesio_worker.client import Waiting

ENGINES: Final = ("WORKER", "KIND", "STATE", "MODEL", "SLOTS", "GPU MEM", "GPU", "TOK/S")
JOBS: Final = ("JOB", "TYPE", "WORKER", "AGE", "ATT", "TOKENS", "TTFT")
MOST_ROWS: Final = 200
"""So many jobs are shown at most; how many more there are is said."""

_UNKNOWN: Final = "-"
_GIGABYTE: Final = 1024**3
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_LONG: Final = 100


def shortened(text: str, width: int) -> str:
    """Cut a name in the middle: what tells workers, or jobs, from each other stands at both ends."""
    if len(text) <= width:
        return text
    tail = width // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def seconds(value: float | None) -> str:
    """Write a time in at most 5 characters."""
    if value is None:
        return _UNKNOWN
    if value < _LONG:
        return f"{value:.1f}s" if value < 10 else f"{value:.0f}s"  # noqa: PLR2004 (a digit more for small ones)
    if value < _HOUR:
        return f"{value // _MINUTE:.0f}m{math.floor(value % _MINUTE):02d}"
    return f"{value // _HOUR:.0f}h{value % _HOUR // _MINUTE:02.0f}" if value < _DAY else f"{value // _DAY:.0f}d"


def rate(value: float | None) -> str:
    """Write tokens per second."""
    return _UNKNOWN if value is None else f"{value:.1f}" if value < _LONG else f"{value:.0f}"


def state(row: EngineRow) -> str:
    """Write an engine's state."""
    return row.state if row.gone is None else f"{row.state} {seconds(row.gone)}"


def slots(row: EngineRow) -> str:
    """Write how many slots are used, of how many."""
    return _UNKNOWN if row.gone is not None else f"{row.running}/{row.slots}"


def memory(row: EngineRow) -> str:
    """Write how much of the GPU's memory is taken."""
    if row.gpu_used is None or row.gpu_total is None:
        return _UNKNOWN
    return f"{row.gpu_used / _GIGABYTE:.1f}/{row.gpu_total / _GIGABYTE:.0f}G"


def use(row: EngineRow) -> str:
    """Write how much the GPU works."""
    return _UNKNOWN if row.gpu_use is None else f"{row.gpu_use}%"


def engine_cells(row: EngineRow) -> tuple[str, ...]:
    """Return the cells of an engine, as :data:`ENGINES` names them."""
    speed = rate(row.rate) if row.first else ""
    return (row.worker, row.kind, state(row), row.model, slots(row), memory(row), use(row), speed)


def job_cells(job: JobRow) -> tuple[str, ...]:
    """Return the cells of a job, as :data:`JOBS` names them."""
    figures = (seconds(job.age), str(job.attempt), str(job.tokens), seconds(job.ttft))
    return (job.id, job.type, job.worker, *figures)


def summary(picture: Picture, queue: str) -> str:
    """Say in a line how the fleet is."""
    lost = f", {picture.lost} lost" if picture.lost else ""
    used = sum(row.running for row in picture.engines)
    there = sum(row.slots for row in picture.engines)
    workers = f"{picture.workers} worker{'' if picture.workers == 1 else 's'}"
    return f"{queue}  {workers}{lost}  {used}/{there} slots  {rate(picture.rate)} tok/s"


def queues(picture: Picture) -> str:
    """Say in a line how much waits, for how long, and how many jobs of it are of another priority than ``normal``."""
    depths = picture.depths
    others = {
        name: [f"{one.jobs} {priority}" for priority, one in of.items() if one.jobs and priority != "normal"]
        for name, of in depths.by_priority.items()
    }
    lists = [
        f"{name} {waiting.jobs}"
        + (f" ({', '.join([*others.get(name, ()), f'oldest {seconds(waiting.oldest)}'])})" if waiting.jobs else "")
        for name, waiting in picture.waiting.items()
        if waiting.jobs or name in {"text", "image"}
    ]
    beside = {"for one worker": depths.named, "put aside": depths.suspects, "dead letters": depths.dead}
    return "waiting: " + ", ".join([*lists, *(f"{name} {count}" for name, count in beside.items() if count)])


def lines(picture: Picture, queue: str, jobs: Sequence[JobRow]) -> list[Sequence[Sequence[str]] | str]:
    """Return the plain table: lines of text, and tables of cells."""
    written: list[Sequence[Sequence[str]] | str] = [summary(picture, queue), queues(picture)]
    if picture.engines:
        written += ["", [ENGINES, *map(engine_cells, picture.engines)]]
    if jobs:
        written += ["", [JOBS, *map(job_cells, jobs)]]
    if picture.untold:
        written.append(f"and {picture.untold} more jobs, of which their workers tell no more")
    return written


def as_json(picture: Picture, queue: str, jobs: Sequence[JobRow]) -> dict[str, Any]:
    """Return all of it for programs; times are seconds, memory is bytes, null is what is not known."""
    depths = picture.depths
    return {
        "queue": queue,
        "workers": [_worker(row) for row in picture.engines],
        "waiting": _waiting(picture.waiting),
        "waiting_by_priority": {kind: _waiting(of) for kind, of in depths.by_priority.items()},
        "waiting_for_one_worker": depths.named,
        "put_aside": depths.suspects,
        "dead_letters": depths.dead,
        "tokens_per_second": _rounded(picture.rate),
        "jobs": [
            {
                "id": job.id,
                "type": job.type,
                "worker": job.worker,
                "age_seconds": round(job.age, 1),
                "attempt": job.attempt,
                "tokens": job.tokens,
                "ttft_seconds": job.ttft,
            }
            for job in jobs
        ],
        "jobs_untold": picture.untold,
    }


def _waiting(of: Mapping[str, Waiting]) -> dict[str, Any]:
    return {name: {"jobs": one.jobs, "oldest_seconds": round(one.oldest, 1)} for name, one in of.items()}


def _worker(row: EngineRow) -> dict[str, Any]:
    return {
        "worker": row.worker,
        "engine": row.kind or None,
        "state": row.state,
        "model": row.model or None,
        "running": row.running,
        "slots": row.slots,
        "gpu_memory_used": row.gpu_used,
        "gpu_memory_total": row.gpu_total,
        "gpu_utilisation": row.gpu_use,
        "tokens_per_second": _rounded(row.rate),
        "lost_seconds": _rounded(row.gone),
        "reason": row.reason or None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
