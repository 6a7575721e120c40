"""What a WebUI is to serve that was started again: the models that were served before, as far as it has them."""

from __future__ import annotations

from velesio_worker.core.logs import get_logger
from velesio_worker.engines.base import Spec
from velesio_worker.engines.webui.catalogue import ImageModel, listed
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.wire.errors import EngineStartError, JobError

log = get_logger(__name__)


async def restore(engine: WebUIEngine, spec: Spec, before: ImageModel | None) -> Spec | None:
    """Have the same model loaded as before: a WebUI that starts again has its own, or the one it had last.

    Args:
        engine: the WebUI.
        spec: what it was started for.
        before: the default model that it had before.

    Returns:
        what is served where it has no such model any more; None if it has.

    Raises:
        EngineStartError: the model cannot be loaded.
    """
    if before is not None:
        engine.default = engine.catalogue.model(before.name) or engine.default
        _say_if_gone(engine, before.name)
    gone = bool(spec.name) and engine.catalogue.model(spec.name) is None
    if gone:
        _say_if_gone(engine, spec.name)
    wanted = ("" if gone else spec.name) or (engine.default.name if engine.default is not None else "")
    if wanted and wanted != engine.model:
        try:
            await engine.exchange(Spec(name=wanted))
        except JobError as error:
            raise EngineStartError(f"The model {wanted} cannot be loaded: {error}") from None
    return Spec() if gone else None


def _say_if_gone(engine: WebUIEngine, name: str) -> None:
    if engine.catalogue.model(name) is None:
        known = listed(model.name for model in engine.catalogue.models) or "none"
        log.warning(
            f"the default image model {name} is not there any more; there are {known}: jobs that ask for none get "
            f"{'what the WebUI has loaded' if engine.default is None else engine.default.name} from now on",
            action="default_gone",
        )
