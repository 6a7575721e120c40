"""What an engine is to the rest of the worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from velesio_worker.engines.requests import EngineRequest
from velesio_worker.wire.errors import ModelUnavailableError
from velesio_worker.wire.events import Done, EngineEvent
from velesio_worker.wire.parameters import Parameters

TAIL: Final = "Its last lines:"
"""What stands in an error before the last lines that an engine wrote."""


WHERE_MORE: Final = "The worker's log says more."
"""What stands in an error for those who may not read an engine's last lines."""


class EngineState(StrEnum):
    """Where an engine is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Spec:
    """What an engine is to serve.

    Attributes:
        model: the model's file; None for whatever the server has.
        name: the model's name, for people and for streams; empty where it is not known before the server says it.
    """

    model: Path | None = None
    name: str = ""


class Sink(Protocol):
    """Where a generation tells what happens, as it happens.

    Nothing is awaited between an engine's bytes and what is told of them, so that a token costs no switch of tasks.
    """

    def token(self, choice: dict[str, Any], *, has_output: bool) -> None:
        """Take the choice of a ``token`` entry (wire protocol, section 4), and whether there is any output in it."""
        ...

    def tell(self, event: EngineEvent) -> None:
        """Take whatever else happens."""
        ...

    def heard(self) -> bool:
        """Take note that the engine is at work, whatever that read brought; False if there is no room for more."""
        ...

    async def room(self) -> None:
        """Wait until there is room for more, and all that was told so far is on its way.

        Raises:
            FencedError, AbandonedError, StreamLostError, InternalError, StoppedError: nobody wants it any more.
        """
        ...


class Generation(Protocol):
    """One job on an engine."""

    async def run(self, sink: Sink, /) -> Done:
        """Run it, and return its end; cancelled, it stops the engine's work on the job.

        Raises:
            JobError: the job failed.
            Exception: whatever the sink raises.
        """
        ...

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        """Return the end of a job that stops where it is, with what it has so far."""
        ...


class SpoiltError(ModelUnavailableError):
    """A model could not be loaded, and that has spoilt the engine: another is to take its place before the next job."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the engines of a kind are like.

    Attributes:
        foreign: whether somebody else runs it, who may put another in its place at any time.
        queues: whether jobs stand in a line of the engine's own, which says by :class:`Begun` when it begins with one.
        leaks: whether it may hold on to memory once it ran out of it: it is replaced then, and the job tried once more.
    """

    foreign: bool = False
    queues: bool = False
    leaks: bool = False


PLAIN: Final = Traits()


class Engine(Protocol):
    """Something that runs jobs of one kind."""

    @property
    def model(self) -> str:
        """The name of the model that is loaded."""
        ...

    def generate(self, parameters: Parameters, after: str = "", pieces: int = 0) -> Generation:
        """Return one job's run, not begun yet.

        Args:
            parameters: the job's.
            after: text that an earlier attempt made: the run goes on from its end, and its result has all of it.
            pieces: in how many pieces that came; it has at least so many tokens.
        """
        ...


E = TypeVar("E", bound=Engine)
E_co = TypeVar("E_co", bound=Engine, covariant=True)


@dataclass(frozen=True, slots=True)
class Serving(Generic[E_co]):
    """An engine that is ready.

    Attributes:
        engine: the engine.
        slots: how many jobs it runs at a time.
        gone: waits until it does not serve any more; returns what happened to it.
        report: takes note that a request found it gone.
        kill: ends it at once, so that another can be started; None if it is not the worker's own.
        moved: asks how much it has done so far, as a number that rises while it works; None if it does not tell.
            Raises TimeoutError if there is no answer.
        probe: has it do the least that shows that it works; returns when it has. Raises JobError if it cannot be
            reached.
        exchange: loads another model in the engine that runs, while no job does; None if it has to be started anew for
            that. Raises JobError if it cannot be loaded, :class:`SpoiltError` if the engine is to be replaced for that.
        look: asks an engine that somebody else runs whether it is what it was, unless that was asked less than so many
            seconds ago. Returns what it is now, empty if it is the same; None if it does not say. None: nobody else can
            change it.
        memory: measures how much of the host's memory it takes, in bytes; None if that cannot be told. Reads files.
        spare: how many may have a lease beside those, to wait in the engine's own line.
        excused: whether its end was wished for, so that it does not count as a failure.
        rest: has it let go of the GPU's memory until the next job, while none runs; None if it cannot. Raises JobError.
        rests: whether it has let go of the GPU's memory.
        instead: what it serves where it no longer has what it was started for; None: it has.
        works: has it do some real work, however long that takes: asked of one that hung. Raises JobError. None: its
            probe does.
    """

    engine: E_co
    slots: int
    gone: Callable[[], Awaitable[str]]
    report: Callable[[], None]
    kill: Callable[[], None] | None
    moved: Callable[[], Awaitable[float | None]]
    probe: Callable[[], Awaitable[None]]
    exchange: Callable[[Spec], Awaitable[None]] | None = None
    rest: Callable[[], Awaitable[None]] | None = None
    look: Callable[[float], Awaitable[str | None]] | None = None
    rests: Callable[[], bool] = lambda: False
    instead: Spec | None = None
    works: Callable[[], Awaitable[None]] | None = None
    excused: Callable[[], bool] = lambda: False
    memory: Callable[[], int] | None = None
    spare: int = 0


class Launcher(Protocol[E_co]):
    """Starts the engines of one kind, one at a time.

    Attributes:
        name: what the engine is called, for people.
        kind: the kind of its jobs, for the metrics.
        owned: whether its process is the worker's own, to stop and to start.
        exchanges: whether a model is exchanged in the engine that runs, which is always started with the default one.
        traits: what the engine is like to those who run jobs on it.
        trouble: what keeps an engine that is waited for, and is not the worker's own; empty if nothing is known.
        default_name: the name of the model of jobs that ask for none, where the default does not tell; empty where that
            is not known yet.
    """

    name: str
    kind: str
    owned: bool
    exchanges: bool
    traits: Traits
    trouble: str

    @property
    def default_name(self) -> str:
        """As above."""
        ...

    def default(self) -> Spec:
        """What is served unless somebody asks for something else."""
        ...

    async def resolve(self, model: str) -> Spec:
        """Return what a job's ``model`` stands for.

        Raises:
            JobError: there is no such model, or it cannot be loaded here.
        """
        ...

    def serve(self, spec: Spec) -> AbstractAsyncContextManager[Serving[E_co]]:
        """Start an engine, wait until it is ready, and end it on leaving.

        Raises:
            EngineStartError: it did not become ready, and what to change.
        """
        ...

    def identity(self, spec: Spec) -> str | None:
        """Return what tells an engine's answers from those of others; None where that is not known yet."""
        ...

    def fingerprint(self, spec: Spec) -> object:
        """Return what changes when somebody mends that which kept the engine from starting."""
        ...


class EngineSource(Protocol):
    """Whoever knows the engine of one kind of job."""

    @property
    def traits(self) -> Traits:
        """What the engine is like."""
        ...

    @property
    def model(self) -> str | None:
        """The name of the model that jobs get that ask for none; None where that is not known yet."""
        ...

    def ensure(
        self,
        model: str | None = None,
        *,
        on_wait: Callable[[EngineState], None] = ...,
        request: EngineRequest | None = None,
    ) -> AbstractAsyncContextManager[Engine]:
        """Lease the engine with a model loaded: wait until it is, have it started or exchanged if need be.

        Args:
            model: a job's ``model``; None for the default one.
            on_wait: called at once if there is something to wait for, and now and then while that lasts.
            request: what the engine is to be asked; whoever asks says how far that comes.

        Raises:
            EngineUnavailableError: the engine was replaced, or stopped, meanwhile.
            EngineCrashedError: it went away meanwhile.
            EngineFailedError: it cannot be started, and why.
            JobError: there is no such model, or it cannot be loaded.
        """
        ...

    async def identity(self, model: str | None) -> str | None:
        """Return what tells a job's model from others, however it is called; None where that is not known.

        An engine that somebody else runs is asked for it each time.
        """
        ...

    async def lost(self) -> None:
        """Take note that a request found the engine gone, before anybody asks for it again."""
        ...

    def renew(self, reason: str) -> None:
        """Have the engine end once the jobs on it have ended, and another started in its place."""
        ...

    async def stalled(self, reason: str) -> None:
        """Take note that the engine hangs, and replace it where that can be done."""
        ...
