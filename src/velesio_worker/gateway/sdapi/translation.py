"""From the WebUI's bodies to image jobs.

What the worker's jobs do not have is left out where it changes nothing, and goes on where it would change the image:
the worker refuses it by name then, and nobody gets another image than he asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.sdapi.fields import ImageRequest, Img2ImgRequest

CHECKPOINT: Final = "sd_model_checkpoint"

_OURS: Final = frozenset(
    {
        *("send_images", "include_init_images"),  # of the answer
        *("save_images", "do_not_save_samples", "do_not_save_grid", "comments"),  # of files that a WebUI would keep
        *("force_task_id", "override_settings_restore_afterwards"),  # of a WebUI that is one's own
        *("sampler_index", "override_settings", "mask_blur_x", "mask_blur_y"),  # translated
    }
)
"""Fields that are no part of a job as they are."""

_NOTHING: Final[dict[str, Callable[[Any], bool]]] = {
    "seed_resize_from_h": lambda value: value <= 0,
    "seed_resize_from_w": lambda value: value <= 0,
    "s_min_uncond": lambda value: value == 0,
    "mask_round": lambda value: value is True,
    "initial_noise_multiplier": lambda value: value == 1,
}
"""When a field that no worker knows asks for what happens anyway."""

_IF_ANY: Final = frozenset(
    {
        *("sampler_name", "scheduler", "script_name", "script_args", "alwayson_scripts", "infotext", "styles"),
        *("disable_extra_networks", "firstpass_image", "firstphase_width", "firstphase_height", "latent_mask"),
        *("hr_prompt", "hr_negative_prompt", "mask"),
    }
)
"""Fields that ask for nothing where they are empty, 0 or false."""


def job_of(request: ImageRequest) -> tuple[str, dict[str, Any]]:
    """Return the job that a body is, by type and data.

    Raises:
        ApiError: there is no image to begin with.
    """
    data = {"defaults": "engine", "prompt": request.prompt} | _given(request)
    if sampler := request.sampler_name or request.sampler_index:
        data["sampler_name"] = sampler
    data |= _settings(request.override_settings or {})
    if not isinstance(request, Img2ImgRequest):
        return "txt2img", data
    if not request.init_images:
        raise ApiError(404, "invalid_request", "Init image not found", param="init_images")
    return "img2img", data | _blur(request)


def _given(request: ImageRequest) -> dict[str, Any]:
    given = request.model_dump(exclude_unset=True, exclude=set(_OURS))
    return {name: value for name, value in given.items() if not _is_nothing(name, value)}


def _is_nothing(name: str, value: Any) -> bool:  # noqa: ANN401 (any JSON)
    if name in _IF_ANY:
        return not value
    return name in _NOTHING and _NOTHING[name](value)


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what settings for one image are in a job: the model has a parameter of its own."""
    own = {name: value for name, value in settings.items() if value not in (None, [], "")}
    model = own.pop(CHECKPOINT, None)
    if own.get("samples_format") == "png":  # which all images are
        del own["samples_format"]
    found: dict[str, Any] = {"model": model} if model else {}
    return found | ({"override_settings": own} if own else {})


def _blur(request: Img2ImgRequest) -> dict[str, Any]:
    """Return the blur of a mask that a body gives by its two axes."""
    axes = {"mask_blur_x": request.mask_blur_x, "mask_blur_y": request.mask_blur_y}
    given = {name: value for name, value in axes.items() if value is not None}
    if request.mask_blur is not None or not request.mask or not given:
        return {}
    usual = 4  # of an axis that is not given
    across, down = axes["mask_blur_x"] or usual, axes["mask_blur_y"] or usual
    return {"mask_blur": across} if across == down else given
