"""One claimed job, from its ``start`` entry to its terminal one."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import orjson

from velesio_worker.core.bell import Bell
from velesio_worker.core.logs import fields_in_log, get_logger
from velesio_worker.engines.requests import Blame
from velesio_worker.execution.closing import Closer, cancelled_while_waiting
from velesio_worker.execution.performer import Performer
from velesio_worker.execution.report import report
from velesio_worker.execution.run import BatchMember, Halt, Outcome, Run
from velesio_worker.queue.claims import Claim
from velesio_worker.queue.keys import job_key
from velesio_worker.wire.errors import (
    AbandonedError,
    EngineCrashedError,
    EngineFailedError,
    EngineStalledError,
    EngineUnavailableError,
    FencedError,
    InternalError,
    JobError,
    ModelUnavailableError,
    StoppedError,
    StreamLostError,
)
from velesio_worker.wire.events import TOKEN, Done
from velesio_worker.wire.jobs import Kind

LAST_SECONDS: Final = 10.0
"""How long the end of a job may take once the worker is ending, should Redis not answer."""

WATCH_SECONDS: Final = 1.0
"""How often it is looked for engines that send nothing."""

log = get_logger(__name__)


class Executor:
    """Runs claimed jobs. Every way out of :meth:`run` ends the job or hands it back, and frees its slot.

    Args:
        performer: has jobs do their work.
        closer: ends jobs, or hands them back.
        elsewhere: whether another worker may run jobs of a kind.
        stall: how long an engine may send nothing for a job, in seconds (``STALL_SECONDS``).
        log_prompts: whether prompts and answers may stand in the log (``LOG_PROMPTS``).
    """

    def __init__(
        self,
        performer: Performer,
        closer: Closer,
        elsewhere: Callable[[Kind], Awaitable[bool]],
        *,
        stall: float,
        log_prompts: bool = False,
    ) -> None:
        self._performer = performer
        self._closer = closer
        self._elsewhere = elsewhere
        self._stall = stall
        self._log_prompts = log_prompts
        self._runs: dict[Run, None] = {}
        self._stop_by = math.inf
        self._changed = Bell()
        self._made_before = 0

    @property
    def running(self) -> int:
        """How many jobs run now."""
        return len(self._runs)

    @property
    def runs(self) -> list[Run]:
        """The jobs that run now, the oldest first."""
        return list(self._runs)

    @property
    def tokens(self) -> int:
        """How many tokens were made here since the worker began; those from the prompt cache do not count."""
        return self._made_before + sum(_made_here(run) for run in self._runs)

    def running_by_kind(self) -> dict[Kind, int]:
        """How many jobs of each kind run now."""
        kinds = [run.job.kind for run in list(self._runs)]
        return {kind: kinds.count(kind) for kind in Kind}

    async def idle(self) -> None:
        """Wait until no job runs."""
        while self._runs:
            await self._changed.wait()

    def stop(self, *, within: float) -> None:
        """Stop all jobs that run, and any that begins later, and hand them back.

        Args:
            within: how long that may take, should Redis not answer, in seconds.
        """
        self._stop_by = anyio.current_time() + within
        for run in reversed(list(self._runs)):  # so that the oldest is at the front of its list again
            self._stop(run)

    def stop_waiting(self, *, within: float) -> None:
        """Hand back the jobs that only wait for their engine; ``within`` is as for :meth:`stop`."""
        for run in reversed([run for run in self._runs if not run.at_work]):
            run.stop.halt(Halt.HANDED_BACK)
            run.stop.ending.deadline = anyio.current_time() + within

    def claims(self) -> list[Claim]:
        """The jobs that run now."""
        return [run.claim for run in self._runs if run.stop.halted is None]

    def cancel(self, job_id: str) -> None:
        """Stop a job for good, if it runs here: its result is what it has so far."""
        self._halt(Halt.CANCELLED, job_id)

    def fence(self, job_id: str, attempt: int) -> None:
        """Stop an attempt that is not this worker's any more; what it still had to say is void."""
        self._halt(Halt.FENCED, job_id, attempt)

    def _halt(self, why: Halt, job_id: str, attempt: int | None = None) -> None:
        for run in self._runs:
            ends = run.times.made_at is not None  # its outcome stands; whoever looked meanwhile looked at its end
            if not ends and run.job.id == job_id and attempt in {None, run.claim.held.attempt}:
                run.stop.halt(why)

    async def watch(self) -> None:
        """Look for ever for engines that send nothing, and stop their runs."""
        while True:
            await anyio.sleep(min(WATCH_SECONDS, self._stall / 2))
            too_long = time.monotonic() - self._stall
            held_up = {run.job.kind for run in self._runs if run.at_work}
            for run in self._runs:
                waits = not run.at_work and run.job.kind in held_up  # behind another, whose engine it costs no attempt
                if run.times.waiting_since < too_long and not waits:
                    run.stop.halt(Halt.STALLED)

    def _stop(self, run: Run) -> None:
        run.stop.halt(Halt.HANDED_BACK)
        run.stop.ending.deadline = self._stop_by

    async def run(self, claim: Claim, member: BatchMember | None = None) -> Run:
        """Run a job to its end, or hand it back if the run is stopped or cancelled; returns the run, which is over."""
        held = claim.held
        with fields_in_log(job_id=held.job_id, attempt=held.attempt, engine=claim.job.kind.engine.value):
            stream = self._closer.publisher.open(held.job_id, held.attempt, claim.begun)
            run = Run(claim, stream, member=member)
            self._runs[run] = None
            try:
                with run.stop.scope:
                    if self._stop_by < math.inf:
                        self._stop(run)
                    run.outcome = await self._outcome(run)
                if run.outcome is None:
                    run.outcome = self._halted(run)
            except anyio.get_cancelled_exc_class():
                run.stop.ending.deadline = min(run.stop.ending.deadline, anyio.current_time() + LAST_SECONDS)
                raise
            finally:
                try:
                    run.times.made_at = time.monotonic()
                    with run.stop.ending:
                        run.ended = await self._end(run)
                    report(run, log_prompts=self._log_prompts)
                    await self._performer.keep(run)
                finally:
                    del self._runs[run]
                    self._made_before += _made_here(run)
                    self._changed.ring()
            return run

    def _halted(self, run: Run) -> Outcome:
        """How a run ended that was stopped."""
        match run.stop.halted:
            case Halt.CANCELLED if run.answer.generation is not None:
                done = run.answer.generation.cut_short()
                for choice in done.unsaid if run.job.streamed else ():
                    run.stream.put(TOKEN, orjson.dumps({"choices": [choice]}))
                return done
            case Halt.CANCELLED if run.claim.first:
                return cancelled_while_waiting(run.job.type, "")  # else it goes back, and is ended at the next claim
            case Halt.FENCED:
                return FencedError()
            case Halt.STALLED:
                return EngineStalledError(f"The engine sent nothing for {self._stall:g} s (STALL_SECONDS).")
            case _:
                return None

    async def _outcome(self, run: Run) -> Outcome:
        try:
            return await self._performer.perform(run)
        except AbandonedError:
            return run.answer.generation.cut_short() if run.answer.generation else None
        except StoppedError:
            return None
        except (JobError, FencedError, StreamLostError) as error:
            return error
        except Exception as error:
            log.exception("a job failed through a mistake of the worker's", action="job_broken")
            return InternalError(f"The worker made a mistake ({type(error).__name__}); its log has the details.")

    async def _end(self, run: Run) -> bool:
        """End the job, or hand it back; returns whether this run wrote its result."""
        job, held, outcome = run.job, run.claim.held, run.outcome
        source = self._performer.engines.get(job.kind)
        final = isinstance(outcome, EngineFailedError | ModelUnavailableError)
        if source is not None and isinstance(outcome, EngineCrashedError | EngineUnavailableError) and not final:
            await source.lost()
        if source is not None and isinstance(outcome, EngineStalledError):
            await source.stalled(f"sent nothing for {self._stall:g} s")
        outcome = run.outcome = _judged(run)
        if isinstance(outcome, EngineFailedError) and job.worker is None and await self._elsewhere(job.kind):
            await self._closer.hand_back(held, in_good_order=True)
            return False
        match outcome:
            case None | StreamLostError():
                await self._closer.hand_back(held, in_good_order=True)
            case EngineUnavailableError() if not final:
                await self._closer.hand_back(held, in_good_order=True, suspect=run.request.alone)
            case FencedError():
                return await self._fenced(run)
            case JobError() if run.goes_on:
                await self._closer.hand_back(held, in_good_order=False, suspect=run.request.alone)
            case JobError():
                partial = await self._is_partial(run)
                bury = _reason_to_bury(run, outcome)
                return await self._closer.failed(held, outcome, run.stream, partial=partial, bury=bury)
            case Done():
                return await self._closer.done(held, outcome, run.stream)
        return False

    async def _fenced(self, run: Run) -> bool:
        """End a run that the claims, or the stream, say is no attempt of this job any more."""
        if run.stop.halted is Halt.FENCED:
            return await self._dispossessed(run)
        partial = (await self._performer.published(run.job.id)).has_output
        error = await self._closer.shut_out(run.claim.held, run.stream, partial=partial)
        run.outcome = error or run.outcome
        return error is not None

    async def _dispossessed(self, run: Run) -> bool:
        """End a run whose job its hash gives to somebody else; whoever wrote that, its reader is owed an end."""
        held = run.claim.held
        if await self._closer.is_anothers(held):
            await self._closer.fenced(held)
            return False
        error = InternalError(f"Others wrote that somebody else has the job, where nobody has: {job_key(held.job_id)}.")
        run.outcome = error
        return await self._closer.failed(held, error, run.stream, partial=await self._is_partial(run))

    async def _is_partial(self, run: Run) -> bool:
        """Whether the job's stream holds some of its output."""
        if run.answer.tokens or run.claim.first or not run.job.streamed:
            return run.job.streamed and run.answer.tokens > 0
        return (await self._performer.published(run.job.id)).has_output


def _made_here(run: Run) -> int:
    return 0 if run.answer.cached else run.answer.tokens


def _judged(run: Run) -> Outcome:
    """Return the outcome of a run, in the light of whose request its engine was reading if that was lost.

    Another's: this one loses no attempt. This one's and others': neither do they, but each is run alone the next time,
    and then it is its own fault.
    """
    outcome = run.outcome
    if not isinstance(outcome, EngineCrashedError | EngineStalledError):
        return outcome
    match run.request.blame:
        case Blame.ANOTHERS:
            return EngineUnavailableError(f"{outcome} It was reading another job's request, so this costs no attempt.")
        case Blame.SHARED:
            run.request.alone = True
            return EngineUnavailableError(f"{outcome} It was reading several requests, this job's too: it runs alone.")
        case Blame.OWN:
            run.request.alone = True
            return type(outcome)(f"{outcome} It was reading this job's request when that happened.")
        case Blame.NOBODYS:
            return outcome


def _reason_to_bury(run: Run, error: JobError) -> str:
    """Why a job is to go to the dead letters; empty if it is not."""
    lost = isinstance(error, EngineCrashedError | EngineStalledError)
    if not lost or run.job.on_crash == "fail":
        return ""
    allowed = run.job.attempts_allowed
    return f"{error} {'It was the only attempt' if allowed == 1 else f'It was the last of {allowed} attempts'}."
