"""What is next for an engine: a table of situations, and what holds in all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import pytest

from tests.support.tables import table
from velesio_worker.engines.base import EngineState, Spec
from velesio_worker.engines.supervision.decisions import (
    MENDED_SECONDS,
    ON_TURN,
    ON_UNLOAD,
    Action,
    Condition,
    Exchange,
    Quiet,
    Rest,
    Served,
    Situation,
    Start,
    Stay,
    Step,
    Stop,
    decide,
)
from velesio_worker.engines.supervision.gpu_turns import TURN_SECONDS, Turn

MAIN, OTHER = Spec(Path("main.gguf"), "main"), Spec(Path("other.gguf"), "other")
NOW, IDLE = 1000.0, 300.0
LATER, LOOK = NOW + 7, NOW + MENDED_SECONDS
JUST_QUIET, LONG_QUIET = Quiet(NOW - 1), Quiet(NOW - IDLE)

STOPPED, STARTING, READY, DRAINING, STOPPING, BACKOFF, FAILED = (
    Stay(EngineState.STOPPED),
    Stay(EngineState.STARTING),
    Stay(EngineState.READY),
    Stay(EngineState.DRAINING),
    Stay(EngineState.STOPPING),
    Stay(EngineState.BACKOFF, LATER),
    Stay(EngineState.FAILED, LOOK),
)

Facts = dict[str, Any]


def facts(**values: object) -> Facts:
    return values


WITHOUT: dict[str, tuple[Facts, Action]] = {
    "nobody wants it": (facts(), STOPPED),
    "it is to be there": (facts(warm=True), Step.TAKE_TURN),
    "a job waits": (facts(wanted=OTHER), Step.TAKE_TURN),
    "a job waits, and so do other engines": (facts(wanted=OTHER, turn=Turn.WAITED_FOR), STARTING),
    "the job has left meanwhile": (facts(turn=Turn.WAITED_FOR), Step.LEAVE_TURN),
    "the job has left when the turn comes": (facts(turn=Turn.HELD), Step.LEAVE_TURN),
    "the turn has come": (facts(wanted=OTHER, turn=Turn.HELD), Start(OTHER)),
    "the turn has come, and nobody waits": (facts(warm=True, turn=Turn.HELD), Start(MAIN)),
    "the first that waits decides": (facts(warm=True, wanted=OTHER, default_waited_for=True), Step.TAKE_TURN),
    "it has just failed": (facts(warm=True, pause_until=LATER), BACKOFF),
    "it has just failed, and a job waits": (facts(wanted=OTHER, pause_until=LATER), BACKOFF),
    "the pause is over": (facts(warm=True, pause_until=NOW), Step.TAKE_TURN),
    "it was given up": (facts(warm=True, failed=True), FAILED),
    "it was given up, and a job waits": (
        facts(warm=True, failed=True, wanted=MAIN, default_waited_for=True),
        Step.REFUSE_DEFAULT,
    ),
    "it was given up, and another model is wanted": (facts(failed=True, wanted=OTHER), Step.TAKE_TURN),
    "it is to be unloaded": (facts(warm=True, unload=True), Step.SAY_UNLOADED),
    "it is to be unloaded in a pause": (facts(warm=True, unload=True, pause_until=LATER), Step.SAY_UNLOADED),
    "it is to be unloaded while it waits": (
        facts(wanted=OTHER, unload=True, turn=Turn.WAITED_FOR),
        Step.SAY_UNLOADED,
    ),
    "it is to be unloaded, and was given up": (facts(failed=True, unload=True), Step.SAY_UNLOADED),
}

CAUSES: dict[str, Facts] = {
    "nothing": facts(),
    "it is to be there": facts(warm=True),
    "a job waits for what is loaded": facts(wanted=MAIN, default_waited_for=True),
    "a job waits for another model": facts(wanted=OTHER),
    "it is to be unloaded": facts(unload=True),
    "the default was given up": facts(failed=True),
    "the default was given up, and is waited for": facts(failed=True, wanted=MAIN, default_waited_for=True),
    "a pause": facts(pause_until=LATER),
    "the GPU is wanted": facts(turn_wanted=True),
    "the turn has come": facts(turn=Turn.HELD),
    "long without a job": facts(quiet=LONG_QUIET),
    "long without a job, and asked": facts(quiet=replace(LONG_QUIET, agreed=True)),
    "long without a job, and rested": facts(quiet=replace(LONG_QUIET, not_before=inf)),
    "long without a job, and told to wait": facts(quiet=replace(LONG_QUIET, not_before=LATER)),
}

ON_IDLE = "it had no job for 300 s (IDLE_UNLOAD_SECONDS)"
WANTED = "other is wanted"
READY_LOOKING = Stay(EngineState.READY, LOOK)

WITH: dict[str, tuple[Action, Action, Action]] = {
    # cause: what is next for an engine without jobs; for one that also exchanges its model; for one with jobs
    "nothing": (Stay(EngineState.READY, NOW - 1 + IDLE), Stay(EngineState.READY, NOW - 1 + IDLE), READY),
    "it is to be there": (Stay(EngineState.READY, NOW - 1 + IDLE), Stay(EngineState.READY, NOW - 1 + IDLE), READY),
    "a job waits for what is loaded": (READY, READY, READY),
    "a job waits for another model": (Stop(WANTED), Exchange(OTHER), DRAINING),
    "it is to be unloaded": (Stop(ON_UNLOAD), Rest(), DRAINING),
    "the default was given up": (READY_LOOKING, READY_LOOKING, READY_LOOKING),
    "the default was given up, and is waited for": (Step.REFUSE_DEFAULT, Step.REFUSE_DEFAULT, Step.REFUSE_DEFAULT),
    "a pause": (Stay(EngineState.READY, NOW - 1 + IDLE), Stay(EngineState.READY, NOW - 1 + IDLE), READY),
    "the GPU is wanted": (
        Stop(ON_TURN, cold=True),
        Stop(ON_TURN, cold=True),
        Stay(EngineState.READY, NOW - 1 + TURN_SECONDS),
    ),
    "the turn has come": (Stay(EngineState.READY, NOW - 1 + IDLE), Stay(EngineState.READY, NOW - 1 + IDLE), READY),
    "long without a job": (Step.ASK_TO_REST, Step.ASK_TO_REST, READY),
    "long without a job, and asked": (Stop(ON_IDLE, cold=True), Rest(cold=True), READY),
    "long without a job, and rested": (READY, READY, READY),
    "long without a job, and told to wait": (
        Stay(EngineState.READY, LATER),
        Stay(EngineState.READY, LATER),
        READY,
    ),
}

SERVED = Served(MAIN, NOW - 1, idle=IDLE)
EXCHANGES = replace(SERVED, exchanges=True, rests=True)
BASE = Situation(NOW, MAIN, quiet=JUST_QUIET)


@pytest.mark.parametrize("cause", WITHOUT)
def test_an_engine_that_is_not_there(cause: str) -> None:
    values, action = WITHOUT[cause]
    assert decide(replace(BASE, **values)) == action


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize(("engine", "next_"), [(EngineState.STARTING, STARTING), (EngineState.STOPPING, STOPPING)])
def test_an_engine_that_starts_or_ends_is_waited_for_whatever_happens(
    cause: str, engine: EngineState, next_: Stay
) -> None:
    refused = cause == "the default was given up, and is waited for"
    assert decide(replace(BASE, engine=engine, **CAUSES[cause])) == (Step.REFUSE_DEFAULT if refused else next_)


@pytest.mark.parametrize("cause", CAUSES)
def test_an_engine_that_serves(cause: str) -> None:
    idle, exchanging, busy = WITH[cause]
    situation = replace(BASE, **CAUSES[cause])
    assert decide(replace(situation, engine=SERVED)) == idle
    assert decide(replace(situation, engine=EXCHANGES)) == exchanging
    assert decide(replace(situation, engine=SERVED, live=1)) == busy
    assert decide(replace(situation, engine=EXCHANGES, live=1)) == busy


@table(
    ("cause", "live", "condition"),
    product([cause for cause in CAUSES if "given up, and" not in cause], [0, 2], [Condition.GONE, Condition.HANGS]),
)
def test_an_engine_that_is_past_help_is_ended_whatever_happens(cause: str, live: int, condition: Condition) -> None:
    engine = replace(EXCHANGES, condition=condition, why="was ended by SIGSEGV")
    assert decide(replace(BASE, engine=engine, live=live, **CAUSES[cause])) == Stop("was ended by SIGSEGV")


def test_an_engine_that_is_to_be_renewed_is_ended_once_no_job_runs_on_it() -> None:
    situation = replace(BASE, engine=replace(EXCHANGES, condition=Condition.WORN, why="it ran out of memory"))
    assert decide(situation) == Stop("it ran out of memory")
    assert decide(replace(situation, wanted=OTHER)) == Stop("it ran out of memory"), "it would not do for that model"
    assert decide(replace(situation, live=1)) == DRAINING


def test_an_engine_with_jobs_gives_way_once_its_turn_is_over() -> None:
    situation = replace(BASE, engine=replace(SERVED, since=NOW - TURN_SECONDS), live=1)
    assert decide(situation) == READY, "nobody waits for the GPU"
    assert decide(replace(situation, turn_wanted=True)) == DRAINING
    assert decide(replace(situation, turn_wanted=True, live=0, wanted=MAIN)) == Stop(ON_TURN, cold=True)


def test_an_engine_that_never_rests_is_asked_for_nothing() -> None:
    situation = replace(BASE, engine=replace(SERVED, idle=0.0), quiet=Quiet(0.0))
    assert decide(situation) == READY


def every_situation() -> Iterator[Situation]:
    engines = [
        None,
        EngineState.STARTING,
        EngineState.STOPPING,
        *(
            Served(spec, NOW - age, condition, "why", exchanges=exchanges, rests=exchanges, idle=idle)
            for spec, age, condition, exchanges, idle in product(
                [MAIN, OTHER], [0, TURN_SECONDS], Condition, [False, True], [0.0, IDLE]
            )
        ),
    ]
    flags = [False, True]
    for engine, live, quiet, wanted, warm, unload, failed, turn, turn_wanted, pause in product(
        engines, [0, 1], [JUST_QUIET, LONG_QUIET], [None, MAIN, OTHER], flags, flags, flags, Turn, flags, [0.0, LATER]
    ):
        if not live or isinstance(engine, Served):
            yield Situation(
                NOW, MAIN, engine, live, quiet, wanted, wanted == MAIN, warm, unload, failed, pause, turn, turn_wanted
            )


def test_what_holds_in_every_situation() -> None:
    count = 0
    for situation in every_situation():
        count += 1
        action, engine = decide(situation), situation.engine
        if isinstance(action, Stay):
            assert action.until > NOW, "what is waited for is still to come"
            assert action.state is not EngineState.READY or (isinstance(engine, Served) and not situation.unload)
        if isinstance(action, Start):
            assert engine is None
            assert situation.turn is Turn.HELD, "one engine at a time"
            assert not situation.failed or action.spec != MAIN
        if isinstance(action, Exchange | Rest | Stop) or action is Step.ASK_TO_REST:
            assert isinstance(engine, Served)
            past_help = engine.condition in {Condition.GONE, Condition.HANGS}
            assert not situation.live or past_help, "jobs end before their engine does"
            assert isinstance(action, Stop) or not past_help
    assert count > 10_000
