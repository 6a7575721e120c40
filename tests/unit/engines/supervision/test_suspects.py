"""Whose fault it is that an engine is lost: that of the request which it was reading; on doubles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.doubles.launcher import PATIENT, LauncherDouble, Supervised, User, settled
from tests.support.figures import rise
from tests.support.waiting import until
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.requests import Blame
from velesio_worker.engines.supervision import failures
from velesio_worker.engines.supervision import leases as module
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.wire.errors import EngineCrashedError, EngineStalledError

pytestmark = pytest.mark.anyio

BACKOFF, FAILED, READY, STARTING, STOPPING = (
    EngineState.BACKOFF,
    EngineState.FAILED,
    EngineState.READY,
    EngineState.STARTING,
    EngineState.STOPPING,
)
STALL = 30.0
"""After which a hang is noticed in any case."""


@pytest.fixture
def supervised() -> Supervised:
    """Engines with four slots, which work once they are started."""
    launcher = LauncherDouble(slots=4)
    launcher.works = True
    return Supervised(launcher)


async def reader(supervised: Supervised, *, alone: bool = False) -> User:
    """Somebody whose request is being read."""
    user = await supervised.user(alone=alone)
    await until(lambda: user.uses)
    user.request.sent()
    return user


async def writer(supervised: Supervised) -> User:
    """Somebody whose answer has begun."""
    user = await reader(supervised)
    user.request.answered()
    return user


async def crash(supervised: Supervised, *users: User) -> None:
    """Have the engine die: its users find out one after the other, the first before the supervisor does."""
    lives = len(supervised.launcher.lives)
    for user in users:
        user.breaks = EngineCrashedError()
        await user.leave()
    supervised.launcher.life.die()
    await until(lambda: len(supervised.launcher.lives) > lives)
    await supervised.until(READY)


@pytest.mark.parametrize("first", ["the reader", "the writer"])
async def test_a_crash_is_the_fault_of_the_request_that_was_read(supervised: Supervised, first: str) -> None:
    async with supervised.ready():
        read, written = await reader(supervised), await writer(supervised)
        await crash(supervised, *((read, written) if first == "the reader" else (written, read)))
    assert (read.request.blame, written.request.blame) == (Blame.OWN, Blame.ANOTHERS)


async def test_a_crash_while_several_are_read_is_the_fault_of_one_of_them(supervised: Supervised) -> None:
    async with supervised.ready():
        users = [await reader(supervised), await writer(supervised), await reader(supervised)]
        await crash(supervised, *users)
    assert [user.request.blame for user in users] == [Blame.SHARED, Blame.ANOTHERS, Blame.SHARED]


async def test_a_crash_while_all_are_answered_is_nobodys_fault(supervised: Supervised) -> None:
    async with supervised.ready():
        users = [await writer(supervised), await writer(supervised)]
        await crash(supervised, *users)
    assert [user.request.blame for user in users] == [Blame.NOBODYS] * 2
    assert BACKOFF in supervised.states


async def test_an_engine_is_not_given_up_for_what_requests_do_to_it(supervised: Supervised) -> None:
    with rise("velesio_engine_restarts_total", kind="engine") as lost:
        async with supervised.ready():
            for _ in range(3 * PATIENT.failures):
                await crash(supervised, await reader(supervised, alone=True))
    assert set(supervised.states) == {STARTING, READY, STOPPING, EngineState.STOPPED}
    assert lost.by == 3 * PATIENT.failures


async def test_one_that_does_not_work_after_that_either_is_given_up(
    monkeypatch: pytest.MonkeyPatch, supervised: Supervised
) -> None:
    """It is no request's fault then."""

    def short(_low: float, _high: float) -> float:
        return 0.001

    monkeypatch.setattr(failures.random, "uniform", short)
    async with supervised.ready():
        user = await reader(supervised)
        user.breaks = EngineCrashedError()
        await user.leave()
        supervised.launcher.works = False
        supervised.launcher.life.die()
        for count in range(2, PATIENT.failures + 2):
            await until(lambda count=count: len(supervised.launcher.lives) == count)
            await until(lambda: supervised.launcher.life.probes == 1)
            assert supervised.supervisor.state is STARTING
            supervised.launcher.life.die()
        await supervised.until(FAILED)


async def test_whoever_is_suspected_waits_until_all_others_have_left(supervised: Supervised) -> None:
    async with supervised.ready():
        before = await writer(supervised)
        suspect = await supervised.user(alone=True)
        assert suspect.waiting
        await before.leave()
        await until(lambda: suspect.uses)


async def test_nobody_comes_beside_whoever_is_suspected_before_its_first_token(supervised: Supervised) -> None:
    async with supervised.ready():
        suspect = await reader(supervised, alone=True)
        behind = await supervised.user()
        assert behind.waiting
        suspect.request.answered()
        await until(lambda: behind.uses)
        assert suspect.uses


async def test_a_suspect_does_not_wait_for_long_answers(
    monkeypatch: pytest.MonkeyPatch, supervised: Supervised
) -> None:
    """Whose first token has come is not to blame in any case; but whoever is read still would be."""
    monkeypatch.setattr(module, "ALONE_SECONDS", 0.0)
    async with supervised.ready():
        beside = await reader(supervised)
        suspect = await supervised.user(alone=True)
        assert suspect.waiting
        beside.request.answered()
        await until(lambda: suspect.uses)
        assert beside.uses


async def test_nobody_comes_on_an_engine_before_it_has_let_go_of_a_job_that_was_stopped(
    supervised: Supervised,
) -> None:
    async with supervised.ready():
        stopped, life = await reader(supervised), supervised.launcher.life
        life.silent = True
        await stopped.cancel()
        behind = await supervised.user()
        assert behind.waiting
        life.silent, life.moved = False, 7.0
        await until(lambda: behind.uses)
        assert supervised.launcher.lives == [life]
        behind.request.sent()
        await crash(supervised, behind)
    assert behind.request.blame is Blame.OWN, "it has answered since the other left"


async def test_an_engine_that_does_not_answer_once_a_job_was_stopped_is_replaced(
    monkeypatch: pytest.MonkeyPatch, supervised: Supervised
) -> None:
    monkeypatch.setattr(Patience, "silence", 0.1)
    supervised = Supervised(supervised.launcher, replace(PATIENT, stall=STALL))
    async with supervised.ready():
        stopped, beside = await reader(supervised), await writer(supervised)
        first = supervised.launcher.life
        first.silent = True
        await stopped.cancel()
        await until(lambda: beside.done)
        await until(lambda: len(supervised.launcher.lives) == 2)
        behind = await supervised.user()
        await until(lambda: behind.uses)
    assert (first.killed, type(beside.error), beside.request.blame) == (1, EngineStalledError, Blame.ANOTHERS)
    assert str(beside.error) == "engine did not answer for 0.1 s after a job on it was stopped."
    assert BACKOFF not in supervised.states


@pytest.mark.parametrize(("stall", "silence"), [(2, 2), (20, 5), (120, 20)])
def test_how_long_it_may_be_silent_then_depends_on_how_long_it_may_hang(stall: float, silence: float) -> None:
    assert Patience(stall).silence == silence


async def test_an_engine_that_takes_too_much_memory_is_replaced(supervised: Supervised) -> None:
    supervised.launcher.memory = 3 * 1024**3
    supervised = Supervised(supervised.launcher, replace(PATIENT, memory=4 * 1024**3))
    async with supervised.ready():
        read, written, life = await reader(supervised), await writer(supervised), supervised.launcher.life
        life.memory = 5 * 1024**3
        await until(lambda: read.done and written.done)
        await until(lambda: len(supervised.launcher.lives) == 2)
        await supervised.until(READY)
    assert isinstance(read.error, EngineCrashedError)
    assert str(read.error) == "engine took 5.00 GiB of memory; ENGINE_MEMORY_LIMIT allows 4.00 GiB."
    assert {read.request.blame, written.request.blame} == {Blame.OWN, Blame.ANOTHERS}
    assert life.killed == 1
    assert BACKOFF not in supervised.states


async def test_who_was_only_refused_is_not_to_blame(supervised: Supervised) -> None:
    async with supervised.ready():
        refused = await reader(supervised)
        refused.breaks = module.JobError("no")
        await refused.leave()
        await settled()
        await crash(supervised, after := await writer(supervised))
    assert after.request.blame is Blame.NOBODYS
