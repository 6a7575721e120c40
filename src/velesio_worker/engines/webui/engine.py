"""A WebUI as an engine of image jobs."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import Generation, Sink, Spec
from velesio_worker.engines.http import ConnectionLostError
from velesio_worker.engines.webui.api import NAME, Abilities, WebUIApi, begun_of, is_new, reached
from velesio_worker.engines.webui.catalogue import Catalogue, ImageModel, difference, listed, read_catalogue
from velesio_worker.engines.webui.extras import further_models
from velesio_worker.engines.webui.generation import ImageGeneration, Means
from velesio_worker.engines.webui.line import Line
from velesio_worker.engines.webui.line_options import LineOptions
from velesio_worker.engines.webui.loading import Loader, look_for_files
from velesio_worker.engines.webui.refusals import is_passing
from velesio_worker.engines.webui.request import UNKEPT, ImageRequest, prepare, with_numbers
from velesio_worker.wire.errors import (
    BadJobError,
    EngineRefusedError,
    EngineUnavailableError,
    JobError,
    ModelUnavailableError,
    OutOfMemoryError,
)
from velesio_worker.wire.events import Done, Preparing, Queued
from velesio_worker.wire.image_parameters import ImageParameters, Img2ImgParameters
from velesio_worker.wire.parameters import Parameters

_LOOK_SECONDS: Final = 1.0
"""How old a look at a WebUI that somebody else runs may be for a job; starting one again takes longer."""

_WARM_UP: Final = UNKEPT | {"prompt": "a", "steps": 1, "width": 64, "height": 64, "seed": 1, "cfg_scale": 1.0}

log = get_logger(__name__)


class WebUIEngine:
    """A WebUI that answers.

    Args:
        api: the WebUI.
        abilities: what it can do beside making images.
        catalogue: what it has.
        settings: what jobs may ask for.
        means: what the worker has for it.
        options: how the line before it is kept.

    Attributes:
        catalogue: as above, as it was last asked.
        loaded: the model that is loaded; None if the WebUI does not tell.
        default: the model of jobs that ask for none.
        can_rest: whether it can take its model out of the GPU's memory.
        line: the requests that wait.
        other: why it must be another WebUI by now; empty as long as it is not.
    """

    def __init__(
        self,
        api: WebUIApi,
        abilities: Abilities,
        catalogue: Catalogue,
        settings: Settings,
        means: Means,
        options: LineOptions,
    ) -> None:
        self._api = api
        self._abilities = abilities
        self._settings = settings
        self._means = means
        self._elsewhere = options.shared
        self._shared = options.shared and abilities.options
        self._loader = Loader(api, abilities, shared=options.shared)
        self._refreshing = anyio.Lock()
        self._refreshed_at = float("-inf")
        self._looking = anyio.Lock()
        self._looked_at = anyio.current_time()
        self.other = ""
        self.catalogue = catalogue
        self.loaded = self.default = catalogue.loaded
        self.can_rest = abilities.unload
        self.line = Line(api, abilities, options, self._get_ready, self._put_right)

    @property
    def rests(self) -> bool:
        """Whether its model is out of the GPU's memory."""
        return self._loader.resting is True

    @property
    def has_choice(self) -> bool:
        """Whether it can load another model."""
        return self._abilities.options

    @property
    def _names(self) -> str:
        return listed(model.name for model in self.catalogue.models) or "none"

    @property
    def model(self) -> str:
        """The name of the model that is loaded; empty if the WebUI does not tell."""
        return self.loaded.name if self.loaded is not None else ""

    def generate(self, parameters: Parameters, after: str = "", pieces: int = 0) -> Generation:  # noqa: ARG002 (no text)
        """Return the run of an image job, not begun yet; see :meth:`velesio_worker.engines.base.Engine.generate`."""
        if not isinstance(parameters, ImageParameters):
            raise BadJobError("An image engine runs no text jobs.")
        return ImageGeneration(parameters, partial(self._run, parameters))

    async def _run(self, parameters: ImageParameters, sink: Sink) -> Done:
        settable = self._abilities.options
        await self.look()
        if isinstance(parameters, Img2ImgParameters):
            sink.tell(Preparing())
        request = await prepare(
            parameters, self.catalogue, self._settings, self.refresh, self._means.decode, settable=settable
        )
        for model in further_models(request.body, self.catalogue, self.loaded):
            self._means.unloadable.check(model)
        if isinstance(parameters, Img2ImgParameters):
            sink.tell(Queued())
        async with self.line.place(request) as ticket:
            while True:
                try:
                    events = await ticket.next()
                except OutOfMemoryError as error:
                    raise with_numbers(error, request, await self._means.memory()) from None
                except EngineRefusedError:
                    await self.look(anew=True)  # another WebUI may have refused what this one would have done
                    raise
                for event in events:
                    if isinstance(event, Done):
                        return event
                    sink.tell(event)
                sink.heard()
                await sink.room()

    async def look(self, *, anew: bool = False) -> None:
        """See whether a WebUI that somebody else runs is still the one that it was, and take note of what it has now.

        Nothing is asked while a request of ours is under way, or within a second of the last look; ``anew``: it is all
        the same. Trouble with the asking is no matter: whoever wants something of the WebUI meets it as well.

        Raises:
            EngineUnavailableError: it is another one, and to be met anew.
        """
        if not self._elsewhere or not (anew or self.line.is_idle):
            return
        asked_at = anyio.current_time()
        async with self._looking:
            if self._looked_at < asked_at - (0 if anew else _LOOK_SECONDS):  # else somebody has, since or just before
                self._looked_at = asked_at
                try:
                    await self._see_restart()
                    catalogue = await read_catalogue(self._api)
                except (ConnectionLostError, JobError) as error:
                    if isinstance(error, EngineRefusedError) and not is_passing(error):
                        self.other = f"is another one now: {error}"
                    log.debug(f"{NAME} does not say what it has: {error}", action="look_failed")
                else:
                    self._take(catalogue)
        if self.other:
            raise EngineUnavailableError(f"{NAME} {self.other}.")

    async def _see_restart(self) -> None:
        """Notice a start by the time of the last image, which a WebUI that tells of its progress has forgotten then."""
        if self._abilities.progress:
            state = await self._api.state()
            if self.line.begun and is_new(state):
                self.other = "was started again"
            self.line.begun = begun_of(state) or self.line.begun

    def _take(self, catalogue: Catalogue) -> None:
        """Take note of what the WebUI has; where it must be another one, of that."""
        if self._elsewhere and (why := difference(self.catalogue, catalogue, self.default, self.loaded)):
            self.other = why
            return
        self.catalogue = catalogue
        if self.loaded is None:
            self.loaded = catalogue.loaded
        self.loaded, self.default = catalogue.now(self.loaded), catalogue.now(self.default or self.loaded)

    async def refresh(self) -> Catalogue:
        """Ask the WebUI again what it has; somebody may have put a file there.

        Raises:
            JobError: it does not answer, or is another one.
        """
        asked_at = anyio.current_time()
        async with self._refreshing:
            if self._refreshed_at < asked_at:  # else somebody who waited as well has done it since
                began = anyio.current_time()
                await look_for_files(self._api)
                with reached():
                    self._take(await read_catalogue(self._api))
                self._refreshed_at = began
        if self.other:
            raise EngineUnavailableError(f"{NAME} {self.other}.")
        return self.catalogue

    async def find(self, name: str) -> ImageModel:
        """Return the model that ``name`` means.

        Raises:
            BadJobError: there is none, or it cannot be loaded here.
            JobError: the WebUI does not answer, or is another one.
        """
        await self.look()
        model = self.catalogue.model(name) or (await self.refresh()).model(name)
        if model is None:
            raise BadJobError(f"data.model: there is no image model {name[:80]!r}; there are {self._names}.")
        if not self._abilities.options and model.name != self.model:
            raise BadJobError(
                f"data.model: this worker's image engine has one model, {self.model!r}, and cannot load another."
            )
        return model

    async def exchange(self, spec: Spec) -> None:
        """Load the model that a spec names, once nothing is under way any more: what nobody wants may still be.

        Raises:
            BadJobError: there is no such model.
            SpoiltError: it cannot be loaded, and the WebUI has to be started again.
            JobError: it cannot be loaded, or the WebUI went away.
        """
        await self.line.idle()
        try:
            with reached():
                model = await self.find(spec.name) if spec.name else self.default
                if model is None or model.name == self.model:
                    return
                if not await self._put(model):
                    if spec.name:
                        raise BadJobError(f"data.model: {model.name} is not there any more; there are {self._names}.")
                    self._do_without(model)
        except OutOfMemoryError as error:
            said = str(error).rstrip(" .")
            raise OutOfMemoryError(
                f"{said}, when it was to load {spec.name or 'its default model'}; {await self._means.memory()}. "
                "Choose a smaller model, or start the WebUI with --medvram (SD_ARGS)."
            ) from None

    async def _put(self, model: ImageModel) -> bool:
        """Have a model loaded, whatever it is called by now; False if it is not there any more."""
        try:
            catalogue = await self._loader.load(model, self.loaded)
        except EngineRefusedError:  # its file may have been replaced since, which changes its title
            again = (await self.refresh()).model(model.name)
            if again is None:
                return False
            if again.title == model.title:
                raise
            catalogue = await self._loader.load(again, self.loaded)
        self.loaded = catalogue.loaded
        self._take(catalogue)
        return True

    async def _put_right(self, request: ImageRequest, error: JobError) -> None:
        """Put the WebUI right after a request that failed, maybe since a model that it names cannot be loaded.

        That spoils it as :class:`Loader` tells, and no answer says so. In a WebUI of the worker's own the models are
        tried: a load that succeeds puts all in place, too. Somebody else's is not made to load others for that.

        Raises:
            SpoiltError: it cannot, and the WebUI has to be started again.
            JobError: the WebUI does not answer, or refuses.
        """
        models, memory = further_models(request.body, self.catalogue, self.loaded), isinstance(error, OutOfMemoryError)
        if models and self._elsewhere and (memory or is_passing(error)):
            await self._loader.put_right(str(error), models[0], self.loaded)
        elif models and is_passing(error):  # out of memory, another takes its place anyway
            await self._loader.try_all(models, self.loaded, self._means.unloadable)
            if self.loaded is not None:
                await self._put(self.loaded)

    def _do_without(self, model: ImageModel) -> None:
        """Have jobs that ask for no model get what is loaded, since the default model is not there any more.

        Raises:
            ModelUnavailableError: nothing is.
        """
        gone = f"the default image model {model.name} is not there any more; there are {self._names}"
        if self.loaded is None or self.catalogue.model(self.loaded.name) is None:
            raise ModelUnavailableError(gone)
        log.warning(f"{gone}: jobs that ask for none get {self.model} from now on", action="default_gone")
        self.default = self.loaded

    async def rest(self) -> None:
        """Take the model out of the GPU's memory once nothing is under way; the next job loads it again.

        Raises:
            JobError: the WebUI refuses, or went away.
        """
        await self.line.idle()
        with reached():
            await self._loader.rest()

    async def _get_ready(self) -> str:
        """Have the model in place for the next request; where others use the WebUI they may have chosen another."""
        with reached():
            await self._loader.wake()
            match await self._api.get("options") if self._shared else None:
                case {"sd_model_checkpoint": str(said)}:
                    found = self.catalogue.model(said)
                case _:
                    found = None
            if self.loaded is not None and found is not None and found.name != self.model:
                log.warning(
                    f"{NAME} has {found.name} loaded, and not {self.model} as this worker left it: "
                    f"{self.model} is loaded again",
                    action="model_back",
                )
                if not await self._put(self.loaded):
                    text = f"The image model {self.model} is not there any more; there are {self._names}."
                    raise ModelUnavailableError(text)
        return self.model

    async def warm_up(self) -> None:
        """Make a small image: whoever can, is ready. Raises as a :class:`WebUIApi` does."""
        await self._api.post("txt2img", _WARM_UP, timeout=None)

    async def works(self) -> None:
        """Make a small image, however long that takes; a refusal, too, is work. Raises JobError if it goes away."""
        with reached(), suppress(EngineRefusedError, OutOfMemoryError):
            await self.warm_up()

    async def probe(self) -> None:
        """Ask for the models, which shows that the server answers. Raises JobError if it does not, or is another."""
        with reached():
            await self._api.get("sd-models")
        await self.look(anew=True)
