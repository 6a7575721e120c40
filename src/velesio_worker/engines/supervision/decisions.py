"""What is next for an engine: decided by the situation alone, without a clock and without effects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import Final

from velesio_worker.engines.base import EngineState, Spec
from velesio_worker.engines.supervision.gpu_turns import TURN_SECONDS, Turn

MENDED_SECONDS: Final = 2.0
"""How often an engine that failed is looked at: perhaps somebody put the missing file there."""

ON_UNLOAD: Final = "it was asked to unload its model"
ON_TURN: Final = "it is another engine's turn on the GPU"


class Condition(Enum):
    """How an engine is that serves."""

    SOUND = auto()
    WORN = auto()
    """Another is to take its place once no job runs on it."""
    HANGS = auto()
    """It is killed, so that another takes its place at once."""
    GONE = auto()


@dataclass(frozen=True, slots=True)
class Quiet:
    """A time without jobs.

    Attributes:
        since: when it began.
        not_before: when the engine may rest at the earliest; infinity: it rests already.
        agreed: whether those who were asked agreed to that.
    """

    since: float = 0.0
    not_before: float = 0.0
    agreed: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """An engine that serves.

    Attributes:
        spec: what it has loaded.
        since: when it became ready.
        condition: how it is.
        why: what is wrong with it, for people.
        exchanges: whether it loads another model without an end.
        rests: whether it lets go of the GPU's memory without an end.
        idle: after how many seconds without a job it is to rest; 0: never.
    """

    spec: Spec
    since: float = 0.0
    condition: Condition = Condition.SOUND
    why: str = ""
    exchanges: bool = False
    rests: bool = False
    idle: float = 0.0


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the next step depends on; times are in seconds, on one clock.

    Attributes:
        now: the time.
        default: what those get who want nothing in particular.
        engine: the engine if it serves, else whether it is starting or stopping; None if there is none.
        live: how many jobs run on it.
        quiet: since when none does.
        wanted: what the first job that waits wants; None if none waits.
        default_waited_for: whether any of those that wait wants the default.
        warm: whether the engine is to be there although no job asks for it.
        unload: whether somebody waits for it to be unloaded.
        failed: whether the default was given up.
        pause_until: when the next start may be tried.
        turn: how it stands with the GPU.
        turn_wanted: whether another engine waits for the GPU.
    """

    now: float
    default: Spec
    engine: Served | EngineState | None = None
    live: int = 0
    quiet: Quiet = Quiet()
    wanted: Spec | None = None
    default_waited_for: bool = False
    warm: bool = False
    unload: bool = False
    failed: bool = False
    pause_until: float = 0.0
    turn: Turn = Turn.NONE
    turn_wanted: bool = False


@dataclass(frozen=True, slots=True)
class Stay:
    """Be in a state until something happens, or until a time; jobs are let on the engine in ``READY`` alone."""

    state: EngineState
    until: float = inf


@dataclass(frozen=True, slots=True)
class Start:
    """Start an engine."""

    spec: Spec


@dataclass(frozen=True, slots=True)
class Exchange:
    """Load another model in the engine that runs."""

    spec: Spec


@dataclass(frozen=True, slots=True)
class Rest:
    """Have the engine let go of the GPU's memory; ``cold``: it is started again only if a job asks for it."""

    cold: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """End the engine; ``reason`` is for people, ``cold`` as in :class:`Rest`."""

    reason: str
    cold: bool = False


class Step(Enum):
    """What needs no further word."""

    TAKE_TURN = auto()
    LEAVE_TURN = auto()
    SAY_UNLOADED = auto()
    REFUSE_DEFAULT = auto()
    ASK_TO_REST = auto()
    """Ask whether the engine may rest."""


Action = Stay | Start | Exchange | Rest | Stop | Step


def decide(situation: Situation) -> Action:
    """Return what is next."""
    if situation.failed and situation.default_waited_for:
        return Step.REFUSE_DEFAULT
    match situation.engine:
        case None:
            return _without(situation)
        case Served() as engine:
            return _with(engine, situation)
        case state:
            return Stay(state)


def _without(situation: Situation) -> Action:  # noqa: PLR0911 (a list of cases)
    """What is next while there is no engine."""
    if situation.unload:
        return Step.SAY_UNLOADED
    if situation.pause_until > situation.now:
        return Stay(EngineState.BACKOFF, situation.pause_until)
    wish = situation.wanted or (situation.default if situation.warm and not situation.failed else None)
    if wish is None:
        if situation.turn is not Turn.NONE:
            return Step.LEAVE_TURN
        return Stay(EngineState.FAILED if situation.failed else EngineState.STOPPED, _look_at(situation))
    match situation.turn:
        case Turn.NONE:
            return Step.TAKE_TURN
        case Turn.WAITED_FOR:
            return Stay(EngineState.STARTING)
        case Turn.HELD:
            return Start(wish)


def _with(engine: Served, situation: Situation) -> Action:
    """What is next while there is one: jobs end before anything becomes of it, unless it is past help."""
    if engine.condition in {Condition.GONE, Condition.HANGS}:
        return Stop(engine.why)
    change = _change(engine, situation)
    if change is None:
        turn_until = engine.since + TURN_SECONDS if situation.turn_wanted else inf
        return Stay(EngineState.READY, min(_rest_at(engine, situation), turn_until, _look_at(situation)))
    if situation.live:
        return Stay(EngineState.DRAINING, _look_at(situation))
    return change


def _change(engine: Served, situation: Situation) -> Action | None:  # noqa: PLR0911 (a list of cases)
    """What is to become of an engine once no job runs on it; None: nothing."""
    wanted = situation.wanted
    if situation.unload:
        return Rest() if engine.rests else Stop(ON_UNLOAD)
    if engine.condition is Condition.WORN:
        return Stop(engine.why)
    if wanted is not None and wanted != engine.spec:
        return Exchange(wanted) if engine.exchanges else Stop(f"{wanted.name or 'another model'} is wanted")
    if situation.turn_wanted and (_is_idle(situation) or situation.now >= engine.since + TURN_SECONDS):
        return Stop(ON_TURN, cold=True)
    if situation.now >= _rest_at(engine, situation):
        if not situation.quiet.agreed:
            return Step.ASK_TO_REST
        reason = f"it had no job for {engine.idle:g} s (IDLE_UNLOAD_SECONDS)"
        return Rest(cold=True) if engine.rests else Stop(reason, cold=True)
    return None


def _is_idle(situation: Situation) -> bool:
    return not situation.live and situation.wanted is None


def _rest_at(engine: Served, situation: Situation) -> float:
    if not engine.idle or not _is_idle(situation):
        return inf
    return max(situation.quiet.since + engine.idle, situation.quiet.not_before)


def _look_at(situation: Situation) -> float:
    """When it is next looked whether what failed was mended."""
    return situation.now + MENDED_SECONDS if situation.failed else inf
