"""The watchdog, with a clock that the tests turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from tests.doubles.launcher import DEFAULT, EngineStub, settled
from tests.support.waiting import until
from velesio_worker.engines.base import Serving
from velesio_worker.engines.supervision import leases as leases_module
from velesio_worker.engines.supervision import watchdog as module
from velesio_worker.engines.supervision.decisions import Quiet
from velesio_worker.engines.supervision.leases import EngineLease, Leases
from velesio_worker.engines.supervision.watchdog import Patience, Watchdog
from velesio_worker.wire.errors import EngineCrashedError, EngineUnavailableError, JobError

pytestmark = pytest.mark.anyio

SLOTS = 2


class Clock:
    """Anyio, but for the time: that goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._wakes_at = 0.0
        self._alarm = anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(anyio, name)

    def current_time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self._wakes_at = self.now + seconds
        self._alarm = anyio.Event()
        await self._alarm.wait()

    async def go_on(self, seconds: float) -> None:
        """Let time pass; whoever sleeps wakes when it should."""
        end = self.now + seconds
        while self._wakes_at <= end and not self._alarm.is_set():
            self.now = self._wakes_at
            self._alarm.set()
            await settled()
        self.now = end


@dataclass
class Kennel:
    """A watchdog and what it watches."""

    clock: Clock
    patience: Patience
    count: Callable[[], float | None] = lambda: None
    probe_ends: Callable[[], JobError | None] | None = None
    """How a probe ends; None: not at all."""
    reasons: list[str] = field(default_factory=list[str])
    reports: int = 0
    probes: int = 0
    cancelled: int = 0

    def __post_init__(self) -> None:
        self.leases: Leases[EngineStub] = Leases(DEFAULT, lambda: None)
        self.leases.quiet = Quiet(self.clock.now)
        engine = EngineStub(DEFAULT.name)
        self.leases.open(engine, DEFAULT, SLOTS)
        self._serving = Serving(engine, SLOTS, self._gone, self._report, None, self._moved, self._probe)

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None, None]:
        dog = Watchdog(self._serving, self.leases, self.patience, self.reasons.append)
        async with anyio.create_task_group() as group:
            group.start_soon(dog.run)
            await settled()
            yield
            group.cancel_scope.cancel()

    def job(self) -> EngineLease[EngineStub]:
        """Begin a job."""
        lease = self.leases.join(None)
        assert lease.engine is not None
        return lease

    async def _gone(self) -> str:
        raise NotImplementedError

    def _report(self) -> None:
        self.reports += 1

    async def _moved(self) -> float | None:
        return self.count()

    async def _probe(self) -> None:
        self.probes += 1
        try:
            if self.probe_ends is None:
                await anyio.sleep_forever()
                return
            error = self.probe_ends()
            if error is not None:
                raise error
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "anyio", clock)
    monkeypatch.setattr(leases_module, "anyio", clock)
    return clock


def no_answer() -> float:
    raise TimeoutError


def fine() -> None:
    return None


async def test_an_engine_that_makes_nothing_while_a_job_runs_hangs_after_the_stall_and_some_grace(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=8), count=lambda: 7.0)
    async with kennel.watching():
        kennel.job()
        await clock.go_on(2 + 8 + 4)  # the first look, the stall, two looks of grace
        assert kennel.reasons == []
        await clock.go_on(2)
        assert kennel.reasons == ["made nothing for 8 s (STALL_SECONDS) while jobs ran on it"]
        await clock.go_on(8)
        assert len(kennel.reasons) == 1, "it is said once, while somebody does something about it"


async def test_an_engine_that_does_not_answer_hangs_as_well(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=8), count=no_answer)
    async with kennel.watching():
        kennel.job()
        await clock.go_on(20)
        assert len(kennel.reasons) == 1


async def test_no_answer_is_no_sign_of_work_between_two_that_are_the_same(clock: Clock) -> None:
    answers = iter([7.0, None, None, 7.0, None, 7.0, 7.0, None, None, None])

    def now_and_then() -> float:
        answer = next(answers)
        return no_answer() if answer is None else answer

    kennel = Kennel(clock, Patience(stall=8), count=now_and_then)
    async with kennel.watching():
        kennel.job()
        await clock.go_on(20)
        assert len(kennel.reasons) == 1


async def test_an_engine_that_works_but_answers_seldom_does_not_hang(clock: Clock) -> None:
    looks = 0

    def seldom() -> float:
        nonlocal looks
        looks += 1
        return no_answer() if looks % 5 else float(looks)

    kennel = Kennel(clock, Patience(stall=8), count=seldom)
    async with kennel.watching():
        kennel.job()
        await clock.go_on(1000)
        assert kennel.reasons == []
        assert looks == 500


async def test_an_engine_whose_count_moves_does_not_hang(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=8), count=lambda: clock.now // 6)
    async with kennel.watching():
        kennel.job()
        await clock.go_on(1000)
        assert kennel.reasons == []


async def test_an_engine_whose_jobs_end_does_not_hang(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=8), count=lambda: 7.0)
    async with kennel.watching():
        kennel.job()  # one that stays
        for _ in range(50):
            other = kennel.job()
            await clock.go_on(9)
            kennel.leases.leave(other)
        assert kennel.reasons == []
        await clock.go_on(20)
        assert len(kennel.reasons) == 1, "but the one that stays has to end at some time"


async def test_an_engine_that_does_not_count_is_left_alone(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=8), count=lambda: None)
    async with kennel.watching():
        kennel.job()
        await clock.go_on(1000)
        assert kennel.reasons == []


async def test_an_idle_engine_need_not_move(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=8), count=lambda: 7.0)
    async with kennel.watching():
        await clock.go_on(1000)
        lease = kennel.job()
        await clock.go_on(14)
        assert kennel.reasons == [], "a job has the whole of the time, however long it was quiet before"
        kennel.leases.leave(lease)
        await clock.go_on(1000)
        kennel.job()
        await clock.go_on(14)
        assert kennel.reasons == []
        await clock.go_on(2)
        assert len(kennel.reasons) == 1
    assert kennel.probes == 0


async def test_an_idle_engine_makes_a_token_now_and_then(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=1000, probe=8), probe_ends=fine)
    async with kennel.watching():
        await clock.go_on(7)
        assert kennel.probes == 0
        await clock.go_on(1)
        assert kennel.probes == 1
        await clock.go_on(7)
        assert kennel.probes == 1
        await clock.go_on(1)
        assert kennel.probes == 2
    assert (kennel.reasons, kennel.reports) == ([], 0)


async def test_the_time_without_a_job_begins_with_the_end_of_the_last_one(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=1000, probe=8), probe_ends=fine)
    async with kennel.watching():
        lease = kennel.job()
        await clock.go_on(6)
        kennel.leases.leave(lease)
        await clock.go_on(6)
        assert kennel.probes == 0
        await clock.go_on(2)
        assert kennel.probes == 1


async def test_an_engine_that_works_is_not_probed(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=1000, probe=8), count=lambda: clock.now, probe_ends=fine)
    async with kennel.watching():
        kennel.job()
        await clock.go_on(500)
        assert kennel.probes == 0


async def test_no_engine_is_probed_where_the_setting_says_so(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=8, probe=0), probe_ends=fine)
    async with kennel.watching():
        await clock.go_on(1000)
        assert kennel.probes == 0


async def test_a_job_that_comes_ends_the_probe(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=8, probe=8), count=lambda: 7.0)
    async with kennel.watching():
        await clock.go_on(8)
        assert (kennel.probes, kennel.cancelled) == (1, 0)
        lease = kennel.job()
        await settled()
        assert kennel.cancelled == 1
        assert (kennel.reasons, kennel.reports) == ([], 0)
        kennel.leases.leave(lease)
        await clock.go_on(8)
        assert kennel.probes == 2
        kennel.job()
        await settled()
        await clock.go_on(16)
        assert len(kennel.reasons) == 1, "from then on the job shows whether the engine works"


async def test_an_engine_that_makes_no_token_hangs(clock: Clock) -> None:
    kennel = Kennel(clock, Patience(stall=8, probe=8, answer=0.02))
    async with kennel.watching():
        await clock.go_on(8)
        await until(lambda: kennel.reasons)
        assert kennel.reasons == ["did not make one token in 0.02 s while nothing ran on it"]


@pytest.mark.parametrize("error", [EngineCrashedError(), EngineUnavailableError()])
async def test_an_engine_that_cannot_be_reached_is_reported(clock: Clock, error: JobError) -> None:
    kennel = Kennel(clock, Patience(stall=8, probe=8), probe_ends=lambda: error)
    async with kennel.watching():
        await clock.go_on(8)
        assert kennel.reports == 1
        assert kennel.reasons == []
        await clock.go_on(8)
        assert kennel.reports == 2


@pytest.mark.parametrize(
    ("patience", "period"),
    [(Patience(stall=120, probe=120), 5), (Patience(stall=8), 2), (Patience(stall=120, probe=4), 1)],
)
async def test_the_engine_is_looked_at_often_enough(clock: Clock, patience: Patience, period: float) -> None:
    looks: list[float] = []

    def look() -> float:
        looks.append(clock.now)
        return clock.now

    kennel = Kennel(clock, patience, count=look)
    async with kennel.watching():
        kennel.job()
        await clock.go_on(20)
        assert looks == [1000 + period * number for number in range(1, int(20 / period) + 1)]
