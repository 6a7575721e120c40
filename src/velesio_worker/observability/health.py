"""How a worker is: whether it moves, whether it can take jobs, and all that is known of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from velesio_worker import __version__
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.observability.monitor import Monitor
from velesio_worker.wire.jobs import Kind

_MEMORY: Final = ("total", "used", "free")
_GPU: Final = ("index", "uuid", "name", *_MEMORY, "utilisation", "temperature")


class Stage(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    WORKING = "working"
    STOPPING = "stopping"


class Health:
    """Says how a worker is. What it knows without asking anybody may be asked from any thread."""

    def __init__(self, worker: str, supervisors: Mapping[Kind, Supervisor[Any]], monitor: Monitor) -> None:
        self.worker = worker
        self.supervisors = supervisors
        self.monitor = monitor
        self._began = time.time()
        self.stage = Stage.STARTING

    def stuck(self) -> list[str]:
        """Why the worker is not alive; empty if it is, whatever else may be the matter."""
        stuck = self.monitor.stuck_for
        return [f"the worker's event loop has not moved for {stuck:.0f} s: restart the worker"] if stuck else []

    def unready(self) -> list[str]:
        """Why no job can run here now; empty if one can, which a resting engine counts for."""
        reasons = self.stuck()
        if self.stage is not Stage.WORKING:
            reasons.append(f"the worker is {self.stage}")
        if self.monitor.redis_trouble:
            reasons.append(self.monitor.redis_trouble)
        states = [self._engine_trouble(kind, supervisor) for kind, supervisor in self.supervisors.items()]
        if all(states):
            reasons += states
        return reasons

    @staticmethod
    def _engine_trouble(kind: Kind, supervisor: Supervisor[Any]) -> str:
        """Why an engine cannot run a job; empty if it can, or would once a job asked for it."""
        facts = supervisor.facts()
        match supervisor.state:
            case EngineState.READY:
                return ""
            case EngineState.STOPPED if not supervisor.reason:
                return ""
            case EngineState.BACKOFF:
                return f"the {kind} engine is started again soon: {facts['last_error']}"
            case EngineState.FAILED | EngineState.STOPPED:
                return f"the {kind} engine has failed: {supervisor.told}"
            case state:
                why = f": {facts['last_error']}" if facts["last_error"] else ""
                return f"the {kind} engine is {state.value}, for {time.time() - facts['since']:.0f} s now{why}"

    def readiness(self) -> dict[str, Any]:
        """Whether the worker can run jobs, and why not."""
        reasons = self.unready()
        engines = {kind.value: supervisor.state.value for kind, supervisor in self.supervisors.items()}
        return {"ready": not reasons, "reasons": reasons, "engines": engines}

    async def check(self) -> dict[str, Any]:
        """Return a ``health_check`` job's result (wire protocol, section 5), which is what ``/health`` says, too."""
        gpus = await self.monitor.known_gpus()
        engines = {
            kind.value: supervisor.facts() | {"reason": supervisor.told or None}
            for kind, supervisor in self.supervisors.items()
        }
        text, image = engines.get(Kind.TEXT), engines.get(Kind.IMAGE)
        reasons = self.unready()
        return {
            "timestamp": round(time.time(), 3),
            "worker": self.worker,
            "version": __version__,
            "pid": os.getpid(),
            "uptime": round(time.time() - self._began, 1),
            "ready": not reasons,
            "reasons": reasons,
            "redis": {"reachable": not self.monitor.redis_trouble, "trouble": self.monitor.redis_trouble or None},
            "gpu_available": bool(gpus),
            "gpu_memory": {name: sum(getattr(gpu, name) for gpu in gpus) for name in _MEMORY} if gpus else None,
            "gpus": [{name: getattr(gpu, name) for name in _GPU} for gpu in gpus],
            "models_loaded": {"llm": text and text["model"], "sd": image and image["model"]},
            "llm_worker": text and text["state"],
            "sd_worker": image and image["state"],
            "engines": engines,
            **self._queue(),
            "last_job": self.monitor.last_job,
        }

    def _queue(self) -> dict[str, Any]:
        """What is known of the queue; None for each while Redis does not answer."""
        queue = self.monitor.queue
        if queue is None or self.monitor.redis_trouble:
            return {"queues": None, "priorities": None, "dead_letters": None, "leases": None}
        waiting = {
            name: {"jobs": each.jobs, "oldest_seconds": round(each.oldest, 1)} for name, each in queue.waiting.items()
        }
        priorities = {
            kind: {name: {"jobs": one.jobs, "oldest_seconds": round(one.oldest, 1)} for name, one in of.items()}
            for kind, of in queue.by_priority.items()
        }
        leases = {worker: round(left, 1) for worker, left in queue.leases.items()}
        return {"queues": waiting, "priorities": priorities, "dead_letters": queue.dead, "leases": leases}
