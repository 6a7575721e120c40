"""How much a job may ask of a WebUI, and which of its settings and scripts it may use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, cast

from velesio_worker.core.settings import Settings
from velesio_worker.engines.webui.catalogue import listed
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.image_parameters import ImageParameters, Img2ImgParameters, Txt2ImgParameters
from velesio_worker.wire.parameters import FETCHED
from velesio_worker.wire.prompt_syntax import check_prompt

_SMUGGLED: Final = re.compile(r"<\s*+/?+\s*+sd_cpp_extra_args", re.IGNORECASE)
"""In a prompt, sd-server takes what stands in this tag for parameters, past every limit. Possessive: a megabyte of
spaces is not to be walked through over and over."""

_MODEL_OPTIONS: Final = frozenset({"sd_model_checkpoint", "sd_checkpoint_hash"})
_BUILT_IN: Final = {
    "refiner": "refiner_checkpoint and refiner_switch_at",
    "sampler": "steps, sampler_name and scheduler",
    "seed": "seed, subseed and subseed_strength",
}
"""Scripts that a WebUI lists and asks its own pages alone, with the parameters that do the same."""

_LEAST_SIDE: Final = 64
_CUT_FROM: Final = 2
"""How many times SD_MAX_PIXELS a hires fix may work on, before what is too much on one side is cut off."""


_ROOM: Final = 4
"""How many times SD_MAX_PIXELS an image from a WebUI may have: sizes are rounded, and its own settings may enlarge."""


def names_in(text: str) -> frozenset[str]:
    """Return the names in a setting that lists some, such as ``SD_SCRIPTS``."""
    return frozenset(name for part in text.split(",") if (name := part.strip()))


def check_limits(parameters: ImageParameters, settings: Settings) -> None:
    """Check how much a job asks for. Raises BadJobError: too much, and what to change."""
    if _SMUGGLED.search(parameters.prompt):
        raise BadJobError("data.prompt: <sd_cpp_extra_args> is not allowed: give parameters by their names.")
    pixels, batch, images = parameters.width * parameters.height, parameters.batch_size, parameters.images
    _check_final_size(parameters, settings.sd_max_pixels)
    for asked, most, said, remedy in (
        (pixels, settings.sd_max_pixels, f"width x data.height is {pixels} pixels; SD_MAX_PIXELS", " Ask for fewer."),
        (batch, settings.sd_max_batch, f"batch_size is {batch}; SD_MAX_BATCH", " Use n_iter for more."),
        (images, settings.sd_max_images, f"batch_size x data.n_iter is {images} images; SD_MAX_IMAGES", ""),
    ):
        if asked > most:
            raise BadJobError(f"data.{said} allows {most}.{remedy}")
    if isinstance(parameters, Img2ImgParameters) and len(parameters.init_images) not in {1, batch}:
        raise BadJobError(
            f"data.init_images has {len(parameters.init_images)} images, and batch_size is {batch}: send one, or as "
            "many as batch_size."
        )


def most_pixels(parameters: ImageParameters, settings: Settings) -> int:
    """Return how many pixels a WebUI's image for a job may have; scripts make grids of all their images."""
    return _ROOM * settings.sd_max_pixels * (settings.sd_max_images if parameters.script_name else 1)


def _check_final_size(parameters: ImageParameters, most: int) -> None:
    """Check what a hires fix makes of an image."""
    if not isinstance(parameters, Txt2ImgParameters) or not parameters.enable_hr:
        return
    (width, height), (wide, high) = parameters.final_size, parameters.enlarged
    names = (
        "data.hr_resize_x x data.hr_resize_y" if parameters.hr_resize_x or parameters.hr_resize_y else "data.hr_scale"
    )
    if min(width, height) < _LEAST_SIDE:
        raise BadJobError(f"{names}: the images would have {width}x{height} pixels; a side has {_LEAST_SIDE} or more.")
    if width * height > most:
        raise BadJobError(
            f"{names}: the images would have {width}x{height}, {width * height} pixels; SD_MAX_PIXELS allows {most}. "
            "Ask for fewer."
        )
    if wide * high > _CUT_FROM * most:
        raise BadJobError(
            f"{names}: {wide}x{high} pixels would be made and {width}x{height} of them kept; SD_MAX_PIXELS is {most}. "
            "Ask for a shape that is nearer to data.width x data.height."
        )


def check_allowed(parameters: ImageParameters, settings: Settings) -> None:
    """Check a job's settings and scripts against those that are allowed. Raises BadJobError: some are not."""
    options = parameters.override_settings or {}
    if named := _MODEL_OPTIONS.intersection(options):
        raise BadJobError(f"data.override_settings.{min(named)}: name the model with data.model instead.")
    names = names_in(settings.sd_override_settings)
    allowed = f"allowed are {listed(names)}" if names else "none is"
    for key in options:
        if key not in names:
            raise BadJobError(f"data.override_settings.{key[:80]} is not allowed: {allowed} (SD_OVERRIDE_SETTINGS).")
    _check_scripts(parameters, settings)


def _check_scripts(parameters: ImageParameters, settings: Settings) -> None:
    for name in parameters.alwayson_scripts or {}:
        if (instead := _BUILT_IN.get(name.lower())) is not None:
            raise BadJobError(f"data.alwayson_scripts.{name}: the WebUI takes that of its pages alone; use {instead}.")
    names = names_in(settings.sd_scripts)
    allowed = f"allowed are {listed(names)}" if names else "none is"
    scripts = [("script_name", parameters.script_name)] if parameters.script_name else []
    for place, name in (*scripts, *(("alwayson_scripts", name) for name in parameters.alwayson_scripts or {})):
        if name not in names:
            raise BadJobError(f"data.{place}: the script {name[:80]!r} is not allowed: {allowed} (SD_SCRIPTS).")
    _check_arguments(parameters)


def _check_arguments(parameters: ImageParameters) -> None:
    for line in (line for text in _texts(parameters.script_args) for line in text.splitlines()):
        try:
            check_prompt(line)  # there are scripts that make prompts of them
        except ValueError as error:
            raise BadJobError(f"data.script_args: a line {error}.") from None
    for place in ("script_args", "alwayson_scripts"):
        if any(FETCHED.match(text) for text in _texts(getattr(parameters, place))):  # as ControlNet's images are
            raise BadJobError(f"data.{place}: images are taken as base64, never fetched; send no URL.")


def _texts(value: object) -> Iterator[str]:
    """Walk through all texts in a JSON value; a loop, since it may be deep."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            waiting += cast("list[object]", one)
        elif isinstance(one, dict):
            waiting += cast("dict[str, object]", one).values()
