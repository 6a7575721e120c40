"""What a worker says about itself when it is asked how it is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from velesio_worker import __version__
from velesio_worker.engines.gpu import Gpu, Gpus, read_soon
from velesio_worker.engines.supervisor import Supervisor
from velesio_worker.errors import UnusablePayloadError
from velesio_worker.jobs import JobType, Kind, RefusedJobError, parse_job


class Health:
    """Answers ``health_check`` jobs.

    Args:
        worker: the worker's id.
        supervisors: those of the engines that there are, by the kind of their jobs.
        gpus: the GPUs that the engines may use.
    """

    def __init__(self, worker: str, supervisors: Mapping[Kind, Supervisor[Any]], gpus: Gpus) -> None:
        self._worker = worker
        self._supervisors = supervisors
        self._gpus = gpus
        self._began = time.time()

    async def check(self) -> dict[str, Any]:
        """Return a ``health_check`` job's result (wire protocol, section 5)."""
        gpus = await read_soon(self._gpus)
        engines = {kind.value: supervisor.facts() for kind, supervisor in self._supervisors.items()}
        text, image = engines.get(Kind.TEXT), engines.get(Kind.IMAGE)
        return {
            "timestamp": round(time.time(), 3),
            "worker": self._worker,
            "version": __version__,
            "uptime": round(time.time() - self._began, 1),
            "gpu_available": bool(gpus),
            "gpu_memory": _memory(gpus),
            "gpus": [_described(gpu) for gpu in gpus],
            "models_loaded": {"llm": text and text["model"], "sd": image and image["model"]},
            "llm_worker": text and text["state"],
            "sd_worker": image and image["state"],
            "engines": engines,
        }


def first_check(waiting: Sequence[bytes], *, max_bytes: int) -> bytes | None:
    """Return the first of the jobs that wait which is a health check; any worker can answer it."""
    return next((payload for payload in waiting if _is_check(payload, max_bytes)), None)


def _is_check(payload: bytes, max_bytes: int) -> bool:
    try:
        return bool(payload) and parse_job(payload, max_bytes=max_bytes).type is JobType.HEALTH_CHECK
    except (UnusablePayloadError, RefusedJobError):
        return False


def _memory(gpus: Sequence[Gpu]) -> dict[str, int] | None:
    if not gpus:
        return None
    return {name: sum(getattr(gpu, name) for gpu in gpus) for name in ("total", "used", "free")}


def _described(gpu: Gpu) -> dict[str, Any]:
    names = ("index", "uuid", "name", "total", "used", "free", "utilisation", "temperature")
    return {name: getattr(gpu, name) for name in names}
