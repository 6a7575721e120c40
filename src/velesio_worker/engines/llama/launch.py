"""How text engines come to be: which llama-server, with which model, in how much of the GPU's memory."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio.to_thread

from velesio_worker.core.logs import get_logger
from velesio_worker.core.settings import GpuSizing, Settings
from velesio_worker.engines.base import PLAIN, Serving, Spec, Traits
from velesio_worker.engines.gpu import Gpu, Gpus, free_memory, read_soon, until_free
from velesio_worker.engines.llama.command import LOCAL_BINARY, check_model, llama_command, model_of
from velesio_worker.engines.llama.engine import LlamaEngine
from velesio_worker.engines.llama.foreign import foreign_server
from velesio_worker.engines.llama.server import own_server
from velesio_worker.engines.llama.sizing import Sizing, lower, sized
from velesio_worker.engines.models.download import fetch_missing
from velesio_worker.engines.models.folder import ModelFolder
from velesio_worker.engines.models.transfer import ModelDownloadError
from velesio_worker.engines.supervision.orphans import end_orphans
from velesio_worker.wire.errors import EngineStartError, ModelUnavailableError, NoCapacityError, SettingsError
from velesio_worker.wire.jobs import Kind

MEBIBYTE: Final = 1024 * 1024
_SLACK: Final = 256 * MEBIBYTE
"""How much less than before may be free after an engine has ended."""

log = get_logger(__name__)

_NOT_DOWNLOADED: Final = "The model could not be downloaded from MODEL_URL; the worker's log says why."


class LlamaLauncher:
    """Starts llama-servers: the worker's own, or waits for one that runs elsewhere (``LLAMA_SERVER_URL``).

    ``environ`` is the environment to start one in; this process's by default.
    """

    name = "llama-server"
    kind: str = Kind.TEXT
    exchanges = False

    def __init__(self, settings: Settings, gpus: Gpus, environ: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._gpus = gpus
        self._environ = os.environ if environ is None else environ
        self.folder = ModelFolder(settings.model_path.parent)
        self.owned = settings.llama_server_url is None
        self.traits = PLAIN if self.owned else Traits(foreign=True)
        self._served = ""
        self._identity = ""
        self.trouble = ""
        self._swept = False
        self._free_before: int | None = None

    @property
    def default_name(self) -> str:
        """The name of the model of jobs that ask for none; empty where the server alone knows it."""
        return self.default().name

    def default(self) -> Spec:
        """What is served unless somebody asks for something else."""
        model = model_of(self._settings) if self.owned else None
        return Spec() if model is None else Spec(model, model.stem)

    async def resolve(self, model: str) -> Spec:
        """Return what a job's ``model`` stands for; see :class:`velesio_worker.engines.base.Launcher`."""
        default = self.default()
        if model == (self._served if default.model is None else default.name):
            return default
        if default.model is None:
            where = "LLAMA_SERVER_URL" if not self.owned else "STARTUP_COMMAND, which names no --model"
            has = f"; it has {self._served}" if self._served else ""
            raise NoCapacityError(f"This worker cannot load {model!r}: its llama-server comes from {where}{has}.")
        path = await anyio.to_thread.run_sync(self.folder.find, model)
        if path.absolute() == default.model.absolute():
            return default
        try:  # before the jobs on a good model are made to wait for one that is none
            await anyio.to_thread.run_sync(partial(check_model, path, asked=True))
        except EngineStartError as error:
            raise ModelUnavailableError(f"The model {path.stem} cannot be loaded: {error.public}") from None
        return Spec(path, path.stem)

    @property
    def has_choice(self) -> bool:
        """Whether jobs may name other models: those in the folder."""
        return self.default().model is not None

    @property
    def last_served(self) -> str:
        """The name of the model of the server that serves or served last; empty before the first."""
        return self._served

    @property
    def context(self) -> int:
        """Tokens of context that one job has, if nothing lowers it."""
        return self._settings.context_size

    def identity(self, spec: Spec) -> str | None:
        """Return what tells an engine's answers from those of others; None where that is not known yet."""
        settings = self._settings
        host = socket.gethostname()
        if not self.owned:
            known = f"{self._served} at {settings.llama_server_url} on {host}: {self._identity}"
            return known if self._identity else None
        if spec.model is None:
            return f"{self._served} at {settings.startup_command} on {host}" if self._served else None
        model = self.folder.content_of(spec.model)
        if model is None:
            return None
        how = settings.startup_command or (settings.context_size, settings.gpu_sizing.value, settings.llama_args)
        words = shlex.split(settings.startup_command or settings.llama_args or "")
        files = [_stamp(Path(word)) for word in words if Path(word).is_file()]  # LoRA adapters and the like
        return f"{spec.name} {model} with {how} {(files, host) if files else ''}"

    def fingerprint(self, spec: Spec) -> object:
        """Return what changes when somebody mends that which kept the engine from starting: files and programs."""
        command = self._settings.startup_command
        program = shutil.which(shlex.split(command)[0] if command else "llama-server")
        paths = (spec.model, LOCAL_BINARY, Path(program) if program else None)
        return [_stamp(path) for path in paths if path is not None]

    @asynccontextmanager
    async def serve(self, spec: Spec) -> AsyncGenerator[Serving[LlamaEngine], None]:
        """Start a server, wait until it is ready, and end it on leaving.

        Raises:
            EngineStartError: it did not become ready, and what to change.
        """
        async with AsyncExitStack() as stack:
            url = self._settings.llama_server_url
            if url is not None:
                serving = await stack.enter_async_context(
                    foreign_server(self._settings, url, self.folder.content_of, partial(setattr, self, "trouble"))
                )
            else:
                await self._prepare(spec)
                serving = await self._start(stack, spec)
            self._served, self._identity = serving.engine.model, serving.engine.identity
            try:
                yield serving
            finally:
                self._identity = ""

    async def _prepare(self, spec: Spec) -> None:
        """End what an earlier run left, get the model, and wait for the memory that the last engine had."""
        if not self._swept:
            self._swept = True
            await anyio.to_thread.run_sync(end_orphans)
        if spec == self.default():
            try:
                await fetch_missing(self._settings)
            except ModelDownloadError as error:
                raise EngineStartError(f"MODEL_URL: {error}", public=_NOT_DOWNLOADED) from None
            except SettingsError as error:
                raise EngineStartError(str(error), final=True) from None
            except OSError as error:
                public = f"MODEL_PATH cannot be used: {error.strerror}"
                text = f"MODEL_PATH={spec.model} cannot be used: {error}"
                raise EngineStartError(text, final=True, public=public) from None
        await self._until_free()

    async def _until_free(self) -> None:
        """Wait for the memory that the last engine had, if there was one."""
        if self._free_before is not None:
            await until_free(self._gpus, self._free_before - _SLACK)

    async def _start(self, stack: AsyncExitStack, spec: Spec) -> Serving[LlamaEngine]:
        """Start a server; should it run out of memory, once more with less on the GPU."""
        settings = self._settings
        gpus = await read_soon(self._gpus)
        free = free_memory(gpus)
        self._free_before = free
        sizing = sized(settings.gpu_sizing, _mib(free), settings.gpu_layers, settings.context_size)
        tried: list[Sizing] = []
        while True:
            try:
                return await self._try(stack, spec, sizing)
            except EngineStartError as error:
                if not error.out_of_memory:
                    raise
                if settings.startup_command is not None:
                    raise _out_of_memory(error, gpus, spec, []) from None
                may_be_less = not tried and settings.gpu_sizing is not GpuSizing.OFF
                tried.append(sizing)
                smaller = lower(sizing) if may_be_less else None
                if smaller is None:
                    raise _out_of_memory(error, gpus, spec, tried) from None
            log.warning(
                f"llama-server ran out of memory with {_shown(sizing)}; trying with {_shown(smaller)}",
                action="engine_out_of_memory",
                free_mib=_mib(free),
            )
            sizing = smaller
            await self._until_free()

    async def _try(self, stack: AsyncExitStack, spec: Spec, sizing: Sizing) -> Serving[LlamaEngine]:
        model = None if spec == self.default() else spec.model
        command = await anyio.to_thread.run_sync(llama_command, self._settings, model, sizing)
        configured = Sizing(self._settings.gpu_layers, self._settings.context_size)
        if sizing != configured and self._settings.startup_command is None:
            log.info(f"llama-server gets {_shown(sizing)}", action="engine_sized", gpu_sizing=self._settings.gpu_sizing)
        return await stack.enter_async_context(own_server(self._settings, self._environ, command))


def _mib(size: int | None) -> float | None:
    return None if size is None else round(size / MEBIBYTE, 1)


def _stamp(path: Path) -> object:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns, facts.st_mode


def _shown(sizing: Sizing) -> str:
    layers = "as many layers as fit" if sizing.layers is None else f"{sizing.layers} layers"
    return f"{layers} on the GPU and {sizing.context} tokens of context a job"


def _out_of_memory(
    error: EngineStartError, gpus: Sequence[Gpu], spec: Spec, tried: Sequence[Sizing]
) -> EngineStartError:
    """Say with numbers that the memory does not do; nothing was tried where ``STARTUP_COMMAND`` decides."""
    have = ", ".join(f"{gpu.name} has {_mib(gpu.free):,.0f} of {_mib(gpu.total):,.0f} MiB free" for gpu in gpus)
    try:
        size = f"; the model's file has {spec.model.stat().st_size / MEBIBYTE:,.0f} MiB" if spec.model else ""
    except OSError:  # a path in a container
        size = ""
    sizes = f" with {', then with '.join(map(_shown, tried))}" if tried else ""
    remedy = "GPU_LAYERS, CONTEXT_SIZE or LLM_CONCURRENCY" if tried else "what STARTUP_COMMAND asks for"
    return EngineStartError(
        f"llama-server ran out of memory{sizes}. {have or 'How much the GPU has is not known (no NVML)'}{size}. "
        f"Lower {remedy}, or take a smaller model. It said:\n{error}",
        final=True,
        out_of_memory=True,
    )
