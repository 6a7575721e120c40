"""What is looked at all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from tests.doubles.worker import GPU
from tests.support.figures import figure, rise
from tests.support.waiting import until
from velesio_worker.engines import gpu as gpu_module
from velesio_worker.engines.gpu import Gpu, Gpus
from velesio_worker.observability import monitor as module
from velesio_worker.observability.monitor import Monitor
from velesio_worker.queue.outage import Outage
from velesio_worker.queue.survey import QueueView, Survey

pytestmark = pytest.mark.anyio

URL = "redis://:secret@r:6379"
LAG = "velesio_event_loop_lag_seconds"


@dataclass
class SurveyDouble:
    """Sees the queue, or does not."""

    error: RedisError | None = None
    looks: int = 0

    async def look(self) -> QueueView:
        await anyio.lowlevel.checkpoint()
        self.looks += 1
        if self.error is not None:
            raise self.error
        return QueueView(float(self.looks), {}, {}, 0)


@dataclass
class GpusDouble:
    """Reads the GPUs, which may hang."""

    gpus: Sequence[Gpu] = (GPU,)
    reads: int = 0
    hangs: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hangs.set()

    def read(self) -> Sequence[Gpu]:
        self.reads += 1
        self.hangs.wait(30)
        return self.gpus


@dataclass
class Watch:
    """A monitor and what it looks at."""

    survey: SurveyDouble = field(default_factory=SurveyDouble)
    gpus: GpusDouble = field(default_factory=GpusDouble)
    outage: Outage = field(default_factory=lambda: Outage(URL))

    def __post_init__(self) -> None:
        self.monitor = Monitor(cast("Survey", self.survey), cast("Gpus", self.gpus), self.outage, URL)

    @asynccontextmanager
    async def on(self, name: str) -> AsyncGenerator[Monitor, None]:
        async with anyio.create_task_group() as group:
            group.start_soon(getattr(self.monitor, name))
            yield self.monitor
            group.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _haste(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name in ("BEAT_SECONDS", "QUEUE_SECONDS", "GPU_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)


async def test_a_loop_that_moves_beats_and_its_lag_is_measured() -> None:
    async with Watch().on("beat") as monitor:
        before = figure(f"{LAG}_count")
        await until(lambda: figure(f"{LAG}_count") > before + 3)
        assert monitor.stuck_for == 0


async def test_a_loop_that_is_held_up_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.05)
    seen: list[float] = []

    with rise(f"{LAG}_sum") as lag:
        async with Watch().on("beat") as monitor:
            await anyio.lowlevel.checkpoint()
            looker = threading.Thread(target=lambda: (time.sleep(0.2), seen.append(monitor.stuck_for)))
            looker.start()
            time.sleep(0.4)  # noqa: ASYNC251 (it is to be stuck)
            looker.join()
            await until(lambda: monitor.stuck_for == 0)
    assert seen[0] > 0.1, "another thread sees it while it lasts"
    assert lag.by > 0.3


async def test_a_short_silence_is_not_worth_a_word() -> None:
    monitor = Watch().monitor
    assert module.STUCK_SECONDS == 10
    assert monitor.stuck_for == 0
    monitor._beat_at -= 9  # pyright: ignore[reportPrivateUsage]
    assert monitor.stuck_for == 0
    monitor._beat_at -= 2  # pyright: ignore[reportPrivateUsage]
    assert 11 <= monitor.stuck_for < 30


async def test_the_queue_is_looked_at_again_and_again() -> None:
    watch = Watch()
    assert (watch.monitor.queue, watch.monitor.redis_trouble) == (None, "Redis was not asked yet")
    async with watch.on("watch_queue") as monitor:
        await until(lambda: watch.survey.looks > 3)
        assert monitor.queue is not None
        assert monitor.redis_trouble == ""


@pytest.mark.parametrize("error", [RedisConnectionError("refused"), ResponseError("WRONGTYPE no list")])
async def test_redis_that_cannot_be_asked_is_told_and_what_was_seen_is_forgotten(error: RedisError) -> None:
    watch = Watch()
    async with watch.on("watch_queue") as monitor:
        await until(lambda: monitor.queue is not None)
        watch.survey.error = error
        await until(lambda: monitor.queue is None)
        assert monitor.redis_trouble.startswith("Redis at redis://:***@r:6379 ")
        watch.survey.error = None
        await until(lambda: monitor.queue is not None)
        assert monitor.redis_trouble == ""


async def test_what_others_find_out_of_redis_counts_at_once() -> None:
    watch = Watch()
    async with watch.on("watch_queue") as monitor:
        await until(lambda: not monitor.redis_trouble)
        watch.outage.noticed(RedisConnectionError("refused"))
        assert "check REDIS_URL" in monitor.redis_trouble
        watch.outage.over()
        assert monitor.redis_trouble == ""


async def test_the_busiest_gpu_counts() -> None:
    watch = Watch()
    assert watch.monitor.utilisation is None
    idle = Gpu(1, "GPU-2", "b", 1, 0, 1, utilisation=0, temperature=None)
    silent = Gpu(2, "GPU-3", "c", 1, 0, 1, utilisation=None, temperature=None)
    watch.monitor.gpus = (silent,)
    assert watch.monitor.utilisation is None
    watch.monitor.gpus = (idle, silent)
    assert watch.monitor.utilisation == 0
    watch.monitor.gpus = (idle, GPU, silent)
    assert watch.monitor.utilisation == 50


async def test_whoever_asks_first_waits_for_the_gpus() -> None:
    watch = Watch()
    watch.gpus.hangs.clear()
    async with watch.on("watch_gpus") as monitor, anyio.create_task_group() as group:
        known: list[Any] = []

        async def ask() -> None:
            known.append(await monitor.known_gpus())

        group.start_soon(ask)
        await until(lambda: watch.gpus.reads == 1)
        assert known == []
        watch.gpus.hangs.set()
        await until(lambda: known == [(GPU,)])
        assert await monitor.known_gpus() == (GPU,)


async def test_gpus_that_hang_hold_up_nobody_and_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def impatient(gpus: Gpus) -> Sequence[Gpu]:
        return await gpu_module.read_soon(gpus, seconds=0.05)

    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(module, "read_soon", impatient)
    watch = Watch()
    watch.gpus.hangs.clear()
    try:
        async with watch.on("watch_gpus") as monitor:
            with anyio.fail_after(20):
                assert await monitor.known_gpus() == ()
            await until(monitor._read_once.is_set)  # pyright: ignore[reportPrivateUsage]
            await anyio.wait_all_tasks_blocked()
            assert watch.gpus.reads == 1
    finally:
        watch.gpus.hangs.set()


async def test_gpus_that_there_are_not_are_looked_for_again() -> None:
    watch = Watch(gpus=GpusDouble(gpus=()))
    async with watch.on("watch_gpus") as monitor:
        await until(lambda: watch.gpus.reads > 3)
        assert monitor.gpus == ()
