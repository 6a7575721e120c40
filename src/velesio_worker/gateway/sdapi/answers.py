"""From the results of image jobs to the WebUI's own form of an answer, and of an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from velesio_worker.gateway.errors import ApiError, reads_results
from velesio_worker.gateway.sdapi.fields import ImageRequest, Img2ImgRequest

_FROM_RESULT: Final = ("steps", "cfg_scale", "width", "height", "sampler_name")
"""What the engine decided where the body did not."""

_PICTURES: Final = ("init_images", "mask")


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error in the WebUI's form: ``detail`` is the sentence, and ``errors`` as well, which some read."""
    return {"error": error.code, "detail": error.message, "body": "", "errors": error.message}


@reads_results
def image_answer(request: ImageRequest, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a body.

    Images are bare base64; where the worker keeps large ones in a store, they are the URLs there.

    Args:
        request: the body.
        result: the job's result.
    """
    images: list[str] = result.get("images") or []
    return {
        "images": images if request.send_images else [],
        "parameters": _parameters(request, result.get("parameters") or {}),
        "info": _info(result),
    }


def _parameters(request: ImageRequest, used: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body as it was read; what was left to the engine is what it took."""
    parameters = request.model_dump()
    parameters |= {name: used.get(name) for name in _FROM_RESULT if parameters[name] is None}
    if isinstance(request, Img2ImgRequest) and not request.include_init_images:
        parameters |= dict.fromkeys(_PICTURES)
    return parameters


def _info(result: Mapping[str, Any]) -> str:
    """Return what is to be said of the images, which the WebUI gives as JSON in a string.

    What the engine itself says goes before what the worker knows.
    """
    used: Mapping[str, Any] = result.get("parameters") or {}
    seeds: list[int] = result.get("seeds") or []
    known = {name: used[name] for name in used if name not in {"n_iter", "model"}}
    known |= {"seed": seeds[0] if seeds else used.get("seed"), "all_seeds": seeds}
    known |= {"sd_model_name": used.get("model"), "index_of_first_image": 0}
    known |= {"all_prompts": [used.get("prompt")] * len(seeds)}
    said: Mapping[str, Any] = result.get("info") or {}
    warnings = {"warnings": result["warnings"]} if result.get("warnings") else {}
    return orjson.dumps({**known, **said, **warnings}).decode()
