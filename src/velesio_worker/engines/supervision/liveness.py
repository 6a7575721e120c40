"""Whether an engine is still there: its process, and what answers at its address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.abc

from velesio_worker.engines.base import TAIL
from velesio_worker.engines.supervision.process import EngineProcess

_TRIES: Final = 5
_PAUSE_SECONDS: Final = 0.1


class Reported:
    """Whether somebody has said that an engine is gone."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Say so."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until somebody does, once more each time."""
        await self._event.wait()
        self._event = anyio.Event()


async def until_gone(
    process: EngineProcess,
    reported: Reported,
    answers: Callable[[], Awaitable[bool]],
    last_words: Callable[[EngineProcess], str],
) -> str:
    """Wait for the end of a process, or until it cannot be reached: a wrapper may outlive its server.

    Returns what happened to it: what ``last_words`` says of a process that ended.
    """
    while process.returncode is None:
        async with anyio.create_task_group() as either:
            either.start_soon(_first_of, process.wait, either)
            either.start_soon(_first_of, reported.wait, either)
        for _ in range(_TRIES):
            if process.returncode is not None or await answers():
                break
            await anyio.sleep(_PAUSE_SECONDS)
        else:
            return "cannot be reached although its process lives"
    await process.drained()
    return last_words(process)


async def _first_of(wait: Callable[[], Awaitable[object]], group: anyio.abc.TaskGroup) -> None:
    await wait()
    group.cancel_scope.cancel()


def tail_of(process: EngineProcess) -> str:
    """Return the last lines of a process, indented."""
    return "\n".join(f"  {line}" for line in process.tail) or "  (it wrote nothing)"


def last_words(process: EngineProcess, hint: str = "") -> str:
    """Say how a process ended, what most likely went wrong, and what it wrote last."""
    likely = f"Most likely {hint}.\n" if hint else ""
    return f"{process.how_it_ended()}. {likely}{TAIL}\n{tail_of(process)}"
