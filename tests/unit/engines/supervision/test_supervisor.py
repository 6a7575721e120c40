"""The supervisor's states, leases and exchanges of models, on engines that are doubles."""

from __future__ import annotations

import random

import anyio
import anyio.lowlevel
import pytest

from tests.doubles.launcher import DEFAULT, LauncherDouble, Supervised, User, settled
from tests.support.waiting import until
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.supervision import failures, leases
from velesio_worker.engines.supervision import supervisor as module
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.wire.errors import (
    BadJobError,
    EngineCrashedError,
    EngineStartError,
    ModelUnavailableError,
    NoCapacityError,
    OutOfMemoryError,
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


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(_low: float, _high: float) -> float:
        return 0.001

    monkeypatch.setattr(failures.random, "uniform", short)


async def test_an_engine_is_started_before_anybody_asks_for_it() -> None:
    supervised = Supervised()
    assert supervised.supervisor.state is STOPPED
    async with supervised.ready():
        assert supervised.states == [STARTING, READY]
        assert supervised.supervisor.loaded == DEFAULT
        assert supervised.supervisor.model == "main"
        assert not supervised.launcher.life.ended
    assert supervised.states == [STARTING, READY, STOPPED]
    assert supervised.launcher.life.ended
    assert supervised.supervisor.loaded is None


async def test_an_engine_that_is_not_eager_is_started_by_the_first_lease() -> None:
    supervised = Supervised(eager=False)
    async with supervised.running():
        assert supervised.launcher.starts == []
        assert supervised.supervisor.state is STOPPED
        user = await supervised.user()
        assert user.engine is not None
        assert user.engine.model == "main"
        assert supervised.states == [STARTING, READY]


async def test_a_lease_is_granted_at_once_when_the_engine_is_ready() -> None:
    supervised = Supervised()
    async with supervised.ready():
        with anyio.CancelScope() as scope:
            scope.cancel()  # no await may be in the way
            async with supervised.supervisor.ensure() as engine:
                assert engine.model == "main"
        assert supervised.running_now == 0


async def test_whoever_has_nothing_to_wait_for_is_not_told_to_wait() -> None:
    supervised = Supervised()
    async with supervised.ready():
        user = await supervised.user()
        assert user.uses
        assert user.waits == []


async def test_no_more_leases_than_slots_are_granted_at_a_time_and_the_first_come_first() -> None:
    supervised = Supervised(LauncherDouble(slots=3))
    granted: list[int] = []
    chance = random.Random(8)

    async def use(number: int, user: User) -> None:
        async with supervised.supervisor.ensure():
            granted.append(number)
            assert supervised.running_now <= 3
            await user.may_leave.wait()

    async with supervised.ready():
        users = [User(None) for _ in range(30)]
        for number, user in enumerate(users):
            supervised.start(use, number, user)
            await settled()
        assert supervised.running_now == 3
        assert supervised.waiting_now == 27
        open_leases = set(range(30))
        while open_leases:
            assert granted == list(range(len(granted)))
            one = chance.choice([number for number in granted if number in open_leases])
            open_leases.discard(one)
            users[one].may_leave.set()
            await settled()
        assert granted == list(range(30))
        assert supervised.running_now == supervised.waiting_now == 0
        assert supervised.states == [STARTING, READY]


async def test_a_full_engine_is_waited_for_without_a_change_of_its_state() -> None:
    supervised = Supervised(LauncherDouble(slots=1))
    async with supervised.ready():
        first, second = await supervised.user(), await supervised.user()
        assert first.uses
        assert second.waits == [READY]
        await first.leave()
        await until(lambda: second.uses)
        assert second.waits == [READY]


async def test_those_who_want_the_model_that_is_loaded_join() -> None:
    supervised = Supervised()
    async with supervised.ready():
        users = [await supervised.user(), await supervised.user("main")]
        assert all(user.uses for user in users)
        assert supervised.launcher.models == ["main"]


async def test_another_model_waits_until_the_running_jobs_have_ended() -> None:
    supervised = Supervised()
    async with supervised.ready():
        running = [await supervised.user(), await supervised.user()]
        other = await supervised.user("other")
        assert supervised.states == [STARTING, READY, DRAINING]
        assert other.waits == [READY, DRAINING]
        await running[0].leave()
        await settled()
        assert other.waiting
        assert running[1].uses
        await running[1].leave()
        await until(lambda: other.uses)
        assert other.engine is not None
        assert other.engine.model == supervised.supervisor.facts()["model"] == "other"
        assert supervised.supervisor.loaded == await supervised.launcher.resolve("other")
        assert supervised.supervisor.model == "main", "which those get who ask for none"
        assert all(user.error is None for user in running)
        assert supervised.states == [STARTING, READY, DRAINING, STOPPING, STARTING, READY]
        assert supervised.launcher.lives[0].ended


async def test_another_model_is_loaded_at_once_where_nothing_runs() -> None:
    supervised = Supervised()
    async with supervised.ready():
        other = await supervised.user("other")
        await until(lambda: other.uses)
        assert supervised.states == [STARTING, READY, STOPPING, STARTING, READY]


async def test_a_job_of_the_loaded_model_does_not_overtake_one_that_wants_another() -> None:
    supervised = Supervised(LauncherDouble(slots=4))
    async with supervised.ready():
        running = await supervised.user()
        other, later = await supervised.user("other"), await supervised.user()
        assert other.waiting
        assert later.waiting
        await running.leave()
        await until(lambda: other.uses)
        assert later.waiting
        await other.leave()
        await until(lambda: later.uses)
        assert supervised.launcher.models == ["main", "other", "main"]


async def test_those_in_front_of_another_models_job_still_get_a_slot() -> None:
    supervised = Supervised(LauncherDouble(slots=1))
    async with supervised.ready():
        first, second, other = await supervised.user(), await supervised.user(), await supervised.user("other")
        await first.leave()
        await until(lambda: second.uses)
        assert other.waiting
        await second.leave()
        await until(lambda: other.uses)
        assert supervised.launcher.models == ["main", "other"]


async def test_the_last_model_stays_until_somebody_wants_another() -> None:
    supervised = Supervised()
    async with supervised.ready():
        other = await supervised.user("other")
        await until(lambda: other.uses)
        await other.leave()
        await settled()
        assert supervised.supervisor.facts()["model"] == "other"
        again = await supervised.user("other")
        assert again.uses
        await again.leave()
        main = await supervised.user()
        await until(lambda: main.uses)
        assert supervised.launcher.models == ["main", "other", "main"]


async def test_a_waiter_that_leaves_spares_the_engine_the_exchange() -> None:
    supervised = Supervised()
    async with supervised.ready():
        running = await supervised.user()
        other, later = await supervised.user("other"), await supervised.user()
        assert supervised.supervisor.state is DRAINING
        await other.cancel()
        await until(lambda: later.uses)
        assert supervised.states == [STARTING, READY, DRAINING, READY]
        assert running.uses
        assert supervised.launcher.models == ["main"]


async def test_a_lease_that_is_granted_and_cancelled_in_one_moment_is_free_again() -> None:
    supervised = Supervised(LauncherDouble(slots=1))
    async with supervised.ready():
        first, second, third = [await supervised.user() for _ in range(3)]
        first.may_leave.set()
        second.scope.cancel()
        await until(lambda: third.uses)
        assert supervised.running_now == 1
        assert second.done


async def test_whoever_waits_for_a_start_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "WAIT_SECONDS", 0.02)
    launcher = LauncherDouble()
    launcher.may_start = anyio.Event()
    supervised = Supervised(launcher)
    async with supervised.running():
        user = await supervised.user()
        await until(lambda: len(user.waits) >= 3)
        assert {*user.waits} == {STARTING}
        launcher.may_start.set()
        await until(lambda: user.uses)


async def test_a_model_that_there_is_not_costs_the_engine_nothing() -> None:
    supervised = Supervised()
    async with supervised.ready():
        user = await supervised.user("nonsense")
        assert isinstance(user.error, BadJobError)
        assert supervised.states == [STARTING, READY]


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (EngineStartError("it is no model", final=True), ModelUnavailableError),
        (EngineStartError("it did not answer"), ModelUnavailableError),
        (EngineStartError("it is too large", final=True, out_of_memory=True), OutOfMemoryError),
    ],
)
async def test_whoever_asked_for_a_model_that_cannot_be_loaded_is_told_so_and_the_default_comes_back(
    trouble: EngineStartError, kind: type[Exception]
) -> None:
    launcher = LauncherDouble()
    launcher.broken["other"] = trouble
    supervised = Supervised(launcher)
    async with supervised.ready():
        running = await supervised.user()
        first, second, main = [await supervised.user(model) for model in ("other", "other", None)]
        await running.leave()
        await until(lambda: main.uses)
        for user in (first, second):
            assert type(user.error) is kind
            assert "other cannot be loaded" in str(user.error)
            assert str(trouble) in str(user.error)
        assert launcher.starts == ["main", "other", "main"]
        assert supervised.supervisor.facts()["last_error"] is None


async def test_the_default_comes_back_though_nobody_waits_for_it() -> None:
    launcher = LauncherDouble()
    launcher.broken["other"] = EngineStartError("it is no model", final=True)
    supervised = Supervised(launcher)
    async with supervised.ready():
        user = await supervised.user("other")
        await until(lambda: user.done)
        await until(lambda: launcher.models == ["main", "main"])
        await supervised.until(READY)


async def test_jobs_on_an_engine_that_dies_are_told_so_and_it_is_started_again() -> None:
    supervised = Supervised(LauncherDouble(slots=1))
    async with supervised.ready():
        running, waiting = await supervised.user(), await supervised.user()
        supervised.launcher.life.die()
        await until(lambda: waiting.uses)
        assert isinstance(running.error, EngineCrashedError)
        assert "went away while the job ran" in str(running.error)
        assert waiting.waits[0] is READY
        assert supervised.states == [STARTING, READY, STOPPING, BACKOFF, STARTING, READY]
        assert supervised.supervisor.facts()["restarts"] == 1


async def test_an_engine_is_started_again_with_the_model_that_the_first_waiter_wants() -> None:
    supervised = Supervised(LauncherDouble(slots=1))
    async with supervised.ready():
        running, other = await supervised.user(), await supervised.user("other")
        supervised.launcher.life.die()
        await until(lambda: other.uses)
        assert isinstance(running.error, EngineCrashedError)
        assert supervised.launcher.models == ["main", "other"]


async def test_a_job_that_takes_no_notice_does_not_keep_the_next_engine_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("velesio_worker.engines.supervision.leases.DISMISS_SECONDS", 0.05)
    supervised = Supervised()
    async with supervised.ready():

        async def use() -> None:
            with pytest.raises(EngineCrashedError):  # noqa: PT012 (raised on leaving)
                async with supervised.supervisor.ensure():
                    with anyio.CancelScope(shield=True):
                        await until(lambda: supervised.launcher.lives[1:])
                    await anyio.lowlevel.checkpoint()

        supervised.start(use)
        await until(lambda: supervised.running_now == 1)
        supervised.launcher.life.die()
        await until(lambda: supervised.launcher.lives[1:])
        await until(lambda: supervised.running_now == 0)


async def test_whoever_finds_the_engine_gone_waits_until_that_is_known() -> None:
    supervised = Supervised()
    await supervised.supervisor.lost()  # nothing is ready: nothing to wait for
    async with supervised.ready():
        returned = anyio.Event()

        async def find() -> None:
            await supervised.supervisor.lost()
            assert supervised.supervisor.state is not READY
            returned.set()

        supervised.start(find)
        await settled()
        assert supervised.launcher.life.reports == 1
        assert not returned.is_set()
        supervised.launcher.life.die()
        with anyio.fail_after(60):
            await returned.wait()


async def test_a_false_alarm_costs_the_engine_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTICE_SECONDS", 0.05)
    supervised = Supervised()
    async with supervised.ready():
        with anyio.fail_after(60):
            await supervised.supervisor.lost()
        assert supervised.states == [STARTING, READY]


async def test_loading_a_model_makes_it_the_default() -> None:
    supervised = Supervised()
    async with supervised.ready():
        waits: list[EngineState] = []
        with anyio.fail_after(60):
            assert await supervised.supervisor.load("other", on_wait=waits.append) == "other"
        assert STARTING in waits
        assert supervised.supervisor.model == supervised.supervisor.facts()["default_model"] == "other"
        user = await supervised.user()
        assert user.engine is not None
        assert user.engine.model == "other"
        await user.leave()
        supervised.launcher.life.die()
        await until(lambda: supervised.launcher.models == ["main", "other", "other"])
        main = await supervised.user("main")
        await until(lambda: main.uses)
        assert supervised.launcher.models[-1] == "main"


async def test_those_who_wait_for_the_default_get_the_one_that_was_loaded_meanwhile() -> None:
    supervised = Supervised()
    async with supervised.ready():
        running = await supervised.user()
        supervised.start(supervised.supervisor.load, "other")
        await settled()
        waiting = await supervised.user()
        await running.leave()
        await until(lambda: waiting.uses)
        assert supervised.launcher.models == ["main", "other"]


async def test_a_model_that_does_not_load_does_not_become_the_default() -> None:
    launcher = LauncherDouble()
    launcher.broken["other"] = EngineStartError("it is no model", final=True)
    supervised = Supervised(launcher)
    async with supervised.ready():
        with anyio.fail_after(60), pytest.raises(ModelUnavailableError, match="it is no model"):
            await supervised.supervisor.load("other")
        with pytest.raises(BadJobError):
            await supervised.supervisor.load("nonsense")
        assert supervised.supervisor.facts()["default_model"] == "main"
        await until(lambda: launcher.models == ["main", "main"])


async def test_unloading_waits_for_the_jobs_and_the_next_one_starts_the_engine() -> None:
    supervised = Supervised()
    async with supervised.ready():
        running = await supervised.user()
        unloaded = await unloading(supervised)
        waiting = await supervised.user()
        assert supervised.supervisor.state is DRAINING
        assert waiting.waits == [DRAINING]
        assert not unloaded.is_set()
        await running.leave()
        await until(unloaded.is_set)
        assert supervised.launcher.lives[0].ended
        await until(lambda: waiting.uses)
        assert supervised.launcher.models == ["main", "main"]


async def unloading(supervised: Supervised) -> anyio.Event:
    """Have the engine unloaded; returns what is set once that is done."""
    done = anyio.Event()

    async def unload() -> None:
        await supervised.supervisor.unload()
        done.set()

    supervised.start(unload)
    await settled()
    return done


async def test_an_engine_that_was_unloaded_stays_so_until_a_job_comes() -> None:
    supervised = Supervised()
    async with supervised.ready():
        unloaded = [await unloading(supervised), await unloading(supervised)]
        await until(lambda: all(one.is_set() for one in unloaded))
        await settled()
        assert supervised.states == [STARTING, READY, STOPPING, STOPPED]
        again = await unloading(supervised)  # nothing runs: there is nothing to do
        await until(again.is_set)
        user = await supervised.user()
        assert user.uses
        assert supervised.launcher.models == ["main", "main"]


async def test_unloading_an_engine_that_starts_waits_for_it() -> None:
    launcher = LauncherDouble()
    launcher.may_start = anyio.Event()
    supervised = Supervised(launcher)
    async with supervised.running():
        unloaded = await unloading(supervised)
        assert not unloaded.is_set()
        launcher.may_start.set()
        await until(unloaded.is_set)
        await supervised.until(STOPPED)
        assert launcher.life.ended


@pytest.mark.parametrize("asked", ["before it failed", "after it failed"])
async def test_unloading_does_not_wait_for_the_next_try(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    def long(_low: float, _high: float) -> float:
        return 1000.0

    monkeypatch.setattr(failures.random, "uniform", long)
    launcher = LauncherDouble()
    launcher.broken["main"] = EngineStartError("it does not start")
    launcher.may_start = anyio.Event()
    supervised = Supervised(launcher)
    async with supervised.running():
        if asked == "after it failed":
            launcher.may_start.set()
            await supervised.until(BACKOFF)
        unloaded = await unloading(supervised)
        launcher.may_start.set()
        await until(unloaded.is_set)
        await supervised.until(STOPPED)
        assert launcher.starts == ["main"]


async def test_unloading_an_engine_that_failed_returns() -> None:
    launcher = LauncherDouble()
    launcher.broken["main"] = EngineStartError("it is no model", final=True)
    supervised = Supervised(launcher)
    async with supervised.running():
        await supervised.until(FAILED)
        unloaded = await unloading(supervised)
        await until(unloaded.is_set)
        assert supervised.supervisor.state is FAILED


async def test_unloading_while_another_model_is_waited_for_goes_first() -> None:
    supervised = Supervised()
    async with supervised.ready():
        running = await supervised.user()
        other = await supervised.user("other")
        unloaded = await unloading(supervised)
        await running.leave()
        await until(unloaded.is_set)
        await until(lambda: other.uses)
        assert supervised.launcher.models == ["main", "other"]


async def test_an_engine_that_nobody_wants_unloaded_any_more_serves_on() -> None:
    supervised = Supervised()
    async with supervised.ready():
        running = await supervised.user()
        async with anyio.create_task_group() as group:
            group.start_soon(supervised.supervisor.unload)
            await supervised.until(DRAINING)
            group.cancel_scope.cancel()
        await supervised.until(READY)
        await running.leave()
        assert (await supervised.user()).uses
        assert supervised.states == [STARTING, READY, DRAINING, READY]


async def test_an_engine_that_dies_while_it_is_to_be_unloaded_is_not_started_again() -> None:
    supervised = Supervised()
    async with supervised.ready():
        running = await supervised.user()
        unloaded = await unloading(supervised)
        supervised.launcher.life.die()
        await until(unloaded.is_set)
        await supervised.until(STOPPED)
        assert isinstance(running.error, EngineCrashedError)
        assert supervised.launcher.starts == ["main"]


async def test_an_engine_that_has_no_job_for_long_rests_until_the_next_lease() -> None:
    supervised = Supervised(patience=Patience(stall=600, idle=0.05))
    async with supervised.running():
        await supervised.until(STOPPED)
        assert supervised.states == [STARTING, READY, STOPPING, STOPPED]
        user = await supervised.user()
        await until(lambda: user.uses)
        with anyio.move_on_after(0.2):
            await until(lambda: user.done)
        assert user.uses, "an engine that works does not rest"
        await user.leave()
        await supervised.until(STOPPED)
        assert supervised.launcher.models == ["main", "main"]
        assert all(life.ended for life in supervised.launcher.lives)


async def test_an_engine_does_not_rest_while_jobs_wait_elsewhere() -> None:
    asked: list[float] = []

    async def may_rest() -> bool:
        asked.append(anyio.current_time())
        return len(asked) == 3

    supervised = Supervised(patience=Patience(stall=600, idle=0.05), may_rest=may_rest)
    async with supervised.running():
        await until(lambda: asked)
        assert supervised.supervisor.state is READY
        await supervised.until(STOPPED)
        assert len(asked) == 3
        assert asked[2] - asked[1] > 0.9, "it is asked once a second"


async def test_a_job_that_comes_while_it_is_asked_whether_the_engine_may_rest_gets_it() -> None:
    asked, answer = anyio.Event(), anyio.Event()

    async def may_rest() -> bool:
        asked.set()
        await answer.wait()
        return True

    supervised = Supervised(patience=Patience(stall=600, idle=0.05), may_rest=may_rest)
    async with supervised.ready():
        await until(asked.is_set)
        user = await supervised.user()
        assert user.uses
        answer.set()
        await settled()
        assert supervised.states == [STARTING, READY]
        assert user.uses


async def never_asked() -> bool:
    raise AssertionError


@pytest.mark.parametrize(("owned", "idle"), [(True, 0), (False, 0.01)], ids=["setting is 0", "not the worker's own"])
async def test_some_engines_never_rest(owned: bool, idle: float) -> None:  # noqa: FBT001 (a parameter of a test)
    supervised = Supervised(LauncherDouble(owned=owned), Patience(stall=600, idle=idle), may_rest=never_asked)
    async with supervised.ready():
        user = await supervised.user()
        await user.leave()
        with anyio.move_on_after(0.2):
            await until(lambda: supervised.supervisor.state is not READY)
        assert supervised.states == [STARTING, READY]


async def test_an_engine_that_is_not_the_workers_own_is_not_unloaded() -> None:
    supervised = Supervised(LauncherDouble(owned=False))
    async with supervised.ready():
        with pytest.raises(NoCapacityError, match="engine is not this worker's own"):
            await supervised.supervisor.unload()
        assert supervised.states == [STARTING, READY]


async def test_cancelling_the_supervisor_ends_the_leases_and_the_engine() -> None:
    supervised = Supervised()
    user = User(None)
    async with anyio.create_task_group() as users:
        async with anyio.create_task_group() as group:
            group.start_soon(supervised.supervisor.run)
            users.start_soon(user.run, supervised.supervisor)
            await until(lambda: user.uses)
            group.cancel_scope.cancel()
        assert user.done
        assert isinstance(user.error, EngineCrashedError)
        assert supervised.launcher.life.ended
        assert supervised.supervisor.state is STOPPED
        assert supervised.supervisor.serving is None


async def test_cancelling_the_supervisor_lets_jobs_leave_before_the_engine_ends() -> None:
    supervised = Supervised()
    user = User(None, lingers=True)
    ended_before = True
    async with anyio.create_task_group() as users:
        async with anyio.create_task_group() as group:
            group.start_soon(supervised.supervisor.run)
            users.start_soon(user.run, supervised.supervisor)
            await until(lambda: user.uses)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await settled()
                ended_before = supervised.launcher.life.ended
                user.may_leave.set()
        assert not ended_before
        assert supervised.launcher.life.ended
        assert isinstance(user.error, EngineCrashedError)


async def test_cancelling_a_start_leaves_nothing() -> None:
    launcher = LauncherDouble()
    launcher.may_start = anyio.Event()
    supervised = Supervised(launcher)
    async with supervised.running():
        await supervised.until(STARTING)
    assert supervised.states == [STARTING, STOPPED]


async def test_what_a_jobs_answer_depends_on_is_told_by_its_model() -> None:
    supervised = Supervised()
    async with supervised.ready():
        supervisor = supervised.supervisor
        assert await supervisor.identity(None) == await supervisor.identity("main") == "main by its bytes"
        assert await supervisor.identity("other") == "other by its bytes"
        with pytest.raises(BadJobError):
            await supervisor.identity("nonsense")
        await supervisor.load("other")
        assert await supervisor.identity(None) == "other by its bytes"
        assert await supervisor.identity("main") == "main by its bytes"


async def test_the_facts_tell_who_uses_the_engine_and_who_waits() -> None:
    supervised = Supervised(LauncherDouble(slots=1))
    async with supervised.ready():
        await supervised.user()
        await supervised.user("other")
        facts = supervised.supervisor.facts()
        assert facts.pop("since") > 0
        assert facts == {
            "state": "draining",
            "model": "main",
            "default_model": "main",
            "slots": 1,
            "running": 1,
            "waiting": 1,
            "starts": 1,
            "restarts": 0,
            "last_error": None,
        }
