"""Jobs that look after models: ``list_models``, ``model_info``, ``load_model``, ``switch_model``, ``unload_models``.

And ``health_check``, whose models it asks after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import anyio.to_thread

from velesio_worker.engines.base import EngineState
from velesio_worker.engines.llama.engine import LlamaEngine
from velesio_worker.engines.llama.launch import LlamaLauncher
from velesio_worker.engines.models.gguf import GgufError, read_gguf
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.engines.webui.catalogue import ImageModel
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.engines.webui.launch import WebUILauncher
from velesio_worker.observability.health import Health
from velesio_worker.wire.errors import EngineCrashedError, EngineUnavailableError, NoCapacityError
from velesio_worker.wire.jobs import Job, JobType, Kind
from velesio_worker.wire.parameters import LoadModelParameters

OnWait = Callable[[EngineState], None]


class Models(Protocol):
    """Runs management jobs on one engine."""

    async def run(self, job: Job, on_wait: OnWait) -> dict[str, Any]:
        """Run a job; see :meth:`Management.run`."""
        ...


class Management:
    """Runs management jobs.

    Args:
        models: who looks after the models of each kind of management job that the worker can answer.
        health: answers health checks.
    """

    def __init__(self, models: Mapping[Kind, Models], health: Health) -> None:
        self._models = models
        self._health = health

    async def run(self, job: Job, on_wait: OnWait) -> dict[str, Any]:
        """Run a job; returns its result (wire protocol, section 5).

        Args:
            job: the job.
            on_wait: called now and then while an engine is waited for.

        Raises:
            JobError: the job failed.
        """
        if job.type is JobType.HEALTH_CHECK:
            return await self._health.check()
        models = self._models.get(job.kind)
        if models is None:
            raise NoCapacityError(f"This worker runs no {'image' if job.kind is Kind.MANAGE_IMAGE else 'text'} jobs.")
        return await models.run(job, on_wait)


class TextModels:
    """Runs management jobs on the text engine.

    Args:
        supervisor: the text engine's.
        launcher: knows the models that there are.
    """

    def __init__(self, supervisor: Supervisor[LlamaEngine], launcher: LlamaLauncher) -> None:
        self._supervisor = supervisor
        self._launcher = launcher

    async def run(self, job: Job, on_wait: OnWait) -> dict[str, Any]:
        """Run a job; see :meth:`Management.run`."""
        match job.type:
            case JobType.LIST_MODELS:
                return {"models": await self._list()}
            case JobType.MODEL_INFO:
                return await self._info()
            case JobType.UNLOAD_MODELS:
                await self._supervisor.unload()
                return {"success": True}
            case _ if isinstance(job.parameters, LoadModelParameters):
                model = await self._supervisor.load(job.parameters.model, on_wait=on_wait)
                return {"success": True, "model": model}
            case _:
                raise NoCapacityError(f"This worker runs no {job.type} jobs.")

    async def _list(self) -> list[dict[str, Any]]:
        loaded = self._supervisor.loaded
        if self._launcher.owned:
            path = loaded.model if loaded else None
            return await anyio.to_thread.run_sync(self._launcher.folder.listing, path)
        name = self._supervisor.model
        return [] if name is None else [{"name": name, "filename": None, "hash": None, "loaded": loaded is not None}]

    async def _info(self) -> dict[str, Any]:
        """Describe the loaded model; if there is none, that which the next job gets, as far as its file tells."""
        serving = self._supervisor.serving
        if serving is not None:
            try:
                return await serving.engine.describe() | {"loaded": True}
            except (EngineUnavailableError, EngineCrashedError):
                await self._supervisor.lost()
        model = self._supervisor.default.model
        if model is None:
            raise NoCapacityError("No model is loaded, and the worker does not know which would be.")
        try:
            info = await anyio.to_thread.run_sync(read_gguf, model)
        except (GgufError, OSError) as error:
            raise NoCapacityError(f"No model is loaded, and {model} cannot be read: {error}") from None
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
    """Runs management jobs on the image engine.

    Args:
        supervisor: the image engine's.
        launcher: knows the engine that serves, or served last.
    """

    def __init__(self, supervisor: Supervisor[WebUIEngine], launcher: WebUILauncher) -> None:
        self._supervisor = supervisor
        self._launcher = launcher

    async def run(self, job: Job, on_wait: OnWait) -> dict[str, Any]:
        """Run a job; see :meth:`velesio_worker.execution.management.Management.run`."""
        match job.type:
            case JobType.LIST_MODELS:
                engine = await self._engine(on_wait)
                return {"models": [_listed(model, engine) for model in engine.catalogue.models]}
            case JobType.MODEL_INFO:
                return self._info(await self._engine(on_wait))
            case JobType.UNLOAD_MODELS:
                await self._supervisor.unload()
                return {"success": True}
            case _ if isinstance(job.parameters, LoadModelParameters):
                model = await self._supervisor.load(job.parameters.model, on_wait=on_wait)
                return {"success": True, "model": model}
            case _:
                raise NoCapacityError(f"This worker runs no {job.type} jobs for image models.")

    async def _engine(self, on_wait: OnWait) -> WebUIEngine:
        """Return the engine with what it has now; with what it had, if it does not run."""
        serving = self._supervisor.serving
        if serving is not None:
            try:
                await serving.engine.refresh()
            except EngineUnavailableError:
                await self._supervisor.lost()
            return serving.engine
        if self._launcher.engine is None or self._supervisor.state is EngineState.STARTING:
            async with self._supervisor.ensure(on_wait=on_wait) as engine:
                return engine
        return self._launcher.engine

    def _info(self, engine: WebUIEngine) -> dict[str, Any]:
        catalogue, model = engine.catalogue, engine.loaded
        return {
            "name": engine.model or None,
            "kind": "image",
            "filename": model.filename if model is not None else None,
            "hash": model.hash if model is not None else None,
            "samplers": sorted(set(catalogue.samplers.values())),
            "schedulers": sorted(set(catalogue.schedulers.values())),
            "loras": sorted(catalogue.loras) if catalogue.loras is not None else None,
            "loaded": self._supervisor.serving is not None,
        }


def _listed(model: ImageModel, engine: WebUIEngine) -> dict[str, Any]:
    loaded = engine.loaded is not None and engine.loaded.name == model.name
    return {"name": model.name, "filename": model.filename, "hash": model.hash, "loaded": loaded}
