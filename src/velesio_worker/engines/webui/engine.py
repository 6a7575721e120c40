"""A WebUI as an engine of image jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.engines.base import Generation, Spec
from velesio_worker.engines.http import ConnectionLostError
from velesio_worker.engines.webui.api import NAME, Abilities, WebUIApi
from velesio_worker.engines.webui.catalogue import Catalogue, ImageModel, listed, read_catalogue
from velesio_worker.engines.webui.line import Line
from velesio_worker.engines.webui.line_options import LineOptions
from velesio_worker.engines.webui.request import ImageLimits, ImageRequest, prepare, with_numbers
from velesio_worker.engines.webui.rounds import is_done
from velesio_worker.wire.errors import (
    BadJobError,
    EngineRefusedError,
    EngineUnavailableError,
    JobError,
    ModelUnavailableError,
    OutOfMemoryError,
)
from velesio_worker.wire.events import Done, EngineEvent
from velesio_worker.wire.image_parameters import RANDOM, ImageParameters
from velesio_worker.wire.parameters import Parameters

SWITCH_SECONDS: Final = 600.0
"""How long a WebUI may take to load another model."""

_WARM_UP: Final[dict[str, Any]] = {
    "prompt": "a",
    "steps": 1,
    "width": 64,
    "height": 64,
    "seed": 1,
    "batch_size": 1,
    "n_iter": 1,
    "cfg_scale": 1.0,
    "send_images": True,
    "save_images": False,
    "do_not_save_samples": True,
    "do_not_save_grid": True,
}

log = get_logger(__name__)

MemoryNumbers = Callable[[], Awaitable[str]]


class WebUIEngine:
    """A WebUI that answers.

    Args:
        api: the WebUI.
        abilities: what it can do beside making images.
        catalogue: what it has.
        limits: what jobs may ask for.
        memory: says for people how much memory the GPU has.
        options: how the line before it is kept.

    Attributes:
        catalogue: as above, as it was last asked.
        line: the requests that wait.
    """

    def __init__(
        self,
        api: WebUIApi,
        abilities: Abilities,
        catalogue: Catalogue,
        limits: ImageLimits,
        memory: MemoryNumbers,
        options: LineOptions,
    ) -> None:
        self._api = api
        self._abilities = abilities
        self._limits = limits
        self._memory = memory
        self._loaded = catalogue.loaded
        self._resting = None if options.shared else False
        self._shared = options.shared and abilities.options
        self._refreshing = anyio.Lock()
        self._refreshed_at = float("-inf")
        self.catalogue = catalogue
        self.default = catalogue.loaded
        self.line = Line(api, abilities, options, model=lambda: self.model, before=lambda: _reached(self._get_ready()))

    @property
    def model(self) -> str:
        """The name of the model that is loaded; empty if the WebUI does not tell."""
        return self._loaded.name if self._loaded is not None else ""

    @property
    def loaded(self) -> ImageModel | None:
        """The model that is loaded, as far as that is known."""
        return self._loaded

    @property
    def can_rest(self) -> bool:
        """Whether it can take its model out of the GPU's memory."""
        return self._abilities.unload

    def generate(self, parameters: Parameters, after: str = "", pieces: int = 0) -> Generation:  # noqa: ARG002 (no text)
        """Return the run of an image job, not begun yet; see :meth:`velesio_worker.engines.base.Engine.generate`."""
        if not isinstance(parameters, ImageParameters):
            raise BadJobError("An image engine runs no text jobs.")
        return ImageGeneration(self, parameters)

    async def prepared(self, parameters: ImageParameters) -> ImageRequest:
        """Check a job against what the WebUI has; see :func:`velesio_worker.engines.webui.request.prepare`."""
        return await prepare(parameters, self.catalogue, self._limits, self.refresh, settable=self._abilities.options)

    async def refresh(self) -> Catalogue:
        """Ask the WebUI again what it has; somebody may have put a file there.

        Raises:
            JobError: it does not answer.
        """
        asked_at = anyio.current_time()
        async with self._refreshing:
            if self._refreshed_at >= asked_at:
                return self.catalogue  # somebody else, who waited as well, has done it since
            began = anyio.current_time()
            try:
                async with anyio.create_task_group() as group:
                    for route in ("refresh-checkpoints", "refresh-loras", "refresh-vae"):
                        group.start_soon(self._try_post, route)
                self.catalogue = await read_catalogue(self._api)
            except ConnectionLostError as error:
                raise EngineUnavailableError(f"{NAME} does not answer: {error}") from error
            self._refreshed_at = began
        return self.catalogue

    async def _try_post(self, route: str) -> None:
        """Have something looked up again; while an image is made that may take longer than anybody wants to wait."""
        try:
            await self._api.post(route, {})
        except (ConnectionLostError, EngineRefusedError) as error:
            log.debug(f"{route}: {error}", action="route_refused")

    async def find(self, name: str) -> ImageModel:
        """Return the model that ``name`` means.

        Raises:
            BadJobError: there is none, or it cannot be loaded here.
            JobError: the WebUI does not answer.
        """
        model = self.catalogue.model(name) or (await self.refresh()).model(name)
        if model is None:
            known = listed(model.name for model in self.catalogue.models) or "none"
            raise BadJobError(f"data.model: there is no image model {name[:80]!r}; there are {known}.")
        if not self._abilities.options and model.name != self.model:
            raise BadJobError(
                f"data.model: this worker's image engine has one model, {self.model!r}, and cannot load another."
            )
        return model

    async def load(self, model: ImageModel | None) -> None:
        """Load a model, while no job runs; None: the default one.

        Raises:
            JobError: it cannot be loaded.
            ConnectionLostError: the WebUI went away.
        """
        model = model or self.default
        if model is None or model.name == self.model:
            return
        await self.wake()
        await self._api.post("options", {"sd_model_checkpoint": model.title}, timeout=SWITCH_SECONDS)
        self.catalogue = await read_catalogue(self._api)
        loaded = self.catalogue.loaded
        if loaded is None or loaded.name != model.name:
            has = "nothing" if loaded is None else repr(loaded.name)
            raise ModelUnavailableError(f"{NAME} was to load {model.name!r} and has {has} loaded.")
        self._loaded = loaded

    async def exchange(self, spec: Spec) -> None:
        """Load the model that a spec names, once nothing is under way any more: what nobody wants may still be.

        Raises:
            JobError: it cannot be loaded, or the WebUI went away.
        """
        await self.line.idle()
        try:
            await _reached(self.load(await self.find(spec.name) if spec.name else None))
        except OutOfMemoryError as error:
            said = str(error).rstrip(" .")
            raise OutOfMemoryError(
                f"{said}, when it was to load {spec.name or 'its default model'}; {await self._memory()}. "
                "Choose a smaller model, or start the WebUI with --medvram (SD_ARGS)."
            ) from None

    async def rest_when_idle(self) -> None:
        """Rest once nothing is under way any more: what nobody wants may still be. Raises JobError."""
        await self.line.idle()
        await _reached(self.rest())

    async def rest(self) -> None:
        """Take the model out of the GPU's memory; the next job loads it again.

        Raises:
            JobError: the WebUI refuses.
            ConnectionLostError: it went away.
        """
        if self._resting is not True:
            await self._api.post("unload-checkpoint", {}, timeout=SWITCH_SECONDS)
            self._resting = True
            log.info(f"{NAME}'s model is out of the GPU's memory until it is wanted", action="engine_rests")

    async def wake(self) -> None:
        """Load the model again if it rests, or if nobody knows: an earlier worker may have left it so.

        Raises as :meth:`rest` does.
        """
        if self._resting is False or not self._abilities.unload:
            return
        try:
            await self._api.post("reload-checkpoint", {}, timeout=SWITCH_SECONDS)
        except EngineRefusedError:
            if self._resting:
                raise
        self._resting = False

    async def _get_ready(self) -> None:
        """Have the model in place for the next request; where others use the WebUI they may have chosen another."""
        await self.wake()
        match await self._api.get("options") if self._shared else None:
            case {"sd_model_checkpoint": str(said)}:
                found = self.catalogue.model(said)
            case _:
                return
        if self._loaded is not None and found is not None and found.name != self.model:
            log.warning(
                f"somebody else had {NAME} load {found.name}: {self.model} is loaded again", action="model_back"
            )
            await self._api.post("options", {"sd_model_checkpoint": self._loaded.title}, timeout=SWITCH_SECONDS)

    async def warm_up(self) -> None:
        """Make a small image: whoever can, is ready.

        Raises:
            JobError: it cannot.
            ConnectionLostError: it went away.
        """
        await self._api.post("txt2img", _WARM_UP, timeout=None)

    async def probe(self) -> None:
        """Ask for the models, which shows that the server answers.

        Raises:
            JobError: it does not.
        """
        try:
            await self._api.get("sd-models")
        except ConnectionLostError as error:
            raise EngineUnavailableError(f"{NAME} does not answer: {error}") from error

    async def told_with_numbers(self, error: OutOfMemoryError, request: ImageRequest) -> JobError:
        """Return the error with how much was asked for and how much there is."""
        return with_numbers(error, request, await self._memory())


class ImageGeneration:
    """One job, from its check to its result.

    Args:
        engine: the WebUI.
        parameters: the job's.
    """

    def __init__(self, engine: WebUIEngine, parameters: ImageParameters) -> None:
        self._engine = engine
        self._parameters = parameters

    async def events(self) -> AsyncGenerator[Sequence[EngineEvent], None]:
        """Run the job; see :meth:`velesio_worker.engines.base.Generation.events`."""
        request = await self._engine.prepared(self._parameters)
        async with self._engine.line.place(request) as ticket:
            while True:
                try:
                    events = await ticket.next()
                except OutOfMemoryError as error:
                    raise await self._engine.told_with_numbers(error, request) from None
                yield events
                if is_done(events):
                    return

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        """Return the end of a job that stops where it is: a half-done image is no result."""
        asked = self._parameters
        names = {"prompt", "negative_prompt", "steps", "width", "height"}
        parameters = asked.model_dump(include=names) | {"seed": None if asked.seed == RANDOM else asked.seed}
        return Done({"images": [], "parameters": parameters, "info": {}, "finish_reason": finish_reason}, finish_reason)


async def _reached(work: Coroutine[Any, Any, None]) -> None:
    """Do something; a connection that is lost is the engine's end, not the worker's mistake."""
    try:
        await work
    except ConnectionLostError as error:
        raise EngineUnavailableError(f"{NAME} went away: {error}") from error
