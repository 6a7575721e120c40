"""Loading a model in a WebUI, and taking it out of the GPU's memory: what it answers to that is not to be believed.

Source of what AUTOMATIC1111 1.10 does: ``modules/sd_models.py``, ``modules/options.py``, ``modules/sd_hijack.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.engines.base import SpoiltError
from velesio_worker.engines.http import ConnectionLostError
from velesio_worker.engines.webui.api import NAME, Abilities, WebUIApi
from velesio_worker.engines.webui.catalogue import Catalogue, ImageModel, read_catalogue
from velesio_worker.wire.errors import EngineRefusedError, JobError, ModelUnavailableError

_SWITCH_SECONDS: Final = 600.0
"""How long a WebUI may take to load another model."""

_AGAIN_SECONDS: Final = 300.0

_CHECKPOINT: Final = "sd_model_checkpoint"
_ATTENTION: Final = "cross_attention_optimization"
_NONE: Final = "None"
_AUTOMATIC: Final = "Automatic"
_UNKNOWN: Final = "not found"
"""What a WebUI says of a title that it does not know; it has done nothing then."""

log = get_logger(__name__)


class Unloadable:
    """The models that could not be loaded: each try costs everybody a start of the WebUI, so none follows at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, object], tuple[float, str]] = {}

    def add(self, model: ImageModel, why: str) -> None:
        """Take note of one."""
        self._known[model.name, _stamp(model)] = anyio.current_time() + _AGAIN_SECONDS, why

    def check(self, model: ImageModel) -> None:
        """Refuse one of those whose file is the same as then, for a while.

        Raises:
            ModelUnavailableError: it is.
        """
        until, why = self._known.get((model.name, _stamp(model)), (0.0, ""))
        if anyio.current_time() < until:
            raise ModelUnavailableError(
                f"{why}; it is tried again once its file has changed, or after {_AGAIN_SECONDS:g} s"
            )


def _stamp(model: ImageModel) -> object:
    """Return what changes with a model's file, as far as that can be seen from here."""
    try:
        facts = Path(model.filename).stat()
    except (OSError, ValueError):
        return None
    return facts.st_size, facts.st_mtime_ns


class Loader:
    """Has a WebUI load models.

    AUTOMATIC1111 that fails to load one answers as if it had, keeps the model before, and has its attention code
    undone: all that it makes from then on comes out different, until a load succeeds or the code is chosen anew. So it
    does where a request has it load a refiner or a hires fix's model; that request fails. A WebUI of the worker's own
    is started again then; in another that code is put back.

    Args:
        api: the WebUI.
        abilities: what it can do.
        shared: whether it is somebody else's.

    Attributes:
        resting: whether its model is out of the GPU's memory; None: an earlier worker may have left it so.
    """

    def __init__(self, api: WebUIApi, abilities: Abilities, *, shared: bool) -> None:
        self._api = api
        self._can_rest = abilities.unload
        self._shared = shared
        self.resting: bool | None = None if shared else False

    async def load(self, model: ImageModel, before: ImageModel | None) -> Catalogue:
        """Load a model where ``before`` is loaded; returns what the WebUI has afterwards. Raises also as an API does.

        Raises:
            EngineRefusedError: it knows no model of this title.
            ModelUnavailableError: the model cannot be loaded.
            SpoiltError: likewise, and the WebUI has to be started again.
        """
        await self.wake()
        try:
            await self._set(model.title)
        except EngineRefusedError as error:
            if _UNKNOWN in str(error):
                raise
            raise await self._failed(str(error), model, before) from None
        catalogue = await read_catalogue(self._api)
        if catalogue.loaded is None or catalogue.loaded.name != model.name:
            has = "nothing" if catalogue.loaded is None else repr(catalogue.loaded.name)
            raise await self._failed(f"{NAME} was to load {model.name!r} and has {has} loaded", model, before)
        return catalogue

    async def _set(self, title: str) -> None:
        await self._api.post("options", {_CHECKPOINT: title}, timeout=_SWITCH_SECONDS)

    async def _failed(self, said: str, model: ImageModel, before: ImageModel | None) -> ModelUnavailableError:
        """Return the error of a load that failed, and put the WebUI right; the worker's own is to be replaced."""
        if not self._shared:
            return SpoiltError(said)
        await self.put_right(said, model, before)
        return ModelUnavailableError(said)

    async def try_all(self, models: Iterable[ImageModel], before: ImageModel | None, unloadable: Unloadable) -> None:
        """Load models one after the other; see :meth:`load`. The first that cannot be loaded is noted."""
        for model in models:
            try:
                await self.load(model, before)
            except SpoiltError as error:
                unloadable.add(model, str(error))
                raise

    async def put_right(self, said: str, failed: ImageModel, before: ImageModel | None) -> None:
        """Have a WebUI as it was before it failed to load a model, or say in the log that it is not."""
        if not await self._put_back(failed, before):
            log.warning(
                f"{said}; its images may be others than before until somebody has it load a model",
                action="model_spoilt",
            )

    async def _put_back(self, failed: ImageModel, before: ImageModel | None) -> bool:
        """Have a WebUI that failed to load a model as it was before; False if that cannot be done."""
        with suppress(JobError):
            if self._can_rest:  # the model before may have been moved out for the one that failed
                await self._api.post("reload-checkpoint", {}, timeout=_SWITCH_SECONDS)
        with suppress(JobError):
            catalogue = await read_catalogue(self._api)
            return await self._choose_anew(catalogue.options) or await self._load_twice(catalogue, failed, before)
        return False

    async def _choose_anew(self, options: Mapping[str, Any]) -> bool:
        """Have the attention code put in place again, by another choice and back; False if that is no choice here."""
        chosen: object = options.get(_ATTENTION)
        if not isinstance(chosen, str):
            return False
        try:
            other = _AUTOMATIC if chosen == _NONE else _NONE
            await self._api.post("options", {_ATTENTION: other}, timeout=_SWITCH_SECONDS)
        except EngineRefusedError:
            return False
        finally:  # whatever happens: it is somebody else's setting
            with anyio.CancelScope(shield=True), suppress(ConnectionLostError, JobError):
                await self._api.post("options", {_ATTENTION: chosen}, timeout=_SWITCH_SECONDS)
        return True

    async def _load_twice(self, catalogue: Catalogue, failed: ImageModel, before: ImageModel | None) -> bool:
        """Have another model loaded, and the one before again: a load that succeeds puts all in place."""
        back = before or catalogue.loaded
        for other in catalogue.models:
            if back is not None and other.name not in {failed.name, back.name}:
                await self._set(other.title)
                await self._set(back.title)
                return True
        return False

    async def rest(self) -> None:
        """Take the model out of the GPU's memory, if it is not. Raises as an API does."""
        if self.resting is not True:
            await self._api.post("unload-checkpoint", {}, timeout=_SWITCH_SECONDS)
            self.resting = True
            log.info(f"{NAME}'s model is out of the GPU's memory until it is wanted", action="engine_rests")

    async def wake(self) -> None:
        """Load the model again if it rests, or if nobody knows. Raises as an API does."""
        if self.resting is False or not self._can_rest:
            return
        try:
            await self._api.post("reload-checkpoint", {}, timeout=_SWITCH_SECONDS)
        except EngineRefusedError:
            if self.resting:
                raise
        self.resting = False


async def look_for_files(api: WebUIApi) -> None:
    """Have a WebUI look for models again; while it makes an image that may take longer than anybody wants to wait."""

    async def look(route: str) -> None:
        try:
            await api.post(route, {})
        except (ConnectionLostError, JobError) as error:
            log.debug(f"{route}: {error}", action="route_refused")

    async with anyio.create_task_group() as group:
        for route in ("refresh-checkpoints", "refresh-loras", "refresh-vae"):
            group.start_soon(look, route)
