"""Two engines on a GPU that holds one at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from tests.doubles.launcher import PATIENT, LauncherDouble, Life, Supervised, User, settled
from tests.support.waiting import until
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.supervision import decisions, failures
from velesio_worker.engines.supervision.gpu_turns import GpuTurns, Turn

pytestmark = pytest.mark.anyio

STARTING, READY, DRAINING, STOPPING, STOPPED = (
    EngineState.STARTING,
    EngineState.READY,
    EngineState.DRAINING,
    EngineState.STOPPING,
    EngineState.STOPPED,
)


def pair() -> tuple[Supervised, Supervised]:
    """Two supervisors whose engines must never live at the same time: an assertion in the double sees to that."""
    turns = GpuTurns()
    gpu: list[Life] = []
    text, image = (Supervised(LauncherDouble(slots=1, gpu=gpu), PATIENT, turns=turns, eager=False) for _ in range(2))
    return text, image


@asynccontextmanager
async def running(*supervised: Supervised) -> AsyncGenerator[None, None]:
    async with supervised[0].running(), supervised[1].running():
        yield


async def test_an_idle_engine_gives_way_at_once() -> None:
    text, image = pair()
    async with running(text, image):
        first = await text.user()
        await until(lambda: first.uses)
        await first.leave()
        await settled()
        assert text.supervisor.state is READY, "nobody wants its place"
        second = await image.user()
        await until(lambda: second.uses)
        assert text.states == [STARTING, READY, STOPPING, STOPPED]
        assert text.launcher.life.ended
        assert image.states == [STARTING, READY]
        assert second.waits == [STOPPED, STARTING]
        await second.leave()
        again = await text.user()
        await until(lambda: again.uses)
        assert text.launcher.models == ["main", "main"]


async def test_an_engine_that_works_keeps_the_gpu_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "TURN_SECONDS", 1000.0)
    text, image = pair()
    async with running(text, image):
        first, second = await text.user(), await text.user()
        other = await image.user()
        await first.leave()
        await until(lambda: second.uses)
        assert other.waiting, "a job that came before it goes first"
        assert text.states == [STARTING, READY]
        await second.leave()
        await until(lambda: other.uses)
        assert text.states == [STARTING, READY, STOPPING, STOPPED]


async def test_an_engine_that_works_gives_way_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "TURN_SECONDS", 0.1)
    text, image = pair()
    async with running(text, image):
        first, second = await text.user(), await text.user()
        other = await image.user()
        await text.until(DRAINING)
        await first.leave()
        await until(lambda: other.uses)
        assert second.waiting
        assert second.waits[:2] == [READY, DRAINING]
        assert second.waits[-1] is STARTING
        await other.leave()
        await until(lambda: second.uses)
        assert text.launcher.models == ["main", "main"]


async def test_steady_work_on_both_gets_both_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "TURN_SECONDS", 0.02)
    text, image = pair()
    served = {text: 0, image: 0}

    async def work(on: Supervised) -> None:
        while True:
            async with on.supervisor.ensure():
                await anyio.sleep(0.002)
                served[on] += 1

    async with running(text, image), anyio.create_task_group() as workers:
        for one in (text, image, text, image, text):
            workers.start_soon(work, one)
        await until(lambda: min(len(one.launcher.lives) for one in (text, image)) >= 5)
        workers.cancel_scope.cancel()
    assert min(served.values()) >= 5
    assert abs(len(text.launcher.lives) - len(image.launcher.lives)) <= 1, "they take turns"


async def test_an_exchange_of_models_lets_the_other_engine_in() -> None:
    text, image = pair()
    async with running(text, image):
        first = await text.user()
        other_model, other_engine = await text.user("other"), await image.user()
        await first.leave()
        await until(lambda: other_engine.uses)
        assert other_model.waiting
        await other_engine.leave()
        await until(lambda: other_model.uses)


async def test_an_engine_that_died_does_not_keep_the_gpu_while_it_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def long(_low: float, _high: float) -> float:
        return 1000.0

    monkeypatch.setattr(failures.random, "uniform", long)
    text, image = pair()
    async with running(text, image):
        await text.user()
        text.launcher.life.die()
        await text.until(EngineState.BACKOFF)
        other = await image.user()
        await until(lambda: other.uses)


async def test_nothing_is_started_for_one_that_left_while_it_waited_for_the_turn() -> None:
    text, image = pair()
    async with running(text, image):
        first = await text.user()
        other = await image.user()
        assert image.supervisor.state is STARTING
        await other.cancel()
        await first.leave()
        await image.until(STOPPED)
        assert image.launcher.starts == []


async def test_unloading_an_engine_that_waits_for_its_turn_does_not_start_it_for_that() -> None:
    text, image = pair()
    async with running(text, image):
        first = await text.user()
        other = await image.user()
        unloaded = anyio.Event()

        async def unload() -> None:
            await image.supervisor.unload()
            unloaded.set()

        image.start(unload)
        await settled()
        image.launcher.may_start = anyio.Event()
        await first.leave()
        await until(unloaded.is_set)
        image.launcher.may_start.set()
        await until(lambda: other.uses)
        assert image.launcher.starts == ["main"]


async def test_the_model_that_is_wanted_when_the_turn_comes_is_the_one_that_is_started() -> None:
    text, image = pair()
    async with running(text, image):
        first = await text.user()
        early, late = await image.user(), await image.user("other")
        await early.cancel()
        await first.leave()
        await until(lambda: late.uses)
        assert image.launcher.starts == ["other"]


async def test_cancelling_one_that_waits_for_its_turn_leaves_the_other_alone() -> None:
    text, image = pair()
    async with text.running():
        first = await text.user()
        async with image.running():
            await image.user()
            assert image.supervisor.state is STARTING
        assert image.states == [STARTING, STOPPED]
        assert first.uses
        await first.leave()
        again: User = await text.user()
        assert again.uses
        assert text.states == [STARTING, READY]


def test_turns_are_taken_in_the_order_of_asking_and_the_holder_is_told() -> None:
    turns = GpuTurns()
    told: list[str] = []
    a, b, c = (partial(told.append, name) for name in "abc")
    turns.join(a)
    assert (turns.turn_of(a), turns.wanted) == (Turn.HELD, False)
    told.clear()
    turns.join(b)
    assert (turns.turn_of(b), turns.wanted, told) == (Turn.WAITED_FOR, True, ["a"])
    turns.join(c)
    assert (turns.turn_of(c), told) == (Turn.WAITED_FOR, ["a", "a"])
    turns.leave(a)
    assert [turns.turn_of(each) for each in (a, b, c)] == [Turn.NONE, Turn.HELD, Turn.WAITED_FOR]
    assert (turns.wanted, told) == (True, ["a", "a", "b"])
    turns.leave(c)
    turns.leave(c)
    assert (turns.turn_of(b), turns.wanted) == (Turn.HELD, False)
