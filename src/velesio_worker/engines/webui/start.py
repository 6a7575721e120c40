"""How long a WebUI that starts is waited for, and what is said of one that did not."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.engines.base import TAIL, WHERE_MORE
from velesio_worker.engines.http import ConnectionLostError
from velesio_worker.engines.supervision import liveness
from velesio_worker.engines.supervision.liveness import tail_of
from velesio_worker.engines.supervision.process import EngineProcess
from velesio_worker.engines.supervision.redaction import redact
from velesio_worker.engines.webui.api import WebUIApi
from velesio_worker.engines.webui.command import WebUICommand
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.engines.webui.refusals import is_passing
from velesio_worker.wire.errors import EngineStartError, JobError, OutOfMemoryError

_LOOK_SECONDS: Final = 0.5
_END_SECONDS: Final = 2.0
"""How long a process may take to end after its port was closed."""

_CHECK: Final = "Check SD_STARTUP_COMMAND"
_TROUBLE: Final = re.compile(r"\b(error|traceback|exception)\b", re.IGNORECASE)

_LEVEL: Final = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_LEVEL_WITHIN: Final = 60
"""Where in a line its level stands, in characters from its beginning."""

_REPEATED: Final = re.compile(r"(API error:[^{]*|Arguments:)(?= *\S).*", re.DOTALL)
"""What a WebUI repeats of a job: AUTOMATIC1111 1.10, ``modules/api/api.py`` and ``modules/call_queue.py``."""

_LOCALS: Final = re.compile(r"\s*[│|] ?[│|╭╰]|\s*[╭╰].*\blocals\b")
"""The variables of a function in a traceback by ``rich``: the request is among them."""

webui_log = get_logger("webui")


async def answers(api: WebUIApi) -> bool:
    """Whether a WebUI answers as one; an answer that no WebUI gives is said by whoever asks next."""
    try:
        return await api.get("sd-models") is not None
    except ConnectionLostError:
        return False
    except JobError as error:
        return not is_passing(error)


async def until_ready(
    process: EngineProcess, command: WebUICommand, patience: float, work: Callable[[], Awaitable[WebUIEngine]]
) -> WebUIEngine:
    """Do some work that ends once a starting process is ready, for as long as that writes.

    Args:
        process: the process.
        command: what was started.
        patience: how long it may write nothing, in seconds.
        work: returns the engine.

    Raises:
        EngineStartError: the process ended, wrote nothing for too long, or is not what it was taken for.
    """
    engine: WebUIEngine | None = None
    trouble: EngineStartError | None = None

    async def watch() -> None:
        nonlocal trouble
        trouble = await _trouble(process, command, patience)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            engine = await work()
        except ConnectionLostError as error:
            await anyio.sleep(_END_SECONDS)  # if it ended, that is told instead
            text = f"The WebUI went away while it started ({error}), but its process lives."
            trouble = EngineStartError(f"{text} {TAIL}\n{tail_of(process)}")
        except JobError as error:
            memory = isinstance(error, OutOfMemoryError)
            remedy = "Give it less to hold (SD_ARGS=--medvram, a smaller model)" if memory else _CHECK
            text = f"What was started does not serve as a WebUI: {error}. {remedy}."
            trouble = EngineStartError(text, out_of_memory=memory)
        group.cancel_scope.cancel()
    if engine is None or trouble is not None:
        raise trouble or EngineStartError
    return engine


async def _trouble(process: EngineProcess, command: WebUICommand, patience: float) -> EngineStartError:
    seen, deadline = -1, math.inf
    while process.returncode is None:
        if process.bytes != seen:
            seen, deadline = process.bytes, anyio.current_time() + patience
        elif anyio.current_time() > deadline:
            return EngineStartError(
                f"The WebUI showed no progress for {patience:g} s (SD_START_SECONDS); it was looked for at "
                f"{command.url}: if it listens elsewhere, set SD_PORT. {TAIL}\n{tail_of(process)}"
            )
        await anyio.sleep(_LOOK_SECONDS)
    await process.drained()
    likely = _likely(process) or "check SD_STARTUP_COMMAND and SD_ARGS"
    public = f"The WebUI {process.how_it_ended()}: {likely}. {WHERE_MORE}"
    return EngineStartError(f"The WebUI {last_words(process)}", public=public)


_HINTS: Final = (
    ("out of memory", "there is too little GPU memory: SD_ARGS=--medvram, or a smaller model"),
    ("unrecognized arguments", "the WebUI does not know an argument: check SD_STARTUP_COMMAND and SD_ARGS"),
    ("no checkpoints found", "there is no model: put one into SD_MODEL_PATH"),
    ("can't open file", "its script is not there: check SD_STARTUP_COMMAND, and the folder that it is started in"),
    ("no module named", "the WebUI is not installed whole: run its own installation once"),
    ("address already in use", "the port is taken: set SD_PORT"),
)


def last_words(process: EngineProcess) -> str:
    """Say how a WebUI's process ended, what most likely went wrong, and what it wrote last."""
    return liveness.last_words(process, _likely(process))


def _likely(process: EngineProcess) -> str:
    said = tail_of(process).lower()
    return next((hint for sign, hint in _HINTS if sign in said), "")


def pass_on(line: str) -> None:
    """Pass a line of the WebUI's log on, with its level; one that names none is a warning if it tells of trouble."""
    named = _LEVEL.search(line[:_LEVEL_WITHIN])
    level = logging.getLevelNamesMapping()[named.group()] if named else logging.INFO
    if named is None and _TROUBLE.search(line):
        level = logging.WARNING
    webui_log.log(level, line, action="engine_log")


def clean(line: str) -> str | None:
    """Return what may be shown of a line of the WebUI's log, which repeats the jobs that it runs; None: nothing."""
    return None if _LOCALS.match(line) else redact(_REPEATED, line)[0]
