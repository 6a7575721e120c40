"""Who takes jobs off the lists: one consumer for each job that may be held at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import anyio

from velesio_worker.core.job_types import types_named
from velesio_worker.core.settings import Settings
from velesio_worker.execution.handler import JobHandler
from velesio_worker.execution.management import ImageModels, TextModels
from velesio_worker.execution.redis_side import RedisSide
from velesio_worker.queue.choice import Affinity, first_check
from velesio_worker.queue.consumer import Consumer, Gate, GroupConsumer, Passage, Picker
from velesio_worker.queue.intake import Intake
from velesio_worker.wire.jobs import Kind

MANAGERS: Final = 4
"""Jobs that look after models, at a time: some may wait for a model while another asks how the worker is."""


class ConsumerFactory:
    """Makes a worker's consumers, each with slots of its own; the handler gets what they take."""

    def __init__(self, side: RedisSide, settings: Settings, handler: JobHandler) -> None:
        self._side = side
        self._slots = side.slots
        self._keys = side.link.keys
        self._settings = settings
        self._handler = handler
        self._always = Gate(Passage.OPEN)
        self._turns: dict[str, anyio.Lock] = {}

    def intake(self) -> Intake:
        """The one that sorts what producers push."""
        return Intake(
            self._slots,
            self._keys,
            self._side.slot("intake", home=self._keys.incoming),
            self._side.admission.arrivals,
            max_bytes=self._settings.max_job_bytes,
            refuse=self._handler.refuse,
            types=types_named(self._settings.job_types),
        )

    def managers(self, kinds: Sequence[Kind]) -> list[Consumer]:
        """Those that take jobs that look after models of these kinds, and jobs that name this worker."""
        about = {kind.engine: kind for kind in (Kind.MANAGE, Kind.MANAGE_IMAGE)}
        lists = [(about[kind], self._keys.ready(about[kind])) for kind in kinds]
        only = self._keys.only(self._side.worker)
        return [
            *(self._manager(f"{kind}-{number}", ready, ready) for number in range(MANAGERS) for kind, ready in lists),
            *(self._manager(f"only-{number}", only, self._keys.incoming) for number in range(MANAGERS)),
        ]

    def _manager(self, name: str, source: str, home: str) -> Consumer:
        slot, turn = self._side.slot(name, home=home), self._turn(source)
        return Consumer(self._slots, source, slot, self._always, self._handler.process, turn=turn)

    def _turn(self, source: str) -> anyio.Lock:
        """What those who take jobs from one list share."""
        return self._turns.setdefault(source, anyio.Lock())

    def health_checks(self) -> Picker:
        """Takes what a worker without a text engine can answer of the jobs that look after text models."""
        ready, max_bytes = self._keys.ready(Kind.MANAGE), self._settings.max_job_bytes
        choose = partial(first_check, max_bytes=max_bytes)
        return Picker(self._slots, ready, self._side.slot("health", home=ready), choose, self._handler.process)

    def text(self, engine: TextModels, number: int) -> Consumer:
        """One of those that take text jobs; the first, 0, is the one that wakes the engine."""
        ready, gate = self._keys.ready(Kind.TEXT), engine.gate.gate
        slot = self._side.slot(f"text-{number}", home=ready)
        turn = self._turn(ready)
        return Consumer(self._slots, ready, slot, gate, self._handler.process, number=number, turn=turn)

    def images(self, engine: ImageModels) -> list[GroupConsumer]:
        """As many as image jobs may be held, each with room for those that are run together with its own."""
        settings, ready, gate = self._settings, self._keys.ready(Kind.IMAGE), engine.gate.gate
        choice = Affinity(
            max_bytes=settings.max_job_bytes,
            loaded=lambda: engine.supervisor.loaded,
            known_as=engine.known_as,
            most=lambda: engine.launcher.merging,
        )
        consumers: list[GroupConsumer] = []
        for number in range(settings.sd_concurrency):
            own = [self._side.slot(f"image-{number}-{place}", home=ready) for place in range(settings.sd_max_batch)]
            taker = GroupConsumer(self._slots, own, gate, choice, self._handler.process_group, number=number)
            consumers.append(taker)
        return consumers
