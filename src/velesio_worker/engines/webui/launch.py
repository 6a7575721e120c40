"""How image engines come to be: the worker's own WebUI, or one that runs elsewhere."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import anyio
import anyio.to_thread

from velesio_worker.core.logs import get_logger
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings import GpuSharing, Settings
from velesio_worker.engines.base import Serving, Spec, SpoiltError, Traits
from velesio_worker.engines.gpu import Gpus, read_soon
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.supervision.liveness import Reported, until_gone
from velesio_worker.engines.supervision.memory import Memory
from velesio_worker.engines.supervision.orphans import end_orphans
from velesio_worker.engines.supervision.output import OutputBudget
from velesio_worker.engines.supervision.ports import check_port
from velesio_worker.engines.supervision.process import EngineProcess, running
from velesio_worker.engines.webui.api import WebUIApi, largest_answer
from velesio_worker.engines.webui.catalogue import read_catalogue
from velesio_worker.engines.webui.command import credentials_of, webui_command, webui_environment
from velesio_worker.engines.webui.decoding import PictureDecoder
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.engines.webui.generation import Means
from velesio_worker.engines.webui.limits import names_in
from velesio_worker.engines.webui.line_options import USUAL, LineOptions, Pace
from velesio_worker.engines.webui.loading import Unloadable
from velesio_worker.engines.webui.refusals import is_passing
from velesio_worker.engines.webui.restoring import restore
from velesio_worker.engines.webui.start import answers, clean, last_words, pass_on, until_ready
from velesio_worker.wire.errors import EngineStartError, JobError
from velesio_worker.wire.jobs import Kind

SPARE_SLOTS: Final = 4
"""Jobs that name this worker come beside those from the list, and beside those that are run with one of them."""

_UNLOAD_SECONDS: Final = 10.0
_MEBIBYTE: Final = 1024 * 1024
_SAMPLES_FORMAT: Final = "samples_format"

log = get_logger(__name__)


class WebUILauncher:
    """Starts Stable Diffusion WebUIs, or waits for one that runs elsewhere (``SD_SERVER_URL``).

    Args:
        settings: which, and how.
        gpus: the GPUs that it may use.
        environ: the environment to start it in; this process's by default.
        pace: how often it is looked at.

    Attributes:
        engine: the engine that serves, or served last.
    """

    name = "Stable Diffusion WebUI"
    kind: str = Kind.IMAGE
    exchanges = True
    traits = Traits(queues=True, leaks=True)

    def __init__(
        self, settings: Settings, gpus: Gpus, environ: Mapping[str, str] = os.environ, *, pace: Pace = USUAL
    ) -> None:
        self._settings = settings
        self._gpus = gpus
        self._environ = environ
        self._pace = pace
        self._serves = False
        self._unloadable = Unloadable()
        self._pictures = PictureDecoder(settings.sd_max_pixels)
        self.engine: WebUIEngine | None = None
        self.owned = settings.sd_server_url is None
        self.trouble = ""

    @property
    def default_name(self) -> str:
        """The name of the model of jobs that ask for none; empty where the WebUI has not told it yet."""
        default = None if self.engine is None else self.engine.default
        return "" if default is None else default.name

    @property
    def merging(self) -> int:
        """How many images may be made at once for several jobs; what a WebUI ran out of memory for outlives it."""
        return self._settings.sd_max_batch if self.engine is None else self.engine.line.most

    def default(self) -> Spec:
        """What is served unless somebody asks for something else: whatever the WebUI has loaded when it starts."""
        return Spec()

    async def resolve(self, model: str) -> Spec:
        """Return what a job's ``model`` stands for; see :class:`velesio_worker.engines.base.Launcher`."""
        engine = self.engine
        if engine is None or not self._serves:  # whether there is such a model is found out once it serves
            return self.known_as(model) if self.owned else Spec(name=model)  # else it may come back with others
        return _spec(engine, (await engine.find(model)).name)

    def known_as(self, model: str | None) -> Spec:
        """Return what a job's ``model`` stands for, as far as that is known without asking."""
        if self.engine is None or model is None:
            return Spec(name=model or "")
        found = self.engine.catalogue.model(model)
        return _spec(self.engine, model if found is None else found.name)

    def identity(self, spec: Spec) -> str | None:  # noqa: ARG002 (a Launcher's)
        """Images are not kept in the prompt cache."""
        return None

    def fingerprint(self, spec: Spec) -> object:  # noqa: ARG002 (a Launcher's)
        """Return what changes when somebody mends that which kept the WebUI from starting."""
        try:
            command = webui_command(self._settings)
        except EngineStartError as error:
            return str(error)
        program = shutil.which(command.argv[0]) or str((command.folder or Path()) / command.argv[0])
        try:
            facts = os.stat(program)  # noqa: PTH116 (of what may be no path at all)
        except OSError:
            return program, None
        return program, facts.st_size, facts.st_mtime_ns, facts.st_mode

    @asynccontextmanager
    async def serve(self, spec: Spec) -> AsyncGenerator[Serving[WebUIEngine], None]:
        """Start the WebUI, wait until it is ready, and end it on leaving.

        Raises:
            EngineStartError: it did not become ready, and what to change.
        """
        async with self._pictures, AsyncExitStack() as stack:
            if self._settings.sd_server_url is not None:
                serving = await self._foreign(stack, self._settings.sd_server_url)
            else:
                serving = await self._own(stack)
            before = None if self.engine is None else self.engine.default
            serving = replace(serving, instead=await restore(serving.engine, spec, before))
            self.engine, self._serves = serving.engine, True
            lines = await stack.enter_async_context(anyio.create_task_group())
            lines.start_soon(serving.engine.line.run)
            try:
                yield serving
            finally:
                self._serves = False
                lines.cancel_scope.cancel()

    async def _own(self, stack: AsyncExitStack) -> Serving[WebUIEngine]:
        settings = self._settings
        await anyio.to_thread.run_sync(end_orphans)
        command = webui_command(settings)
        check_port(command.port, setting="SD_PORT", url="SD_SERVER_URL")
        log.info(f"starting the WebUI from {command.source}", action="engine_starting", port=command.port)
        began = anyio.current_time()
        process = await stack.enter_async_context(
            running(
                command.argv,
                env=webui_environment(settings, self._environ),
                on_line=OutputBudget(pass_on).take,
                clean=clean,
                remedy="check SD_STARTUP_COMMAND" if settings.sd_startup_command else "make its venv anew",
                name="webui",
                cwd=command.folder,
            )
        )
        user = credentials_of(command.argv)
        url = command.url.replace("://", f"://{quote(user, safe=':')}@") if user else command.url
        api = WebUIApi(await stack.enter_async_context(EngineHTTP(url)), largest_answer(self._settings))
        engine = await until_ready(process, command, settings.sd_start_seconds, partial(self._get_ready, api, process))
        log.info(
            f"the WebUI is ready: {engine.model or 'its model'}, {len(engine.catalogue.models)} models",
            action="engine_ready",
            duration_ms=round((anyio.current_time() - began) * 1000),
            pid=process.pid,
        )
        gone = partial(until_gone, process, answers=partial(answers, api), last_words=last_words)
        return replace(self._serving(engine, gone, process.kill), memory=Memory(process.pid).measure)

    async def _get_ready(self, api: WebUIApi, process: EngineProcess) -> WebUIEngine:
        patience = self._settings.sd_start_seconds / 2  # so that this is told before its silence is
        listens_since = math.inf
        while not await answers(api) and anyio.current_time() - listens_since < patience:
            await anyio.sleep(self._pace.poll)
            with suppress(ConnectionLostError, JobError):
                if listens_since == math.inf and await api.get("sd-models") is None:  # for a moment, or without --api
                    listens_since = anyio.current_time()
        engine = await self._make_engine(api, process)
        await engine.warm_up()
        return engine

    async def _make_engine(self, api: WebUIApi, process: EngineProcess | None = None) -> WebUIEngine:
        """Ask a WebUI what it can do and what it has."""
        settings = self._settings
        abilities = await api.abilities()
        catalogue = await read_catalogue(api)
        if abilities.options:
            await self._settle(api, catalogue.options)
        options = LineOptions(
            self.merging,
            shared=not self.owned,
            previews=settings.previews,
            work=None if process is None else process.work,
            kill=None if process is None else process.kill,
            pace=self._pace,
        )
        means = Means(self._memory, self._pictures.check, self._unloadable)
        return WebUIEngine(api, abilities, catalogue, settings, means, options)

    async def _settle(self, api: WebUIApi, options: Mapping[str, Any]) -> None:
        """Set once what jobs may override, to what it is: the WebUI restores only what is in its file."""
        allowed = names_in(self._settings.sd_override_settings)
        wanted: dict[str, Any] = {name: options[name] for name in allowed if name in options}
        if self.owned and options.get(_SAMPLES_FORMAT, "png") != "png":
            wanted[_SAMPLES_FORMAT] = "png"
        if wanted:
            await api.post("options", wanted, timeout=None)

    async def _foreign(self, stack: AsyncExitStack, url: str) -> Serving[WebUIEngine]:
        shown = hide_password(url)
        http = EngineHTTP(url, ca_file=self._settings.ca_file)
        api = WebUIApi(await stack.enter_async_context(http), largest_answer(self._settings))
        engine = await self._until_it_answers(api, shown)
        log.info(f"the WebUI at {shown} is ready: {engine.model or 'its model'}", action="engine_ready")
        stack.push_async_callback(self._let_go, engine)

        async def gone(reported: Reported) -> str:
            while True:
                await reported.wait()
                if engine.other or not await answers(api):
                    return engine.other or "does not answer any more"

        return self._serving(engine, gone, None)

    async def _until_it_answers(self, api: WebUIApi, shown: str) -> WebUIEngine:
        said = ""
        while True:
            try:
                return await self._make_engine(api)
            except ConnectionLostError as error:
                trouble = f"does not answer ({error})"
            except JobError as error:
                if not is_passing(error):
                    final = "--api-auth" in str(error)
                    public = f"SD_SERVER_URL: {error}"
                    raise EngineStartError(f"SD_SERVER_URL={shown}: {error}", final=final, public=public) from None
                trouble = f"cannot be used yet ({error})"
            if trouble != said:
                said = trouble
                self.trouble = f"the WebUI at {shown} {trouble}"
                remedy = "start it there with --api, or correct SD_SERVER_URL"
                log.warning(f"{self.trouble}: {remedy}; trying again", action="engine_absent")
            await anyio.sleep(1)

    async def _let_go(self, engine: WebUIEngine) -> None:
        """Free the GPU for another engine where they take turns: a WebUI that runs elsewhere does not end."""
        if self._settings.gpu_sharing is GpuSharing.EXCLUSIVE and engine.can_rest:
            with anyio.move_on_after(_UNLOAD_SECONDS, shield=True), suppress(JobError):
                await engine.rest()

    def _serving(
        self, engine: WebUIEngine, gone: Callable[[Reported], Awaitable[str]], kill: Callable[[], None] | None
    ) -> Serving[WebUIEngine]:
        slots, reported = self._settings.sd_concurrency, Reported()
        return Serving(
            engine,
            slots,
            partial(gone, reported),
            reported.set,
            kill,
            _untold,
            engine.probe,
            exchange=partial(self._exchange, engine),
            rest=engine.rest if engine.can_rest else None,
            excused=lambda: engine.line.ended or bool(engine.other),
            rests=lambda: engine.rests,
            works=engine.works,
            spare=slots * (self._settings.sd_max_batch - 1) + SPARE_SLOTS,
        )

    async def _exchange(self, engine: WebUIEngine, spec: Spec) -> None:
        model = engine.catalogue.model(spec.name) if spec.name else engine.default
        if model is not None:
            self._unloadable.check(model)
        try:
            await engine.exchange(spec)
        except SpoiltError as error:
            if model is not None:
                self._unloadable.add(model, str(error))
            raise

    async def _memory(self) -> str:
        """Say how much memory the GPUs have."""
        gpus = await read_soon(self._gpus)
        have = ", ".join(
            f"{gpu.name} has {gpu.free // _MEBIBYTE:,} of {gpu.total // _MEBIBYTE:,} MiB free" for gpu in gpus
        )
        return have or "how much the GPU has is not known (no NVML)"


async def _untold() -> float | None:
    """A WebUI has no count of its work; each job watches its own progress."""
    return None


def _spec(engine: WebUIEngine, name: str) -> Spec:
    """Return what a model's name stands for; the default model has none."""
    return Spec() if engine.default is not None and name == engine.default.name else Spec(name=name)
