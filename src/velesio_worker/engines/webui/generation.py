"""One image job on a WebUI, as the rest of the worker sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import CoroutineType
from typing import Any

from velesio_worker.engines.base import Sink
from velesio_worker.engines.webui.loading import Unloadable
from velesio_worker.engines.webui.request import Decode
from velesio_worker.wire.events import Done
from velesio_worker.wire.image_parameters import RANDOM, ImageParameters


@dataclass(frozen=True, slots=True)
class ImageGeneration:
    """One job, from its check to its result.

    Attributes:
        parameters: the job's.
        run: see :meth:`velesio_worker.engines.base.Generation.run`.
    """

    parameters: ImageParameters
    run: Callable[[Sink], CoroutineType[Any, Any, Done]]

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        """Return the end of a job that stops where it is: a half-done image is no result."""
        asked = self.parameters
        names = {"prompt", "negative_prompt", "steps", "width", "height"}
        parameters = {name: value for name, value in asked.given().items() if name in names}
        parameters["seed"] = None if asked.seed == RANDOM else asked.seed
        return Done({"images": [], "parameters": parameters, "info": {}, "finish_reason": finish_reason}, finish_reason)


@dataclass(frozen=True, slots=True)
class Means:
    """What the worker has for an engine.

    Attributes:
        memory: says for people how much memory the GPU has.
        decode: decodes the images that came with a job.
        unloadable: the models that could not be loaded.
    """

    memory: Callable[[], Awaitable[str]]
    decode: Decode
    unloadable: Unloadable
