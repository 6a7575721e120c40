"""A part that is kept running: started again when it dies, after a pause that grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import anyio

from velesio_worker.cli.base import EXIT_USAGE
from velesio_worker.cli.parts import failure
from velesio_worker.engines.supervision.process import EngineProcess, running

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
"""How long is waited until a part that died is started again, in seconds: twice as long each time, up to this."""

STEADY_SECONDS: Final = 30.0
"""A part that ran for so long before it died counts as one that dies for the first time."""

MOST_FALSE_STARTS: Final = 3
"""So many deaths in a row of a part that never worked are enough."""


class Part:
    """A worker or the gateway, as a process that is kept running.

    Args:
        name: what it is called, for people.
        words: the command that starts it.
        environment: returns its environment; asked before each start, since ports may have been taken meanwhile.
        say: tells people.
        on_line: gets each line that it writes.

    Attributes:
        proved: whether it has ever worked; whoever sees that says so.
        stopped: whether it ended in good order, because it was asked to: it is not started again.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        environment: Callable[[], Mapping[str, str]],
        say: Callable[[str], None],
        on_line: Callable[[str], None],
    ) -> None:
        self.name = name
        self.proved = False
        self.stopped = False
        self._words = words
        self._environment = environment
        self._say = say
        self._on_line = on_line
        self._process: EngineProcess | None = None
        self._losses = 0

    @property
    def pid(self) -> int | None:
        """The id of its process; None while it has none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def kill(self) -> None:
        """End its process at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def keep(self) -> None:
        """Keep it running until it ends in good order; cancelling this ends it.

        Raises:
            VelesioError: it says that a setting is wrong, or dies again and again before it has worked at all.
        """
        while True:
            began = time.monotonic()
            process = await self._run_once()
            if process.returncode == 0:
                self.stopped = True
                return self._say(f"{self.name} (process {process.pid}) has ended, as it was asked to")
            steady = time.monotonic() - began >= STEADY_SECONDS
            self._losses = 1 if steady else self._losses + 1
            if process.returncode == EXIT_USAGE or (self._losses >= MOST_FALSE_STARTS and not self.proved):
                raise await failure(process, f"{self.name} {process.how_it_ended()}")
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._losses - 1, 10))
            how = process.how_it_ended()
            self._say(f"{self.name} (process {process.pid}) {how}; another one is started in {pause:g} s")
            await anyio.sleep(pause)

    async def _run_once(self) -> EngineProcess:
        """Run its process to its end; returns it."""
        env, remedy = self._environment(), f"install velesio-worker anew ({self.name})"
        async with running(self._words, env=env, on_line=self._on_line, remedy=remedy, name="serve") as process:
            self._process = process
            self._say(f"{self.name} is process {process.pid}")
            await process.wait()
        return process
