"""A llama-server that the worker starts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import TAIL, WHERE_MORE, Serving
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.llama.command import LlamaCommand, api_key_for, engine_environment
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties, read_properties
from velesio_worker.engines.llama.limits import read_limits
from velesio_worker.engines.llama.lines import pass_on
from velesio_worker.engines.supervision.liveness import Reported, last_words, tail_of, until_gone
from velesio_worker.engines.supervision.memory import Memory
from velesio_worker.engines.supervision.output import OutputBudget
from velesio_worker.engines.supervision.ports import HOST, check_port
from velesio_worker.engines.supervision.process import EngineProcess, running
from velesio_worker.engines.supervision.redaction import redact
from velesio_worker.wire.errors import EngineRefusedError, EngineStartError

_POLL_SECONDS: Final = 0.1

LOADING: Final = "loads its model"
_INVALID: Final = re.compile("invalid argument|error while handling argument|has no such flag")
_OUT_OF_MEMORY: Final = re.compile("out of memory|cudamalloc failed|failed to allocate|unable to allocate")
_HINTS: Final = (
    (_INVALID, "llama-server does not know an argument: check STARTUP_COMMAND and LLAMA_ARGS, or use a newer build"),
    (_OUT_OF_MEMORY, "there is too little memory: lower GPU_LAYERS, CONTEXT_SIZE or LLM_CONCURRENCY"),
    (
        re.compile("failed to load model|model loading error"),
        "the model cannot be loaded: check that MODEL_PATH is a whole GGUF file",
    ),
    (re.compile("couldn't bind"), "the port is taken: set LLAMA_PORT"),
)
_JOBS: Final = (
    *("got exception:", "llg error:", r"Failed to parse\b", "but got:", "error parsing grammar:", "grammar:"),
    *(r"Grammar \(", "JSON schema:", "launching slot :", "next token:", "streamed chunk:", "Parsed message:"),
    *(r"Parsing [\w ]+:", "generated parser:", "request: *(?={)", "response: *(?={)"),
)
"""What it writes of the jobs that it runs, which is left out of the log.

Found out by giving each kind of request, good and bad, a word of its own, and looking for it in what llama.cpp's
server wrote, with and without ``--verbose``.
"""

_OF_JOBS: Final = re.compile(rf"({'|'.join(_JOBS)}).*\S.*", re.DOTALL | re.IGNORECASE)
_LINE: Final = re.compile(
    r"[\d.]+ [DIWE] |(?:srv|slot|que|res|cmn|main) +\S+: |(?:llama|ggml|common|gguf)_\w+: |.*(?:GGML_ASSERT|CUDA error)"
)
"""How a line begins that does not go on with what the one before it repeated."""

log = get_logger(__name__)


class LlamaRedaction:
    """Cleans what a llama-server writes: some of it goes on over several lines."""

    def __init__(self) -> None:
        self._goes_on = False

    def __call__(self, line: str) -> str | None:
        """Return what may be shown of a line; None: nothing."""
        if self._goes_on and not _LINE.match(line):
            return None
        cleaned, self._goes_on = redact(_OF_JOBS, line)
        return cleaned


@contextlib.asynccontextmanager
async def own_server(
    settings: Settings, environ: Mapping[str, str], command: LlamaCommand
) -> AsyncGenerator[Serving[LlamaEngine], None]:
    """Start a llama-server, wait until it is ready, and end it on leaving; see :meth:`LlamaLauncher.serve`."""
    check_port(command.port)
    log.info(f"starting llama-server from {command.source}", action="engine_starting", port=command.port)
    remedy = "check STARTUP_COMMAND" if settings.startup_command else "check that it is built for this machine"
    began, api_key = anyio.current_time(), api_key_for(settings)
    async with (
        running(
            command.argv,
            env=engine_environment(settings, environ, command.port, api_key),
            on_line=OutputBudget(pass_on).take,
            clean=LlamaRedaction(),
            remedy=remedy,
            name="llama-server",
        ) as process,
        EngineHTTP(f"http://{HOST}:{command.port}", api_key=api_key) as http,
    ):
        properties = await _until_ready(process, http, settings)
        log.info(
            f"llama-server is ready: {properties.model}, {properties.slots} slots of "
            f"{properties.context_length} tokens",
            action="engine_ready",
            duration_ms=round((anyio.current_time() - began) * 1000),
            pid=process.pid,
        )
        reported = Reported()
        gone = partial(until_gone, process, reported, partial(_answers, http), _last_words)
        engine = LlamaEngine(http, properties, max_logprobs=settings.max_logprobs, largest=settings.max_result_bytes)
        serving = serving_of(settings, engine, gone, reported.set, process.kill)
        yield replace(serving, memory=Memory(process.pid).measure)


async def _answers(http: EngineHTTP) -> bool:
    try:
        await read_properties(http)
    except ConnectionLostError:
        return False
    except EngineRefusedError:
        pass  # something does
    return True


async def asked(http: EngineHTTP) -> LlamaProperties | str:
    """Ask a server what it is, or why it does not say so yet."""
    try:
        seen = await read_properties(http)
        return LOADING if seen is None else replace(seen, limits=await read_limits(http))
    except ConnectionLostError as error:
        return f"does not answer ({error})"


def serving_of(
    settings: Settings,
    engine: LlamaEngine,
    gone: Callable[[], Awaitable[str]],
    report: Callable[[], None],
    kill: Callable[[], None] | None,
    look: Callable[[float], Awaitable[str | None]] | None = None,
) -> Serving[LlamaEngine]:
    """Return a server that is ready, for as many jobs as it has slots, or fewer."""
    slots = engine.properties.slots
    wanted = settings.llm_concurrency or slots
    if wanted > slots:
        log.warning(
            f"LLM_CONCURRENCY={wanted}, but llama-server has {slots} slots: taking {slots} jobs at a time. "
            f"Start it with --parallel {wanted}",
            action="concurrency_lowered",
        )
    jobs = min(wanted, slots)
    return Serving(engine, jobs, gone, report, kill, engine.decoded, engine.probe, look=look)


async def _until_ready(process: EngineProcess, http: EngineHTTP, settings: Settings) -> LlamaProperties:
    """Wait for a starting server for as long as it shows progress: output, or a change in how it answers."""
    patience = settings.start_seconds
    seen: tuple[int, bool] | None = None  # bytes, not lines: llama.cpp writes a dot at a time while it loads
    deadline = anyio.current_time() + patience
    while True:
        if process.returncode is not None:
            await process.drained()
            raise _start_error(process, settings)
        try:
            answer = await asked(http)
        except EngineRefusedError as error:
            check = "" if "LLAMA_API_KEY" in str(error) else " Check STARTUP_COMMAND."
            text = f"What was started does not serve as llama-server: {error}.{check}"
            raise EngineStartError(text, final=True) from None
        if isinstance(answer, LlamaProperties):
            return answer
        if (process.bytes, answer == LOADING) != seen:
            seen = (process.bytes, answer == LOADING)
            deadline = anyio.current_time() + patience
        elif anyio.current_time() > deadline:
            raise EngineStartError(
                f"llama-server showed no progress for {patience:g} s (START_SECONDS). {TAIL}\n{tail_of(process)}"
            )
        await anyio.sleep(_POLL_SECONDS)


def _start_error(process: EngineProcess, settings: Settings) -> EngineStartError:
    said = tail_of(process).lower()
    return EngineStartError(
        f"llama-server {_last_words(process)}",
        final=bool(_INVALID.search(said)),
        out_of_memory=bool(_OUT_OF_MEMORY.search(said)),
        public=f"llama-server {process.how_it_ended()}: {_likely(said) or _check(settings)}. {WHERE_MORE}",
    )


def _check(settings: Settings) -> str:
    return "check STARTUP_COMMAND" if settings.startup_command else "check MODEL_PATH and LLAMA_ARGS"


def _likely(said: str) -> str:
    return next((hint for sign, hint in _HINTS if sign.search(said)), "")


def _last_words(process: EngineProcess) -> str:
    said = tail_of(process).lower()
    return last_words(process, _likely(said))
