"""Jobs that look after image models."""

from __future__ import annotations

from typing import Any

from velesio_worker.engines.base import EngineState
from velesio_worker.engines.supervisor import Supervisor
from velesio_worker.engines.webui.catalogue import ImageModel
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.engines.webui.launch import WebUILauncher
from velesio_worker.errors import EngineUnavailableError, NoCapacityError
from velesio_worker.jobs import Job, JobType
from velesio_worker.management import OnWait
from velesio_worker.parameters import LoadModelParameters


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
        """Run a job; see :meth:`velesio_worker.management.Management.run`."""
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
