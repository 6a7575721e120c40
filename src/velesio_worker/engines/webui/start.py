"""How long a WebUI that starts is waited for, and what is said of one that did not."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.engines.base import TAIL
from velesio_worker.engines.http import ConnectionLostError
from velesio_worker.engines.supervision import liveness
from velesio_worker.engines.supervision.liveness import tail_of
from velesio_worker.engines.supervision.process import EngineProcess
from velesio_worker.engines.webui.api import NAME, WebUIApi
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.wire.errors import EngineRefusedError, EngineStartError, JobError, OutOfMemoryError

_LOOK_SECONDS: Final = 0.5
_END_SECONDS: Final = 2.0
"""How long a process may take to end after its port was closed."""

_TROUBLE: Final = re.compile(r"\b(error|traceback|exception)\b", re.IGNORECASE)

_LEVEL: Final = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_LEVEL_WITHIN: Final = 60
"""Where in a line its level stands, in characters from its beginning."""

webui_log = get_logger("webui")


async def answers(api: WebUIApi) -> bool:
    """Whether a WebUI answers as one; an answer that no WebUI gives is said by whoever asks next."""
    try:
        return await api.get("sd-models") is not None
    except ConnectionLostError:
        return False
    except JobError as error:
        return not is_passing(error)


async def listens(api: WebUIApi) -> bool:
    """Whether something answers without the API, as a WebUI does for a moment, or for good without --api."""
    with suppress(ConnectionLostError, JobError):
        return await api.get("sd-models") is None
    return False


def is_passing(error: JobError) -> bool:
    """Whether an error is one of a server that starts, or of a proxy before one."""
    return isinstance(error, EngineRefusedError) and str(error).startswith(f"{NAME} answered with status 5")


class StartWatch:
    """Waits for a starting process for as long as it writes.

    Args:
        process: the process.
        url: where it is to answer.
        seconds: how long it may write nothing.
    """

    def __init__(self, process: EngineProcess, url: str, seconds: float) -> None:
        self._process = process
        self._url = url
        self._seconds = seconds

    async def through(self, work: Callable[[], Awaitable[WebUIEngine]]) -> WebUIEngine:
        """Do some work that ends once the process is ready.

        Raises:
            EngineStartError: the process ended, wrote nothing for too long, or is not what it was taken for.
        """
        engine: WebUIEngine | None = None
        trouble: EngineStartError | None = None

        async def watch() -> None:
            nonlocal trouble
            trouble = await self._trouble()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                engine = await work()
            except ConnectionLostError as error:
                trouble = await self._went_away(error)
            except JobError as error:
                trouble = _start_error(error)
            group.cancel_scope.cancel()
        if engine is None or trouble is not None:
            raise trouble or EngineStartError
        return engine

    async def _went_away(self, error: ConnectionLostError) -> EngineStartError:
        with anyio.move_on_after(_END_SECONDS):
            await self._process.wait()
            return await self._ended()
        text = (
            f"The WebUI went away while it started ({error}), but its process lives. {TAIL}\n{tail_of(self._process)}"
        )
        return EngineStartError(text)

    async def _ended(self) -> EngineStartError:
        await self._process.drained()
        return EngineStartError(f"The WebUI {last_words(self._process)}")

    async def _trouble(self) -> EngineStartError:
        process, seen = self._process, -1
        deadline = anyio.current_time() + self._seconds
        while process.returncode is None:
            if process.bytes != seen:
                seen, deadline = process.bytes, anyio.current_time() + self._seconds
            elif anyio.current_time() > deadline:
                return EngineStartError(
                    f"The WebUI showed no progress for {self._seconds:g} s (SD_START_SECONDS); it was looked for at "
                    f"{self._url}: if it listens elsewhere, set SD_PORT. {TAIL}\n"
                    f"{tail_of(process)}"
                )
            await anyio.sleep(_LOOK_SECONDS)
        return await self._ended()


def _start_error(error: JobError) -> EngineStartError:
    memory = isinstance(error, OutOfMemoryError)
    remedy = "Give it less to hold (SD_ARGS=--medvram, a smaller model)" if memory else "Check SD_STARTUP_COMMAND"
    return EngineStartError(f"What was started does not serve as a WebUI: {error}. {remedy}.", out_of_memory=memory)


_HINTS: Final = (
    ("out of memory", "there is too little GPU memory: SD_ARGS=--medvram, or a smaller model"),
    ("unrecognized arguments", "the WebUI does not know an argument: check SD_STARTUP_COMMAND and SD_ARGS"),
    ("no checkpoints found", "there is no model: put one into SD_MODEL_PATH"),
    ("no module named", "the WebUI is not installed whole: run its own installation once"),
    ("address already in use", "the port is taken: set SD_PORT"),
)


def last_words(process: EngineProcess) -> str:
    """Say how a WebUI's process ended, what most likely went wrong, and what it wrote last."""
    said = tail_of(process).lower()
    return liveness.last_words(process, next((hint for sign, hint in _HINTS if sign in said), ""))


def pass_on(line: str) -> None:
    """Pass a line of the WebUI's log on, with its level; one that names none is a warning if it tells of trouble."""
    named = _LEVEL.search(line[:_LEVEL_WITHIN])
    level = logging.getLevelNamesMapping()[named.group()] if named else logging.INFO
    if named is None and _TROUBLE.search(line):
        level = logging.WARNING
    webui_log.log(level, line, action="engine_log")
