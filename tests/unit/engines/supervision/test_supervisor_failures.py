"""What the supervisor does about engines that do not start, die again and again, or hang; on doubles."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tests.doubles.launcher import PATIENT, LauncherDouble, Supervised, User, settled
from tests.support.figures import rise
from tests.support.waiting import until
from velesio_worker.engines.base import EngineState, Traits
from velesio_worker.engines.supervision import decisions, failures
from velesio_worker.engines.supervision import supervisor as module
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.wire.errors import (
    EngineCrashedError,
    EngineFailedError,
    EngineStalledError,
    EngineStartError,
    EngineUnavailableError,
    ModelUnavailableError,
)

pytestmark = pytest.mark.anyio

STARTING, READY, DRAINING, STOPPING, BACKOFF, FAILED, STOPPED = (
    EngineState.STARTING,
    EngineState.READY,
    EngineState.DRAINING,
    EngineState.STOPPING,
    EngineState.BACKOFF,
    EngineState.FAILED,
    EngineState.STOPPED,
)
DIED = [STOPPING, BACKOFF, STARTING, READY]
STALLED = "sent nothing for 1 s"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(_low: float, _high: float) -> float:
        return 0.001

    monkeypatch.setattr(failures.random, "uniform", short)
    monkeypatch.setattr(decisions, "MENDED_SECONDS", 0.02)


class Delays:
    """Anyio, but for the pauses between two tries: they are noted, and the clock put forward, instead of slept."""

    def __init__(self, supervised: Supervised) -> None:
        self.seconds: list[float] = []
        self._supervised = supervised
        self._ahead = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(anyio, name)

    def current_time(self) -> float:
        return anyio.current_time() + self._ahead

    def move_on_after(self, delay: float) -> AbstractContextManager[anyio.CancelScope]:
        if self._supervised.supervisor.state is BACKOFF:
            self.seconds.append(delay)
            self._ahead += delay
            delay = 0
        return anyio.move_on_after(delay)


@pytest.fixture
def failing() -> LauncherDouble:
    """A launcher whose default model never starts."""
    launcher = LauncherDouble()
    launcher.broken["main"] = EngineStartError("engine ended with exit code 1")
    return launcher


async def test_the_pauses_between_two_tries_double_up_to_a_minute_with_jitter(
    monkeypatch: pytest.MonkeyPatch, failing: LauncherDouble
) -> None:
    bounds: list[tuple[float, float]] = []

    def jitter(low: float, high: float) -> float:
        bounds.append((low, high))
        return 1.0

    supervised = Supervised(failing, replace(PATIENT, failures=9))
    delays = Delays(supervised)
    monkeypatch.setattr(failures.random, "uniform", jitter)
    monkeypatch.setattr(module, "anyio", delays)
    async with supervised.running():
        await supervised.until(FAILED)
    assert delays.seconds == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.5)
    assert bounds == [(0.75, 1.25)] * 8


async def test_the_pause_is_the_shortest_again_after_a_steady_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def jitter(_low: float, _high: float) -> float:
        return 1.0

    monkeypatch.setattr(failures.random, "uniform", jitter)
    supervised = Supervised(patience=replace(PATIENT, steady=-1))
    delays = Delays(supervised)
    monkeypatch.setattr(module, "anyio", delays)
    async with supervised.ready():
        for count in range(2 * PATIENT.failures):
            supervised.launcher.life.die()
            await until(lambda count=count: len(supervised.launcher.lives) == count + 2)
            await supervised.until(READY)
    assert delays.seconds == pytest.approx([1] * 2 * PATIENT.failures, abs=0.5)
    assert FAILED not in supervised.states


async def test_an_engine_that_dies_soon_after_each_start_is_given_up_with_the_reason() -> None:
    supervised = Supervised()
    with rise("velesio_engine_restarts_total", kind="engine") as lost:
        await die_until_it_is_given_up(supervised)
    assert lost.by == PATIENT.failures


async def die_until_it_is_given_up(supervised: Supervised) -> None:
    async with supervised.ready():
        for count in range(PATIENT.failures):
            await until(lambda count=count: len(supervised.launcher.lives) == count + 1)
            await supervised.until(READY)
            supervised.launcher.life.die("was ended by SIGSEGV")
        await supervised.until(FAILED)
        assert supervised.states == [STARTING, READY, *DIED * 4, STOPPING, FAILED]
        reason = supervised.supervisor.reason
        assert reason == "it failed 5 times in a row; the last time: engine was ended by SIGSEGV"
        assert supervised.supervisor.facts()["last_error"] == "engine was ended by SIGSEGV"


async def test_those_who_wait_for_an_engine_that_is_given_up_are_told_why(failing: LauncherDouble) -> None:
    supervised = Supervised(failing)
    with rise("velesio_engine_start_failures_total", kind="engine") as failed:
        await wait_until_it_is_given_up(supervised, failing)
    assert failed.by == PATIENT.failures


async def wait_until_it_is_given_up(supervised: Supervised, failing: LauncherDouble) -> None:
    failing.may_start = anyio.Event()
    async with supervised.running():
        users = [await supervised.user(), await supervised.user("main")]
        failing.may_start.set()
        await supervised.until(FAILED)
        assert supervised.states == [STARTING, *[BACKOFF, STARTING] * 4, FAILED]
        users.append(await supervised.user())  # and whoever comes later, at once
        await until(lambda: all(user.done for user in users))
        for user in users:
            assert isinstance(user.error, EngineFailedError)
            assert "engine cannot be started: it failed 5 times in a row" in str(user.error)
            assert "exit code 1" in str(user.error)
        assert len(failing.starts) == PATIENT.failures


async def test_a_failure_that_no_further_try_would_mend_is_final_at_once() -> None:
    launcher = LauncherDouble()
    launcher.broken["main"] = EngineStartError("MODEL_PATH does not exist", final=True)
    supervised = Supervised(launcher)
    async with supervised.running():
        user = await supervised.user()
        await until(lambda: user.done)
        assert isinstance(user.error, EngineFailedError)
        assert str(user.error) == "engine cannot be started: MODEL_PATH does not exist"
        await supervised.until(FAILED)
        assert supervised.states == [STARTING, FAILED]
        assert supervised.supervisor.reason == "MODEL_PATH does not exist"


@pytest.mark.parametrize("final", [True, False])
async def test_a_failure_ends_when_somebody_mended_its_cause(failing: LauncherDouble, final: bool) -> None:  # noqa: FBT001 (a parameter of a test)
    failing.broken["main"] = EngineStartError("it is no model", final=final)
    supervised = Supervised(failing)
    async with supervised.running():
        await supervised.until(FAILED)
        starts = len(failing.starts)
        with anyio.move_on_after(0.1):
            await until(lambda: len(failing.starts) > starts)
        assert supervised.supervisor.state is FAILED
        failing.broken.clear()
        failing.state_of_files = "mended"
        await supervised.until(READY)
        assert supervised.supervisor.reason == ""
        assert supervised.supervisor.facts()["last_error"] is None


async def test_an_engine_that_was_not_mended_after_all_gets_all_its_tries(failing: LauncherDouble) -> None:
    supervised = Supervised(failing)
    async with supervised.running():
        await supervised.until(FAILED)
        failing.state_of_files = "changed, but no better"
        await until(lambda: supervised.states.count(FAILED) == 2)
        assert len(failing.starts) == 2 * PATIENT.failures


async def test_an_engine_that_was_stopped_in_good_order_has_no_failures_behind_it() -> None:
    supervised = Supervised(patience=replace(PATIENT, failures=2))
    async with supervised.ready():
        supervised.launcher.life.die()
        await until(lambda: supervised.states[2:] == DIED)
        with anyio.fail_after(60):
            await supervised.supervisor.unload()
        user = await supervised.user()
        await until(lambda: user.uses)
        supervised.launcher.life.die()
        await until(lambda: len(supervised.launcher.lives) == 4)
        assert FAILED not in supervised.states


async def test_a_mended_engine_that_nobody_had_started_waits_for_a_job(failing: LauncherDouble) -> None:
    supervised = Supervised(failing, eager=False)
    async with supervised.running():
        user = await supervised.user()
        await until(lambda: user.done)
        await supervised.until(FAILED)
        starts = len(failing.starts)
        failing.broken.clear()
        failing.state_of_files = "mended"
        await supervised.until(STOPPED)
        assert len(failing.starts) == starts
        again = await supervised.user()
        await until(lambda: again.uses)


async def test_an_engine_that_failed_is_tried_again_after_a_while(failing: LauncherDouble) -> None:
    supervised = Supervised(failing, replace(PATIENT, retry=0.05))
    async with supervised.running():
        await until(lambda: supervised.states.count(FAILED) >= 2)
        failing.broken.clear()
        await supervised.until(READY)


async def test_a_final_failure_is_tried_again_after_a_while_only(failing: LauncherDouble) -> None:
    failing.broken["main"] = EngineStartError("it is no model", final=True)
    supervised = Supervised(failing)
    async with supervised.running():
        await supervised.until(FAILED)
        with anyio.move_on_after(0.2):
            await until(lambda: len(failing.starts) > 1)
        assert failing.starts == ["main"]
    again = Supervised(failing, replace(PATIENT, retry=0.01))
    async with again.running():
        await until(lambda: len(failing.starts) > 2)


async def test_loading_the_default_tries_once_more(failing: LauncherDouble) -> None:
    supervised = Supervised(failing)
    async with supervised.running():
        await supervised.until(FAILED)
        starts = len(failing.starts)
        with anyio.fail_after(60), pytest.raises(EngineFailedError, match="exit code 1"):
            await supervised.supervisor.load("main")
        assert len(failing.starts) == starts + 1
        failing.broken.clear()
        with anyio.fail_after(60):
            assert await supervised.supervisor.load("main") == "main"
        assert supervised.supervisor.state is READY


async def test_another_model_can_be_used_though_the_default_failed(failing: LauncherDouble) -> None:
    failing.broken["main"] = EngineStartError("it is no model", final=True)
    supervised = Supervised(failing)
    async with supervised.running():
        await supervised.until(FAILED)
        other = await supervised.user("other")
        await until(lambda: other.uses)
        main = await supervised.user()
        await until(lambda: main.done)
        assert isinstance(main.error, EngineFailedError)
        assert other.uses
        assert failing.starts == ["main", "other"]
        with anyio.fail_after(60):
            assert await supervised.supervisor.load("other") == "other"
        again, waiting = await supervised.user(), await supervised.user()
        assert again.uses
        assert waiting.waiting, "both slots are taken"
        await other.leave()
        await until(lambda: waiting.uses)
        assert supervised.supervisor.reason == ""


async def test_a_load_is_tried_before_the_default_that_fails(
    monkeypatch: pytest.MonkeyPatch, failing: LauncherDouble
) -> None:
    def long(_low: float, _high: float) -> float:
        return 1000.0

    monkeypatch.setattr(failures.random, "uniform", long)
    supervised = Supervised(failing)
    async with supervised.running():
        await supervised.until(BACKOFF)
        with anyio.fail_after(60):
            assert await supervised.supervisor.load("other") == "other"
        assert failing.starts == ["main", "other"]


async def test_a_model_whose_engine_keeps_dying_is_refused_and_the_default_comes_back() -> None:
    supervised = Supervised(LauncherDouble(slots=1))
    async with supervised.ready():
        users = [await supervised.user("other") for _ in range(PATIENT.failures + 1)]
        for count in range(1, PATIENT.failures + 1):
            await until(lambda count=count: users[count - 1].uses)
            supervised.launcher.life.die("was ended by SIGSEGV")
        await until(lambda: all(user.done for user in users))
        assert all(isinstance(user.error, EngineCrashedError) for user in users[:-1])
        assert isinstance(users[-1].error, ModelUnavailableError)
        assert "With the model other engine was ended by SIGSEGV" in str(users[-1].error)
        await until(lambda: supervised.launcher.models == ["main", *["other"] * PATIENT.failures, "main"])
        await supervised.until(READY)
        assert FAILED not in supervised.states


async def test_an_engine_that_hangs_is_killed_and_another_started(caplog: pytest.LogCaptureFixture) -> None:
    supervised = Supervised()
    async with supervised.ready():
        first = supervised.launcher.life
        user = await supervised.user()
        with anyio.fail_after(60):
            await supervised.supervisor.stalled(STALLED)
        assert supervised.supervisor.state is not READY, "whoever asks now waits for another"
        await until(lambda: supervised.states[2:] == DIED)
        assert first.killed == 1
        assert isinstance(user.error, EngineUnavailableError)
        assert str(user.error) == f"engine was replaced while the job ran: it {STALLED}."
    assert f"engine was replaced: it {STALLED}" in caplog.text


async def test_a_job_that_finds_its_connection_lost_while_the_engine_is_replaced_is_not_told_of_a_crash() -> None:
    supervised = Supervised()
    async with supervised.ready():
        life = supervised.launcher.life
        life.obeys = False
        user = await supervised.user()
        user.breaks = EngineCrashedError("the connection was lost")
        supervised.start(supervised.supervisor.stalled, STALLED)
        await until(lambda: life.killed)
        await user.leave()
        life.die("was ended by SIGKILL")
        assert isinstance(user.error, EngineUnavailableError)
        assert "was replaced" in str(user.error)
        await until(lambda: supervised.states[2:] == DIED)


async def test_a_lost_connection_in_place_of_a_cancelled_read_is_no_crash_either() -> None:
    supervised = Supervised()
    async with supervised.ready():
        errors: list[Exception] = []

        async def use() -> None:
            try:
                async with supervised.supervisor.ensure():
                    try:
                        await anyio.sleep_forever()
                    finally:
                        raise EngineCrashedError("the connection was lost")
            except EngineUnavailableError as error:
                errors.append(error)

        supervised.start(use)
        await settled()
        await supervised.supervisor.stalled(STALLED)
        await until(lambda: errors)


async def test_a_job_that_finds_its_connection_lost_when_the_engine_dies_keeps_its_own_words() -> None:
    supervised = Supervised()
    async with supervised.ready():
        user = await supervised.user()
        user.breaks = EngineCrashedError("the connection was lost")
        await user.leave()
        assert str(user.error) == "the connection was lost"


async def test_several_complaints_of_one_engine_replace_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    supervised = Supervised()
    async with supervised.ready():
        first = supervised.launcher.life
        with anyio.fail_after(60):
            async with anyio.create_task_group() as complaints:
                for _ in range(3):
                    complaints.start_soon(supervised.supervisor.stalled, STALLED)
        await until(lambda: supervised.states[2:] == DIED)
        monkeypatch.setattr(module, "NOTICE_SECONDS", 0.05)
        await supervised.supervisor.lost()
        assert supervised.states[2:] == DIED
        assert first.killed == 1
        assert supervised.launcher.life.killed == 0


def pause(_low: float, _high: float) -> float:
    return 0.2


@pytest.mark.parametrize("state", [STOPPED, STARTING, BACKOFF])
async def test_a_complaint_while_nothing_serves_costs_the_next_engine_nothing(
    monkeypatch: pytest.MonkeyPatch, state: EngineState
) -> None:
    monkeypatch.setattr(failures.random, "uniform", pause)
    launcher = LauncherDouble()
    if state is STARTING:
        launcher.may_start = anyio.Event()
    if state is BACKOFF:
        launcher.troubles["main"] = [EngineStartError("it does not start")]
    supervised = Supervised(launcher)
    if state is STOPPED:
        await supervised.supervisor.stalled(STALLED)
    async with supervised.running():
        if state is not STOPPED:
            await supervised.until(state)
            await supervised.supervisor.stalled(STALLED)
        launcher.may_start.set()
        user = await supervised.user()
        await until(lambda: user.uses)
        await settled()
        assert user.uses
        assert len(launcher.lives) == 1


async def test_the_death_of_an_engine_that_took_anothers_place_is_a_crash_again() -> None:
    supervised = Supervised()
    async with supervised.ready():
        await supervised.supervisor.stalled(STALLED)
        await until(lambda: supervised.states[2:] == DIED)
        user = await supervised.user()
        supervised.launcher.life.die()
        await until(lambda: user.done)
        assert isinstance(user.error, EngineCrashedError)


async def test_an_engine_that_hangs_again_and_again_is_given_up() -> None:
    supervised = Supervised(patience=replace(PATIENT, failures=2))
    async with supervised.ready():
        await supervised.supervisor.stalled(STALLED)
        await until(lambda: supervised.states[2:] == DIED)
        await supervised.supervisor.stalled(STALLED)
        await supervised.until(FAILED)
        assert "2 times in a row" in supervised.supervisor.reason
        assert STALLED in supervised.supervisor.reason


async def test_an_engine_elsewhere_that_hangs_is_not_used_until_it_works_again() -> None:
    supervised = Supervised(LauncherDouble(owned=False))
    async with supervised.ready():
        first = supervised.launcher.life
        user = await supervised.user()
        await supervised.supervisor.stalled(STALLED)
        assert first.reports == 1
        behind = await supervised.user()
        assert (user.uses, behind.waiting) == (True, True), "what still runs on it may come to its end"
        await user.leave()
        await until(lambda: supervised.launcher.life is not first and supervised.launcher.life.probes)
        await settled()
        assert (supervised.supervisor.state, behind.waiting) == (STARTING, True)
        assert f"is not used until it works again: it {STALLED}" in supervised.supervisor.facts()["last_error"]
        supervised.launcher.life.works.set()
        await until(lambda: behind.uses)
        assert supervised.supervisor.facts()["last_error"] is None
        assert supervised.states == [STARTING, READY, DRAINING, STOPPING, STARTING, READY]
        assert supervised.supervisor.facts()["restarts"] == 0


async def test_an_engine_elsewhere_that_has_a_line_and_hangs_costs_those_in_the_line_nothing() -> None:
    launcher = LauncherDouble(owned=False, exchanges=True)
    launcher.traits = Traits(queues=True)
    supervised = Supervised(launcher)
    async with supervised.ready():
        first = launcher.life
        users = [await supervised.user(), await supervised.user()]
        await supervised.supervisor.stalled(STALLED)
        await until(lambda: all(user.done for user in users))
        for user in users:
            assert isinstance(user.error, EngineUnavailableError)
            assert "is not used until it works again" in str(user.error)
        await until(lambda: launcher.life is not first and launcher.life.probes)
        assert supervised.supervisor.state is STARTING
        launcher.life.works.set()
        await supervised.until(READY)


async def test_an_engine_elsewhere_that_hung_and_goes_away_is_waited_for_as_ever() -> None:
    supervised = Supervised(LauncherDouble(owned=False), replace(PATIENT, answer=0.02))
    async with supervised.ready():
        await supervised.supervisor.stalled(STALLED)
        for lives in (2, 3):
            await until(lambda lives=lives: len(supervised.launcher.lives) == lives)
            life = supervised.launcher.life
            await until(lambda life=life: life.probes and life.reports)
            life.die("does not answer any more")
        await until(lambda: len(supervised.launcher.lives) == 4)
        supervised.launcher.life.works.set()
        await supervised.until(READY)


async def test_an_engine_elsewhere_that_goes_away_after_it_hung_ends_what_runs_on_it() -> None:
    supervised = Supervised(LauncherDouble(owned=False))
    async with supervised.ready():
        user = await supervised.user()
        await supervised.supervisor.stalled(STALLED)
        supervised.launcher.life.die("does not answer any more")
        await until(lambda: user.done)
        assert isinstance(user.error, EngineCrashedError)
        await until(lambda: supervised.launcher.lives[1:])


async def test_an_end_that_was_wished_for_costs_jobs_no_attempt() -> None:
    supervised = Supervised(LauncherDouble(owned=False))
    async with supervised.ready():
        user = await supervised.user()
        supervised.launcher.life.excused = True
        supervised.launcher.life.die("is another one now")
        await until(lambda: user.done)
        assert isinstance(user.error, EngineUnavailableError)
        assert "is another one now" in str(user.error)


async def test_jobs_on_an_engine_that_the_watchdog_found_hanging_are_told_so(caplog: pytest.LogCaptureFixture) -> None:
    launcher = LauncherDouble()
    supervised = Supervised(launcher, Patience(stall=0.05))
    async with supervised.ready():
        first = launcher.life
        users = [await supervised.user(), await supervised.user()]
        first.moved = 7.0
        await until(lambda: all(user.done for user in users))
        for user in users:
            assert isinstance(user.error, EngineStalledError)
            assert str(user.error).startswith("engine made nothing for 0.05 s (STALL_SECONDS)")
        await until(lambda: supervised.states[2:] == DIED)
        assert first.killed == 1
    assert "engine was replaced: it made nothing" in caplog.text


async def test_a_job_that_is_slow_to_leave_is_still_told_that_the_engine_hung() -> None:
    launcher = LauncherDouble()
    supervised = Supervised(launcher, Patience(stall=0.05))
    async with supervised.ready():
        first = launcher.life
        user = await supervised.user()
        user.lingers = True
        first.moved = 7.0
        await until(lambda: first.killed)
        await settled()
        user.may_leave.set()
        await until(lambda: user.done)
        assert isinstance(user.error, EngineStalledError)


async def test_jobs_on_an_engine_elsewhere_that_the_watchdog_found_hanging_are_told_so_and_it_is_not_used() -> None:
    launcher = LauncherDouble(owned=False)
    supervised = Supervised(launcher, Patience(stall=0.05))
    async with supervised.ready():
        user = await supervised.user()
        launcher.life.moved = 7.0
        await until(lambda: user.done)
        assert isinstance(user.error, EngineStalledError)
        assert launcher.lives[0].reports
        await until(lambda: launcher.lives[1:] and launcher.life.probes)
        assert supervised.supervisor.state is STARTING


async def test_an_idle_engine_that_makes_no_token_is_replaced() -> None:
    supervised = Supervised(patience=Patience(stall=600, probe=0.05, answer=0.05))
    async with supervised.ready():
        first = supervised.launcher.life
        await until(lambda: supervised.launcher.lives[1:])
        assert (first.probes, first.killed) == (1, 1)
        assert supervised.states[2:4] == [STOPPING, BACKOFF]


async def test_a_job_ends_the_probe_of_an_idle_engine() -> None:
    supervised = Supervised(patience=Patience(stall=600, probe=0.05))
    async with supervised.ready():
        await until(lambda: supervised.launcher.life.probes)
        user: User = await supervised.user()
        assert user.uses
        await user.leave()
        await until(lambda: supervised.launcher.life.probes == 2)
        assert supervised.states == [STARTING, READY]


async def test_a_mistake_while_it_is_asked_whether_an_engine_may_rest_costs_that_engine_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mistakes = [ZeroDivisionError()]

    async def may_rest() -> bool:
        if mistakes:
            raise mistakes.pop()
        return False

    supervised = Supervised(patience=Patience(stall=600, idle=0.05), may_rest=may_rest)
    async with supervised.ready():
        await until(lambda: supervised.states[2:] == DIED)
        assert supervised.launcher.lives[0].ended
        assert "the worker made a mistake (ZeroDivisionError)" in caplog.text
        assert (await supervised.user()).uses


async def test_a_mistake_in_a_start_is_a_failure_of_that_start() -> None:
    launcher = LauncherDouble()
    launcher.broken["main"] = ZeroDivisionError()  # pyright: ignore[reportArgumentType] (that is the mistake)
    supervised = Supervised(launcher, replace(PATIENT, failures=2))
    async with supervised.running():
        await supervised.until(FAILED)
        assert "The worker made a mistake (ZeroDivisionError)" in supervised.supervisor.reason
