"""The supervisor with engines that exchange their model, and rest, without an end; engines are doubles."""

from __future__ import annotations

import random

import anyio
import anyio.lowlevel
import pytest

from tests.doubles.launcher import PATIENT, LauncherDouble, Supervised, User, settled
from tests.support.waiting import until
from velesio_worker.engines.base import EngineState, Spec, SpoiltError
from velesio_worker.engines.supervision import failures
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.wire.errors import (
    BadJobError,
    EngineCrashedError,
    EngineRefusedError,
    EngineStartError,
    EngineUnavailableError,
    JobError,
    ModelUnavailableError,
    OutOfMemoryError,
)

pytestmark = pytest.mark.anyio

STARTING, READY, DRAINING = EngineState.STARTING, EngineState.READY, EngineState.DRAINING
RESTS_SOON = Patience(stall=600, idle=0.05)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(_low: float, _high: float) -> float:
        return 0.001

    monkeypatch.setattr(failures.random, "uniform", short)


def exchanging(patience: Patience = PATIENT, *, slots: int = 2, owned: bool = True) -> Supervised:
    return Supervised(LauncherDouble(slots, owned=owned, exchanges=True), patience)


async def test_another_model_is_loaded_in_the_engine_that_runs() -> None:
    supervised = exchanging()
    async with supervised.ready():
        user = await supervised.user("other")
        assert user.engine is not None
        assert user.engine.model == "other"
        assert supervised.launcher.starts == ["main"]
        assert supervised.launcher.life.loads == ["other"]
        assert supervised.states == [STARTING, READY, STARTING, READY]
        assert supervised.supervisor.loaded is not None
        assert supervised.supervisor.loaded.name == "other"


async def test_jobs_on_the_old_model_end_first() -> None:
    supervised = exchanging()
    async with supervised.ready():
        old = await supervised.user()
        wants_other = await supervised.user("other")
        assert supervised.supervisor.state is DRAINING
        assert wants_other.waiting
        assert supervised.launcher.life.loads == []
        await old.leave()
        await until(lambda: wants_other.uses)
        assert old.error is None


async def test_whoever_comes_for_the_old_model_during_the_exchange_waits_for_it() -> None:
    supervised = exchanging()
    async with supervised.ready():
        life = supervised.launcher.life
        life.may_load = anyio.Event()
        wants_other = await supervised.user("other")
        assert life.loads == ["other"]
        wants_old = await supervised.user()
        await wants_other.cancel()  # now the first in the queue wants what was open before
        await settled()
        assert wants_old.waiting
        life.may_load.set()
        await until(lambda: wants_old.uses)
        assert life.loads == ["other", "main"]
        assert wants_old.engine is not None
        assert wants_old.engine.model == "main"


async def test_everybody_uses_the_model_that_was_asked_for() -> None:
    supervised = exchanging(slots=3)
    chance = random.Random(3)

    async def use(model: str) -> None:
        async with supervised.supervisor.ensure(model) as engine:
            for _ in range(chance.randrange(9)):
                assert engine.model == model
                await anyio.lowlevel.checkpoint()

    async with supervised.ready(), anyio.create_task_group() as group:
        for _ in range(60):
            group.start_soon(use, chance.choice(["main", "other", "third"]))
            await anyio.lowlevel.checkpoint()
    assert supervised.launcher.starts == ["main"]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (EngineRefusedError("it is damaged"), ModelUnavailableError, "The model other cannot be loaded: it is damaged"),
        (BadJobError("there is none"), BadJobError, "there is none"),
    ],
    ids=["refused", "none"],
)
async def test_a_model_that_cannot_be_loaded_is_the_jobs_error_and_the_old_one_serves_on(
    error: JobError, kind: type[JobError], said: str
) -> None:
    supervised = exchanging()
    async with supervised.ready():
        supervised.launcher.life.refuses.append(error)
        user = await supervised.user("other")
        await until(lambda: user.done)
        assert type(user.error) is kind
        assert said in str(user.error)
        old = await supervised.user()
        assert old.uses
        assert supervised.launcher.life.loads == ["other"]
        assert supervised.launcher.starts == ["main"]


async def test_the_default_model_has_a_name_in_the_error_too() -> None:
    supervised = exchanging()
    async with supervised.ready():
        supervised.supervisor._leases.default = Spec()  # pyright: ignore[reportPrivateUsage] (as a WebUI's is)
        supervised.launcher.life.refuses.append(EngineRefusedError("it is damaged"))
        user = await supervised.user()
        await until(lambda: user.done)
        assert str(user.error) == "The model main cannot be loaded: it is damaged"


async def test_an_engine_that_a_failed_load_has_spoilt_is_replaced_which_counts_as_no_failure() -> None:
    supervised = exchanging()
    async with supervised.ready():
        first = supervised.launcher.life
        first.refuses.append(SpoiltError("it is damaged"))
        user, behind = await supervised.user("other"), await supervised.user()
        await until(lambda: user.done)
        assert type(user.error) is ModelUnavailableError
        assert "The model other cannot be loaded: it is damaged" in str(user.error)
        await until(lambda: behind.uses)
        assert behind.engine is not first.engine
        assert first.killed == 0
        facts = supervised.supervisor.facts()
        assert (facts["restarts"], facts["last_error"], facts["starts"]) == (0, None, 2)
        assert EngineState.BACKOFF not in supervised.states


async def test_a_default_that_was_chosen_and_is_not_there_any_more_gives_way_to_the_one_before() -> None:
    supervised = exchanging()
    async with supervised.ready():
        assert await supervised.supervisor.load("chosen") == "chosen"
        await (await supervised.user("main")).leave()
        supervised.launcher.life.refuses.append(BadJobError("there is no chosen"))
        assert (await supervised.user()).uses
        assert supervised.supervisor.model == "main"


async def test_an_engine_that_runs_out_of_memory_over_a_model_is_replaced() -> None:
    supervised = exchanging()
    async with supervised.ready():
        first = supervised.launcher.life
        first.refuses.append(OutOfMemoryError("8 GiB are not enough"))
        user = await supervised.user("other")
        await until(lambda: user.done)
        assert isinstance(user.error, OutOfMemoryError)
        await until(lambda: len(supervised.launcher.lives) == 2)
        assert first.killed == 1
        await supervised.until(READY)
        assert (await supervised.user()).uses


async def test_jobs_with_a_model_that_is_too_large_do_not_end_the_engine_of_the_others() -> None:
    supervised = exchanging()
    async with supervised.ready():
        for times in range(2 * PATIENT.failures):
            supervised.launcher.life.refuses.append(OutOfMemoryError("8 GiB are not enough"))
            user = await supervised.user("other")
            await until(lambda user=user: user.done)
            assert isinstance(user.error, OutOfMemoryError)
            await until(lambda times=times: len(supervised.launcher.lives) == times + 2)
            await supervised.until(READY)
        assert (await supervised.user()).uses


async def test_an_engine_elsewhere_that_runs_out_of_memory_over_a_model_serves_on() -> None:
    supervised = exchanging(owned=False)
    async with supervised.ready():
        supervised.launcher.life.refuses.append(OutOfMemoryError("8 GiB are not enough"))
        user = await supervised.user("other")
        await until(lambda: user.done)
        assert isinstance(user.error, OutOfMemoryError)
        assert (await supervised.user()).uses
        assert supervised.launcher.starts == ["main"]


async def test_an_engine_that_dies_while_it_exchanges_is_started_again() -> None:
    supervised = exchanging()
    async with supervised.ready():
        life = supervised.launcher.life
        life.may_load = anyio.Event()
        user = await supervised.user("other")
        life.refuses.append(EngineUnavailableError("it went away"))
        life.die()
        life.may_load.set()
        await until(lambda: user.done)
        assert type(user.error) is EngineUnavailableError, "which costs the job no attempt"
        await until(lambda: len(supervised.launcher.lives) == 2)
        assert (await supervised.user("other")).error is None


async def test_a_model_that_is_switched_to_is_the_default_from_then_on_also_after_a_crash() -> None:
    supervised = exchanging()
    async with supervised.ready():
        assert await supervised.supervisor.load("other") == "other"
        assert supervised.launcher.starts == ["main"]
        user = await supervised.user()
        assert user.engine is not None
        assert user.engine.model == "other"
        supervised.launcher.life.die()
        await until(lambda: user.done)
        assert isinstance(user.error, EngineCrashedError)
        await until(lambda: len(supervised.launcher.lives) == 2)
        assert supervised.launcher.starts == ["main", "other"]


async def test_a_switch_that_fails_leaves_the_default_as_it_was() -> None:
    supervised = exchanging()
    async with supervised.ready():
        supervised.launcher.life.refuses.append(EngineRefusedError("it is damaged"))
        with pytest.raises(ModelUnavailableError, match="it is damaged"):
            await supervised.supervisor.load("other")
        assert supervised.supervisor.default.name == "main"
        assert (await supervised.user()).uses


async def test_an_engine_is_started_with_the_default_whatever_the_first_job_wants() -> None:
    supervised = exchanging()
    supervised.launcher.may_start = anyio.Event()
    async with supervised.running():
        user = await supervised.user("other")
        supervised.launcher.may_start.set()
        await until(lambda: user.uses)
        assert supervised.launcher.starts == ["main"]
        assert supervised.launcher.life.loads == ["other"]


async def test_an_engine_that_starts_for_another_model_after_it_was_given_up_serves_the_default_as_well() -> None:
    supervised = exchanging()
    supervised.launcher.troubles["main"] = [EngineStartError("it does not start", final=True)]
    async with supervised.running():
        await supervised.until(EngineState.FAILED)
        other = await supervised.user("other")
        await until(lambda: other.uses)
        assert supervised.supervisor.reason == ""
        await other.leave()
        default = await supervised.user()
        await until(lambda: default.done or default.uses)
        assert default.error is None


async def test_an_engine_without_jobs_rests_once_and_is_not_ended() -> None:
    supervised = exchanging(RESTS_SOON)
    async with supervised.ready():
        life = supervised.launcher.life
        await until(lambda: life.rests)
        supervised.supervisor.facts()
        await anyio.sleep(3 * RESTS_SOON.idle)  # the time in which it would rest again
        assert life.rests == 1
        user = await supervised.user()
        assert user.uses
        assert supervised.launcher.starts == ["main"]
        await user.leave()
        await until(lambda: life.rests == 2)
        assert not life.ended


async def test_an_engine_elsewhere_rests_as_well() -> None:
    supervised = exchanging(RESTS_SOON, owned=False)
    async with supervised.ready():
        await until(lambda: supervised.launcher.life.rests)
        assert supervised.supervisor.state is READY


async def test_an_engine_does_not_rest_while_a_job_runs() -> None:
    supervised = exchanging(RESTS_SOON)
    async with supervised.ready():
        user: User = await supervised.user()
        rests = supervised.launcher.life.rests  # it may have rested before
        await anyio.sleep(3 * RESTS_SOON.idle)  # the time in which it would rest
        assert supervised.launcher.life.rests == rests
        await user.leave()
        await until(lambda: supervised.launcher.life.rests > rests)


async def test_an_engine_that_refuses_to_rest_is_ended_if_it_is_the_workers_own() -> None:
    supervised = exchanging()
    async with supervised.ready():
        life = supervised.launcher.life
        life.refuses.append(EngineRefusedError("no"))
        await supervised.supervisor.unload()
        assert life.ended


async def test_an_engine_elsewhere_that_refuses_to_rest_is_said() -> None:
    supervised = exchanging(owned=False)
    async with supervised.ready():
        supervised.launcher.life.refuses.append(EngineRefusedError("no"))
        with pytest.raises(EngineRefusedError, match="no"):
            await supervised.supervisor.unload()
        assert (await supervised.user()).uses


async def test_unloading_waits_for_the_jobs_and_keeps_the_engine() -> None:
    supervised = exchanging(owned=False)
    async with supervised.ready():
        user = await supervised.user()
        unloaded = anyio.Event()

        async def unload() -> None:
            await supervised.supervisor.unload()
            unloaded.set()

        supervised.start(unload)
        await settled()
        assert not unloaded.is_set()
        await user.leave()
        await until(unloaded.is_set)
        assert supervised.launcher.life.rests == 1
        assert (await supervised.user()).uses
        assert supervised.launcher.starts == ["main"]
