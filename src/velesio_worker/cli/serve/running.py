"""All parts together: kept running, ended by a signal, or by the death of what they cannot do without."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from velesio_worker.cli.parts import failure
from velesio_worker.cli.serve.keeping import Part
from velesio_worker.cli.serve.voice import Voice
from velesio_worker.engines.supervision.process import EngineProcess
from velesio_worker.wire.errors import VelesioError


class Running:
    """What runs now, and how it ends."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._scope = anyio.CancelScope()
        self._watching: anyio.abc.TaskGroup | None = None
        self._parts: Sequence[Part] = ()
        self._failure: VelesioError | None = None
        self._ending = False

    async def run(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run it until it ends, a signal comes, or what is watched dies; what it owns ends with it.

        Raises:
            VelesioError: it could not go on.
        """
        async with anyio.create_task_group() as watching:
            self._watching = watching
            await watching.start(self._hear)
            with self._scope:
                try:
                    await function()
                except VelesioError as error:
                    self._failure = self._failure or error
            watching.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _hear(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """End in order at the first signal, at once at the second; nohup's choice holds."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        with anyio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for _ in signals:
                if self._ending:
                    self._kill()
                else:
                    self._end()

    def _end(self) -> None:
        self._ending = True
        self._voice.say("stopping; Ctrl-C once more ends it at once")
        self._scope.cancel()

    def _kill(self) -> None:
        for part in self._parts:
            part.kill()

    def watch(self, name: str, process: EngineProcess) -> None:
        """End everything should a process die that nothing goes on without."""

        async def look() -> None:
            await process.wait()
            if not self._ending:
                self._fail(await failure(process, f"{name} {process.how_it_ended()}"))
                self._kill()  # what they would still say nobody can take

        assert self._watching is not None  # noqa: S101
        self._watching.start_soon(look)

    def _fail(self, error: VelesioError) -> None:
        self._failure = self._failure or error
        self._ending = True
        self._scope.cancel()

    @asynccontextmanager
    async def kept(self, parts: Sequence[Part]) -> AsyncGenerator[None, None]:
        """Keep parts running as long as the context lasts; leaving it ends them, all at the same time."""
        self._parts = parts
        async with anyio.create_task_group() as keeping:
            for part in parts:
                keeping.start_soon(self._keep, part)
            try:
                yield
            except VelesioError as error:  # the task group would hand it on in an exception group
                self._fail(error)
            self._ending = True
            keeping.cancel_scope.cancel()

    async def _keep(self, part: Part) -> None:
        try:
            await part.keep()
        except VelesioError as error:
            self._fail(error)
        *workers, gateway = self._parts
        if gateway.stopped or all(worker.stopped for worker in workers):
            self._fail(VelesioError(f"{part.name} was the last one, and has ended as it was asked to."))

    async def over(self) -> None:
        """Wait for the end."""
        await anyio.sleep_forever()
