"""Doubles of what health is read off."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from velesio_worker.engines.base import EngineState
from velesio_worker.engines.gpu import Gpu
from velesio_worker.queue.survey import QueueView

GPU = Gpu(0, "GPU-1", "a card", total=10, used=4, free=6, utilisation=50, temperature=60)


@dataclass
class MonitorDouble:
    """Has seen what it is told to have seen."""

    stuck_for: float = 0.0
    redis_trouble: str = ""
    queue: QueueView | None = None
    gpus: tuple[Gpu, ...] = ()
    last_job: Mapping[str, Any] | None = None

    async def known_gpus(self) -> tuple[Gpu, ...]:
        return self.gpus


@dataclass
class SupervisorDouble:
    """Says what it is told to say."""

    state: EngineState = EngineState.READY
    reason: str = ""
    last_error: str | None = None
    model: str | None = "m"

    @property
    def told(self) -> str:
        return self.reason

    def facts(self) -> dict[str, Any]:
        return {"state": self.state.value, "since": time.time() - 7, "last_error": self.last_error, "model": self.model}
