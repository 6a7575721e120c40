"""A WebUI as an engine of image jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import Generation, Spec
from velesio_worker.engines.http import ConnectionLostError
from velesio_worker.engines.webui.api import NAME, Abilities, WebUIApi, reached
from velesio_worker.engines.webui.catalogue import Catalogue, ImageModel, listed, read_catalogue
from velesio_worker.engines.webui.line import Line
from velesio_worker.engines.webui.line_options import LineOptions
from velesio_worker.engines.webui.request import UNKEPT, prepare, with_numbers
from velesio_worker.wire.errors import (
    BadJobError,
    EngineRefusedError,
    JobError,
    ModelUnavailableError,
    OutOfMemoryError,
)
from velesio_worker.wire.events import Done, EngineEvent
from velesio_worker.wire.image_parameters import RANDOM, ImageParameters
from velesio_worker.wire.parameters import Parameters

_SWITCH_SECONDS: Final = 600.0
"""How long a WebUI may take to load another model."""

_WARM_UP: Final = UNKEPT | {"prompt": "a", "steps": 1, "width": 64, "height": 64, "seed": 1, "cfg_scale": 1.0}

log = get_logger(__name__)


class WebUIEngine:
    """A WebUI that answers.

    Args:
        api: the WebUI.
        abilities: what it can do beside making images.
        catalogue: what it has.
        settings: what jobs may ask for.
        memory: says for people how much memory the GPU has.
        options: how the line before it is kept.

    Attributes:
        catalogue: as above, as it was last asked.
        loaded: the model that is loaded; None if the WebUI does not tell.
        default: the model of jobs that ask for none.
        can_rest: whether it can take its model out of the GPU's memory.
        line: the requests that wait.
    """

    def __init__(
        self,
        api: WebUIApi,
        abilities: Abilities,
        catalogue: Catalogue,
        settings: Settings,
        memory: Callable[[], Awaitable[str]],
        options: LineOptions,
    ) -> None:
        self._api = api
        self._abilities = abilities
        self._settings = settings
        self._memory = memory
        self._resting = None if options.shared else False
        self._shared = options.shared and abilities.options
        self._refreshing = anyio.Lock()
        self._refreshed_at = float("-inf")
        self.catalogue = catalogue
        self.loaded = self.default = catalogue.loaded
        self.can_rest = abilities.unload
        self.line = Line(api, abilities, options, self._get_ready)

    @property
    def model(self) -> str:
        """The name of the model that is loaded; empty if the WebUI does not tell."""
        return self.loaded.name if self.loaded is not None else ""

    def generate(self, parameters: Parameters, after: str = "", pieces: int = 0) -> Generation:  # noqa: ARG002 (no text)
        """Return the run of an image job, not begun yet; see :meth:`velesio_worker.engines.base.Engine.generate`."""
        if not isinstance(parameters, ImageParameters):
            raise BadJobError("An image engine runs no text jobs.")
        return ImageGeneration(parameters, partial(self._run, parameters))

    async def _run(self, parameters: ImageParameters) -> AsyncGenerator[Sequence[EngineEvent], None]:
        settable = self._abilities.options
        request = await prepare(parameters, self.catalogue, self._settings, self.refresh, settable=settable)
        async with self.line.place(request) as ticket:
            events: Sequence[EngineEvent] = ()
            while not events or not isinstance(events[-1], Done):
                try:
                    events = await ticket.next()
                except OutOfMemoryError as error:
                    raise with_numbers(error, request, await self._memory()) from None
                yield events

    async def refresh(self) -> Catalogue:
        """Ask the WebUI again what it has; somebody may have put a file there.

        Raises:
            JobError: it does not answer.
        """
        asked_at = anyio.current_time()
        async with self._refreshing:
            if self._refreshed_at < asked_at:  # else somebody who waited as well has done it since
                began = anyio.current_time()
                async with anyio.create_task_group() as group:
                    for route in ("refresh-checkpoints", "refresh-loras", "refresh-vae"):
                        group.start_soon(self._try_post, route)
                with reached():
                    self.catalogue = await read_catalogue(self._api)
                self._refreshed_at = began
        return self.catalogue

    async def _try_post(self, route: str) -> None:
        """Have something looked up again; while an image is made that may take longer than anybody wants to wait."""
        try:
            await self._api.post(route, {})
        except (ConnectionLostError, JobError) as error:
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

    async def exchange(self, spec: Spec) -> None:
        """Load the model that a spec names, once nothing is under way any more: what nobody wants may still be.

        Raises:
            JobError: it cannot be loaded, or the WebUI went away.
        """
        await self.line.idle()
        try:
            with reached():
                await self._load(await self.find(spec.name) if spec.name else self.default)
        except OutOfMemoryError as error:
            said = str(error).rstrip(" .")
            raise OutOfMemoryError(
                f"{said}, when it was to load {spec.name or 'its default model'}; {await self._memory()}. "
                "Choose a smaller model, or start the WebUI with --medvram (SD_ARGS)."
            ) from None

    async def _load(self, model: ImageModel | None) -> None:
        if model is None or model.name == self.model:
            return
        await self._wake()
        await self._set_model(model)
        self.catalogue = await read_catalogue(self._api)
        loaded = self.catalogue.loaded
        if loaded is None or loaded.name != model.name:
            has = "nothing" if loaded is None else repr(loaded.name)
            raise ModelUnavailableError(f"{NAME} was to load {model.name!r} and has {has} loaded.")
        self.loaded = loaded

    async def _set_model(self, model: ImageModel) -> None:
        await self._api.post("options", {"sd_model_checkpoint": model.title}, timeout=_SWITCH_SECONDS)

    async def rest(self) -> None:
        """Take the model out of the GPU's memory once nothing is under way; the next job loads it again.

        Raises:
            JobError: the WebUI refuses, or went away.
        """
        await self.line.idle()
        if self._resting is not True:
            with reached():
                await self._api.post("unload-checkpoint", {}, timeout=_SWITCH_SECONDS)
            self._resting = True
            log.info(f"{NAME}'s model is out of the GPU's memory until it is wanted", action="engine_rests")

    async def _wake(self) -> None:
        """Load the model again if it rests, or if nobody knows: an earlier worker may have left it so."""
        if self._resting is False or not self.can_rest:
            return
        try:
            await self._api.post("reload-checkpoint", {}, timeout=_SWITCH_SECONDS)
        except EngineRefusedError:
            if self._resting:
                raise
        self._resting = False

    async def _get_ready(self) -> str:
        """Have the model in place for the next request; where others use the WebUI they may have chosen another."""
        with reached():
            await self._wake()
            match await self._api.get("options") if self._shared else None:
                case {"sd_model_checkpoint": str(said)}:
                    found = self.catalogue.model(said)
                case _:
                    found = None
            if self.loaded is not None and found is not None and found.name != self.model:
                log.warning(
                    f"somebody else had {NAME} load {found.name}: {self.model} is loaded again", action="model_back"
                )
                await self._set_model(self.loaded)
        return self.model

    async def warm_up(self) -> None:
        """Make a small image: whoever can, is ready. Raises as a :class:`WebUIApi` does."""
        await self._api.post("txt2img", _WARM_UP, timeout=None)

    async def probe(self) -> None:
        """Ask for the models, which shows that the server answers. Raises JobError if it does not."""
        with reached():
            await self._api.get("sd-models")


@dataclass(frozen=True, slots=True)
class ImageGeneration:
    """One job, from its check to its result.

    Attributes:
        parameters: the job's.
        events: see :meth:`velesio_worker.engines.base.Generation.events`.
    """

    parameters: ImageParameters
    events: Callable[[], AsyncGenerator[Sequence[EngineEvent], None]]

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        """Return the end of a job that stops where it is: a half-done image is no result."""
        asked = self.parameters
        names = {"prompt", "negative_prompt", "steps", "width", "height"}
        parameters = {name: value for name, value in asked.given().items() if name in names}
        parameters["seed"] = None if asked.seed == RANDOM else asked.seed
        return Done({"images": [], "parameters": parameters, "info": {}, "finish_reason": finish_reason}, finish_reason)
