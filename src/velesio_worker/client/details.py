"""What a worker tells beside its engines: the jobs that it runs, its GPUs, how many tokens it has made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from velesio_worker.queue.keys import count_in_redis
from velesio_worker.wire.limits import MOST_TOLD_BYTES, MOST_TOLD_GPUS, MOST_TOLD_JOBS
from velesio_worker.wire.payload import is_job_id
from velesio_worker.wire.printable import printable

FIELDS: Final = ("pid", "started", "at", "stage", "tokens", "jobs", "gpus")
"""The fields of a worker's hash that these are read from."""

_LONGEST_NAME: Final = 128
_LARGEST: Final = 2**53


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a worker runs, as the worker told last.

    Attributes:
        id: the job's id.
        type: ``completion``, ``txt2img``, …
        attempt: which attempt, from 1 on.
        since: when that began, in Unix time by the worker's clock.
        tokens: how many tokens this attempt has made.
        ttft: how long its first token took, in seconds; None before that, and where there are none.
    """

    id: str
    type: str
    attempt: int
    since: float
    tokens: int
    ttft: float | None


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """A GPU that a worker's engines see, as it was read last, a few seconds ago.

    Attributes:
        index: as nvidia-smi counts.
        name: its model.
        used: memory that is taken, by whomever, in bytes.
        total: its memory, in bytes.
        utilisation: how much of the time it works, 0 to 100; None if the driver does not say.
        temperature: in °C; None if the driver does not say.
    """

    index: int
    name: str
    used: int
    total: int
    utilisation: int | None
    temperature: int | None


@dataclass(frozen=True, slots=True)
class Details:
    """What a worker tells of itself; of versions that do not, what is empty.

    Attributes:
        pid: its process id on its host.
        started: when it began, in Unix time.
        at: when it told this, in Unix time by its own clock.
        stage: ``starting``, ``working`` or ``stopping``: then it takes no more jobs, and ends after those that run.
        tokens: how many tokens it has made since it began.
        jobs: the jobs that it runs, the oldest first, at most 256.
        gpus: its GPUs.
    """

    pid: int | None = None
    started: float | None = None
    at: float | None = None
    stage: str = ""
    tokens: int | None = None
    jobs: tuple[RunningJob, ...] = ()
    gpus: tuple[GpuInfo, ...] = ()


NOTHING: Final = Details()


def details_in(fields: Mapping[str, bytes | None]) -> Details:
    """Read what a worker's hash tells; what is damaged, or no worker's, is passed over."""
    stage = (fields["stage"] or b"")[:_LONGEST_NAME].decode(errors="replace")
    return Details(
        pid=count_in_redis(fields["pid"]),
        started=_moment(fields["started"]),
        at=_moment(fields["at"]),
        stage=printable(stage),
        tokens=_large_count(fields["tokens"]),
        jobs=tuple(job for entry in _list(fields["jobs"], MOST_TOLD_JOBS) if (job := _job(entry)) is not None),
        gpus=tuple(gpu for entry in _list(fields["gpus"], MOST_TOLD_GPUS) if (gpu := _gpu(entry)) is not None),
    )


def _list(value: bytes | None, most: int) -> list[dict[str, Any]]:
    """Read a list of objects; of one that is none, or too large, nothing."""
    if value is None or len(value) > 2 * MOST_TOLD_BYTES:
        return []
    try:
        said = orjson.loads(value)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(said, list):
        return []
    entries = cast("list[object]", said)[:most]
    return [cast("dict[str, Any]", entry) for entry in entries if isinstance(entry, dict)]


def _job(entry: Mapping[str, Any]) -> RunningJob | None:
    job_id, type_ = entry.get("id"), entry.get("type")
    attempt, tokens, since = _count(entry.get("attempt")), _count(entry.get("tokens")), _number(entry.get("since"))
    if not (isinstance(job_id, str) and is_job_id(job_id) and isinstance(type_, str)) or since is None:
        return None
    ttft = _number(entry.get("ttft_ms"))
    name = printable(type_[:_LONGEST_NAME])
    return RunningJob(job_id, name, attempt or 1, since, tokens or 0, None if ttft is None else ttft / 1000)


def _gpu(entry: Mapping[str, Any]) -> GpuInfo | None:
    name, index = entry.get("name"), _count(entry.get("index"))
    used, total = _count(entry.get("used")), _count(entry.get("total"))
    if not isinstance(name, str) or index is None or used is None or total is None:
        return None
    utilisation, temperature = _count(entry.get("utilisation")), _count(entry.get("temperature"))
    return GpuInfo(index, printable(name[:_LONGEST_NAME]), used, total, utilisation, temperature)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _LARGEST else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _LARGEST else None


def _large_count(value: bytes | None) -> int | None:
    return int(value) if value is not None and len(value) <= len(str(_LARGEST)) and value.isdigit() else None


def _moment(value: bytes | None) -> float | None:
    """Read a Unix time; None if it is none."""
    try:
        moment = float(value) if value is not None and len(value) < _LONGEST_NAME else math.nan
    except ValueError:
        return None
    return moment if 0 < moment < _LARGEST else None
