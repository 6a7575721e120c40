"""Jobs that look after models: ``list_models``, ``model_info``, ``load_model``, ``switch_model``, ``unload_models``.

And ``health_check``, whose models it asks after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import anyio
import anyio.to_thread

from velesio_worker.core.logs import get_logger
from velesio_worker.core.threads import aside
from velesio_worker.engines.base import EngineState, Spec
from velesio_worker.engines.llama.engine import LlamaEngine
from velesio_worker.engines.llama.launch import LlamaLauncher
from velesio_worker.engines.models.gguf import GgufError, read_gguf
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.engines.webui.launch import WebUILauncher
from velesio_worker.execution.gate import EngineGate
from velesio_worker.execution.offers import offer
from velesio_worker.observability.health import Health
from velesio_worker.wire.errors import EngineCrashedError, EngineUnavailableError, NoCapacityError
from velesio_worker.wire.jobs import Job, JobType, Kind
from velesio_worker.wire.limits import MOST_OFFERED_NAMES
from velesio_worker.wire.parameters import LoadModelParameters

OnWait = Callable[[EngineState], None]

_LOOK_SECONDS: Final = 30.0
"""How often it is looked which text models there are."""

log = get_logger(__name__)


async def manage(
    models: Mapping[Kind, TextModels | ImageModels], health: Health, job: Job, on_wait: OnWait
) -> dict[str, Any]:
    """Run a management job; returns its result (wire protocol, section 5).

    Args:
        models: who looks after the models of each kind of management job that the worker can answer.
        health: answers health checks.
        job: the job.
        on_wait: called now and then while an engine is waited for.

    Raises:
        JobError: the job failed.
    """
    if job.type is JobType.HEALTH_CHECK:
        return await health.check()
    about = models.get(job.kind)
    if about is None:
        raise NoCapacityError(f"This worker runs no {'image' if job.kind is Kind.MANAGE_IMAGE else 'text'} jobs.")
    match job.type:
        case JobType.LIST_MODELS:
            return {"models": await about.listing(on_wait)}
        case JobType.MODEL_INFO:
            return await about.info(on_wait)
        case JobType.UNLOAD_MODELS:
            await about.supervisor.unload()
            return {"success": True}
        case _:
            wish = cast("LoadModelParameters", job.parameters)
            return {"success": True, "model": await about.supervisor.load(wish.model, on_wait=on_wait)}


class TextModels:
    """The text engine and its models, which its launcher knows."""

    def __init__(
        self, gate: EngineGate[LlamaEngine], launcher: LlamaLauncher, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.gate = gate
        self.supervisor = gate.supervisor
        self._launcher = launcher
        self._on_change = on_change
        self._names: dict[Path, str] = {}
        self._more = 0
        self._context: int | None = None

    def facts(self) -> dict[str, str | int]:
        """What is known of the engine, and what it offers, for the worker's hash in Redis."""
        serving, default, more = self.supervisor.serving, self.supervisor.model or self._launcher.last_served, 0
        if serving is not None:
            self._context = serving.engine.properties.context_length
        names = [default]
        if self._launcher.has_choice:
            path = self.supervisor.default.model
            default = default if path is None else self._names.get(path, default)
            names, more = [default, *self._names.values()], self._more
        offered = offer(self.gate.kind, names, default, more=more, exchanges=self._launcher.has_choice)
        context = "" if self._context is None else self._context
        return {**self.gate.facts(), **offered, f"{self.gate.kind}_context": context}

    async def watch(self) -> None:
        """Keep in mind for ever what lies in the folder; ``on_change`` is called when that has changed."""
        while self._launcher.has_choice:
            await self.look_for_models()
            await anyio.sleep(_LOOK_SECONDS)

    async def look_for_models(self) -> None:
        """See what lies in the folder now, however long its disk takes to say; one that fails is asked again later."""
        if not self._launcher.has_choice:
            return
        try:
            seen = await aside(partial(self._launcher.folder.names, self._launcher.default().model, MOST_OFFERED_NAMES))
        except (OSError, RuntimeError) as error:  # links that lead round in a circle
            log.warning(f"the model folder cannot be read: {error}", action="models_unread")
            return
        if seen != (self._names, self._more):
            self._names, self._more = seen
            self._on_change()

    async def listing(self, on_wait: OnWait) -> list[dict[str, Any]]:  # noqa: ARG002 (they are files)
        """List what lies in the folder; of a server that runs elsewhere, what it has loaded."""
        await self.supervisor.look()
        loaded = self.supervisor.loaded
        if self._launcher.owned:
            path = loaded.model if loaded else None
            listed = await anyio.to_thread.run_sync(self._launcher.folder.listing, path)
            await self.look_for_models()
            return listed
        name = self.supervisor.model
        return [] if name is None else [{"name": name, "filename": None, "hash": None, "loaded": loaded is not None}]

    async def info(self, on_wait: OnWait) -> dict[str, Any]:  # noqa: ARG002 (as above)
        """Describe the loaded model; if there is none, that which the next job gets, as far as its file tells."""
        await self.supervisor.look()
        serving = self.supervisor.serving
        if serving is not None:
            try:
                return await serving.engine.describe() | {"loaded": True}
            except (EngineUnavailableError, EngineCrashedError):
                await self.supervisor.lost()
        model = self.supervisor.default.model
        if model is None:
            raise NoCapacityError("No model is loaded, and the worker does not know which would be.")
        try:
            info = await anyio.to_thread.run_sync(read_gguf, model)
        except (GgufError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise NoCapacityError(f"No model is loaded, and {model.name} cannot be read: {why}") from None
        return {
            "name": model.stem,
            "context_length": self._launcher.context,
            "vocab_size": info.vocab_size,
            "total_params": info.parameters,
            "training_context_length": info.context_length,
            "size": info.size,
            "chat_template": info.has_chat_template,
            "loaded": False,
        }


class ImageModels:
    """The image engine and its models, which the engine that serves or served last knows."""

    def __init__(self, gate: EngineGate[WebUIEngine], launcher: WebUILauncher) -> None:
        self.gate = gate
        self.supervisor = gate.supervisor
        self.launcher = launcher

    def facts(self) -> dict[str, str | int]:
        """What is known of the engine, and what it offers, for the worker's hash in Redis."""
        engine, names, choice = self.launcher.engine, list[str](), False
        default = self.supervisor.model or ""
        if engine is not None:
            choice = engine.has_choice
            names = [default, *(model.name for model in engine.catalogue.models)] if choice else [engine.model]
        return {**self.gate.facts(), **offer(self.gate.kind, names, default, more=0, exchanges=choice)}

    def known_as(self, model: str | None) -> Spec:
        """Return what a job's ``model`` stands for, as far as that is known without asking.

        A job without one gets the default model, and that is another one after a ``switch_model``.
        """
        return self.supervisor.default if model is None else self.launcher.known_as(model)

    @property
    def _is_loaded(self) -> bool:
        """Whether a model is in the GPU's memory, as far as is known."""
        serving = self.supervisor.serving
        return serving is not None and not serving.rests()

    async def listing(self, on_wait: OnWait) -> list[dict[str, Any]]:
        """Return what the WebUI has; it is waited for if nobody has asked it yet."""
        engine = await self._engine(on_wait)
        loaded = engine.model if self._is_loaded else None
        return [
            {"name": model.name, "filename": model.filename, "hash": model.hash, "loaded": model.name == loaded}
            for model in engine.catalogue.models
        ]

    async def _engine(self, on_wait: OnWait) -> WebUIEngine:
        """Return the engine with what it has now; with what it had, if it does not run."""
        serving = self.supervisor.serving
        if serving is not None:
            try:
                await serving.engine.refresh()
            except EngineUnavailableError:
                await self.supervisor.lost()
            if not serving.engine.other:
                return serving.engine
        last = self.launcher.engine
        if last is None or last.other or self.supervisor.state is EngineState.STARTING:
            async with self.supervisor.ensure(on_wait=on_wait) as engine:
                return engine
        return last

    async def info(self, on_wait: OnWait) -> dict[str, Any]:
        """Describe the loaded model, and what the WebUI has beside models."""
        engine = await self._engine(on_wait)
        catalogue, model = engine.catalogue, engine.loaded
        return {
            "name": engine.model or None,
            "kind": "image",
            "filename": model.filename if model is not None else None,
            "hash": model.hash if model is not None else None,
            "samplers": sorted(set(catalogue.samplers.values())),
            "schedulers": sorted(set(catalogue.schedulers.values())),
            "loras": sorted(catalogue.loras) if catalogue.loras is not None else None,
            "upscalers": sorted(set(catalogue.upscalers.values())) if catalogue.upscalers is not None else None,
            "vaes": sorted(catalogue.vaes) if catalogue.vaes is not None else None,
            "loaded": self._is_loaded,
        }
