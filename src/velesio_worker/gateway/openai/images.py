"""``/v1/images/generations``: images as base64, or as URLs where the workers have a store."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from velesio_worker.gateway.errors import ApiError, reads_results
from velesio_worker.gateway.live import Part
from velesio_worker.gateway.openai.chat import warnings_of
from velesio_worker.gateway.openai.errors import refused
from velesio_worker.gateway.openai.fields import Body, passed_on
from velesio_worker.wire.image_parameters import Txt2ImgParameters

MOST_IMAGES: Final = 10
"""As many as OpenAI makes at once."""

_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})")
_SEEDS: Final = 2**32
_TAKEN: Final = passed_on(Txt2ImgParameters, "prompt", "width", "height", "batch_size", "n_iter")


class ImageBody(Body):
    """The body of a request for images.

    Parameters of the engine (``negative_prompt``, ``steps``, ``sampler_name``, …) go on beside those of OpenAI's API.
    """

    prompt: str
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 1
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    seed: int | None = None
    stream: bool = False

    def parts(self, model: str | None) -> list[Part]:
        """Return the jobs, one for each image: equal ones that wait are made as one batch.

        Raises:
            ApiError: the body asks for what cannot be done.
        """
        if self.stream:
            raise refused("stream", "images are answered whole: leave it out, or follow the job at /jobs.")
        data = self.given(_TAKEN) | {"prompt": self.prompt, "defaults": "engine"} | self._sides()
        if model is not None:
            data["model"] = model
        return [("txt2img", data | self._seed(index)) for index in range(self.n)]

    def _seed(self, index: int) -> dict[str, int]:
        if self.seed is None:
            return {}
        return {"seed": self.seed if self.seed == -1 else (self.seed + index) % _SEEDS}

    def _sides(self) -> dict[str, int]:
        if self.size in {None, "auto"}:
            return {}
        sides = _SIZE.fullmatch(self.size or "")
        if sides is None:
            raise refused("size", "is width and height in pixels, such as 512x768, or auto.")
        return {"width": int(sides[1]), "height": int(sides[2])}


@reads_results
def image_answer(created: int, body: ImageBody, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the images. What lies in a store has a URL, whatever was asked for: the gateway fetches nothing.

    Raises:
        ApiError: a job was cancelled.
    """
    if not all(result.get("images") for result in results):
        raise ApiError(499, "cancelled", "The images were cancelled before their end.")
    answer: dict[str, Any] = {
        "created": created,
        "data": [
            _told(image, stored=bool(result.get("images_stored")), as_url=body.response_format == "url")
            for result in results
            for image in result["images"]
        ],
        "output_format": "png",
    }
    made: dict[str, Any] = results[0].get("parameters") or {}
    if "width" in made and "height" in made:
        answer["size"] = f"{made['width']}x{made['height']}"
    return answer | warnings_of(results)


def _told(image: str, *, stored: bool, as_url: bool) -> dict[str, str]:
    if stored:
        return {"url": image}
    return {"url": f"data:image/png;base64,{image}"} if as_url else {"b64_json": image}
