"""The supervisor: one task that owns llama-server, starts it, watches it and starts it again."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from enum import StrEnum
from typing import Final

import anyio
import anyio.abc

from velesio_worker.engines.llama import LlamaEngine, LlamaProperties
from velesio_worker.engines.servers import Serving, foreign_server, own_server
from velesio_worker.errors import EngineCrashedError, EngineStartError, EngineUnavailableError
from velesio_worker.logs import get_logger
from velesio_worker.settings import Settings

FAILURES: Final = 5
"""So many failures in a row, none after a steady run, and the supervisor gives up."""

STEADY_SECONDS: Final = 60.0
LONGEST_DELAY: Final = 60.0
NOTICE_SECONDS: Final = 2.0

log = get_logger(__name__)


class EngineState(StrEnum):
    """Where an engine is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    FAILED = "failed"


class LlamaSupervisor:
    """Keeps one llama-server serving: the worker's own, or one that runs elsewhere (``LLAMA_SERVER_URL``).

    Only :meth:`run` changes the state; whoever wants to know of changes says so with ``on_state``.

    Args:
        settings: which server, and how.
        on_state: called after each change of state.
        environ: the environment to start it in; this process's by default.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_state: Callable[[EngineState], None] = lambda _: None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._on_state = on_state
        self._environ = os.environ if environ is None else environ
        self._serving_now: Serving | None = None
        self._replaced = ""
        self._state = EngineState.STOPPED
        self._lost = anyio.Event()
        self._users: set[anyio.CancelScope] = set()
        self._user_left = anyio.Event()
        self._changed = anyio.Event()

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life."""
        return self._state

    def engine(self) -> LlamaEngine:
        """Return the engine.

        Raises:
            EngineUnavailableError: it is not ready.
        """
        if self._serving_now is None:
            raise EngineUnavailableError(f"llama-server is {self._state}.")
        return self._serving_now.engine

    @contextlib.contextmanager
    def using(self) -> Generator[LlamaEngine, None, None]:
        """Use the engine for a while; the while ends with it.

        Raises:
            EngineUnavailableError: it is not ready, or was replaced meanwhile.
            EngineCrashedError: it went away meanwhile.
        """
        engine = self.engine()
        with anyio.CancelScope() as scope:
            self._users.add(scope)
            try:
                yield engine
            except EngineCrashedError:
                if self._replaced:
                    raise self._was_replaced() from None
                raise
            finally:
                self._users.discard(scope)
                self._user_left.set()
        if scope.cancelled_caught and self._replaced:
            raise self._was_replaced()
        if scope.cancelled_caught:
            raise EngineCrashedError("llama-server went away while the job ran.")

    def _was_replaced(self) -> EngineUnavailableError:
        """What to tell those who were on a server that was replaced for somebody else's sake."""
        return EngineUnavailableError(f"llama-server was replaced while the job ran: it {self._replaced}.")

    async def lost(self) -> None:
        """Take note that a request found the engine gone.

        Returns once the state says so too, or after ``NOTICE_SECONDS``, should the engine serve others all the same.
        """
        if self._state is not EngineState.READY:
            return
        self.report()
        changed = self._changed
        with anyio.move_on_after(NOTICE_SECONDS):
            await changed.wait()

    async def stalled(self, reason: str) -> None:
        """Take note that the engine hangs: the worker's own is killed and started again, another is looked at."""
        serving = self._serving_now
        if serving is not None and serving.kill is not None and not self._replaced:
            self._replaced = reason
            serving.kill()
        await self.lost()

    async def run(self, *, task_status: anyio.abc.TaskStatus[LlamaProperties] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the engine serving until cancelled; reports as started once it is ready for the first time.

        Raises:
            EngineStartError: the first start failed, or ``FAILURES`` in a row did later on.
        """
        try:
            async with self._serving() as serving:
                task_status.started(serving.engine.properties)
                failures, reason = await self._watch(serving, failures=0)
            while failures < FAILURES:
                await self._pause(failures, reason)
                try:
                    async with self._serving() as serving:
                        failures, reason = await self._watch(serving, failures)
                except EngineStartError as error:
                    failures, reason = failures + 1, str(error).removeprefix("llama-server ")
            raise EngineStartError(  # noqa: TRY301 (one way out for all that failed)
                f"llama-server failed {failures} times in a row; the last time it {reason}"
            )
        except EngineStartError:
            self._become(EngineState.FAILED)
            raise
        finally:
            if self._state is not EngineState.FAILED:
                self._become(EngineState.STOPPED)

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncGenerator[Serving, None]:
        self._become(EngineState.STARTING)
        url = self._settings.llama_server_url
        api_key = self._settings.llama_api_key
        server = (
            foreign_server(url, self._next_report, api_key=api_key)
            if url
            else own_server(self._settings, self._environ)
        )
        async with server as serving:
            self._serving_now = serving
            self._replaced = ""
            self._become(EngineState.READY)
            try:
                yield serving
            finally:
                self._serving_now = None
                await self._dismiss_users()

    async def _dismiss_users(self) -> None:
        """End every use of the engine before its connections are closed: a reader would wait on those for ever."""
        for scope in list(self._users):
            scope.cancel()
        with anyio.move_on_after(NOTICE_SECONDS, shield=True):
            while self._users:
                self._user_left = anyio.Event()
                await self._user_left.wait()

    async def _next_report(self) -> None:
        """Wait until somebody says that the engine is lost."""
        self._lost = anyio.Event()
        await self._lost.wait()

    async def _watch(self, serving: Serving, failures: int) -> tuple[int, str]:
        """Wait until the server is gone; returns the failures in a row, and what happened."""
        began = anyio.current_time()
        reason = await serving.gone()
        if self._replaced:
            reason = f"was replaced: it {self._replaced}"
        steady = anyio.current_time() - began > STEADY_SECONDS
        return (1 if steady else failures + 1), reason

    async def _pause(self, failures: int, reason: str) -> None:
        self._become(EngineState.BACKOFF)
        delay = min(LONGEST_DELAY, 2.0 ** (failures - 1)) * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)
        log.error(f"llama-server {reason}", action="engine_lost", failures=failures, retry_seconds=round(delay, 1))
        await anyio.sleep(delay)

    def report(self) -> None:
        """Have a server that runs elsewhere looked at: a request found it gone."""
        self._lost.set()

    def _become(self, state: EngineState) -> None:
        if state is not self._state:
            self._state = state
            self._changed.set()
            self._changed = anyio.Event()
            self._on_state(state)
