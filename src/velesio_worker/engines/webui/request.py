"""From a job's parameters to what is sent: checked first, since a WebUI replaces what it does not know in silence."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio.to_thread

from velesio_worker.core.settings import Settings
from velesio_worker.engines.webui.catalogue import Catalogue, listed
from velesio_worker.engines.webui.extras import check_overrides, check_scripts, without_effect
from velesio_worker.engines.webui.pictures import check_picture
from velesio_worker.wire.errors import BadJobError, JobError
from velesio_worker.wire.image_parameters import RANDOM, ImageParameters, Img2ImgParameters

_LORA: Final = re.compile(r"<lora:([^:>]+)")
_SMUGGLED: Final = re.compile(r"<\s*+/?+\s*+sd_cpp_extra_args", re.IGNORECASE)
"""In a prompt, sd-server takes what stands in this tag for parameters, past every limit. Possessive: a megabyte of
spaces is not to be walked through over and over."""

_LARGEST_DRAWN: Final = 2**31 - 1
"""sd-server takes a larger seed for any seed."""

_MODEL_OPTIONS: Final = frozenset({"sd_model_checkpoint", "sd_checkpoint_hash"})
_KNOWN: Final = frozenset(
    {"prompt", "negative_prompt", "width", "height", "steps", "cfg_scale", "batch_size", "n_iter"}
)
_MORE: Final = frozenset(
    {
        *("subseed", "subseed_strength", "denoising_strength", "mask_blur", "inpainting_fill", "inpaint_full_res"),
        *("inpainting_mask_invert", "inpaint_full_res_padding", "resize_mode"),
        *("script_name", "script_args", "alwayson_scripts"),
    }
)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What image jobs may ask for; see the settings of the same names.

    Attributes:
        pixels: of an image, made or sent.
        batch: images made at once.
        images: of one job.
        options: keys of ``override_settings``.
        scripts: names of scripts.
    """

    pixels: int
    batch: int
    images: int
    options: frozenset[str]
    scripts: frozenset[str]


def limits_of(settings: Settings) -> ImageLimits:
    """Return the limits that the settings set."""
    return ImageLimits(
        settings.sd_max_pixels,
        settings.sd_max_batch,
        settings.sd_max_images,
        _names(settings.sd_override_settings),
        _names(settings.sd_scripts),
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name for part in text.split(",") if (name := part.strip()))


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What one job asks of a WebUI.

    Attributes:
        parameters: the job's.
        route: ``txt2img`` or ``img2img``.
        body: the request's, but for seed and batch size.
        seed: the seed that the job gave; None: any.
        warnings: what the WebUI will not do as it was asked.
    """

    parameters: ImageParameters
    route: str
    body: dict[str, Any]
    seed: int | None
    warnings: tuple[str, ...] = field(default=())

    def body_with(self, seed: int, batch_size: int) -> dict[str, Any]:
        """Return the body of a request that begins with ``seed`` and makes ``batch_size`` images at once."""
        return self.body | {"seed": seed, "batch_size": batch_size}


def draw_seed(images: int) -> int:
    """Draw the first of the seeds of so many images, which follow one another."""
    return random.randrange(_LARGEST_DRAWN - images)  # noqa: S311 (a picture's, no secret's)


async def prepare(
    parameters: ImageParameters,
    catalogue: Catalogue,
    limits: ImageLimits,
    refresh: Callable[[], Awaitable[Catalogue]],
    *,
    settable: bool = True,
) -> ImageRequest:
    """Check a job against what the WebUI has and what is allowed; returns what is to be sent.

    Args:
        parameters: the job's.
        catalogue: what the WebUI had when it was last asked.
        limits: what is allowed.
        refresh: asks it again; called where something is not found, which somebody may have added.
        settable: whether its settings can be changed; a server where they cannot knows the plain parameters alone.

    Raises:
        BadJobError: the job asks for what there is not, or too much, and what to change.
    """
    _check_limits(parameters, limits)
    try:
        sampler, scheduler = _checked(parameters, catalogue)
        missing = _missing_loras(parameters.prompt, catalogue)
    except BadJobError:
        catalogue = await refresh()
        sampler, scheduler = _checked(parameters, catalogue)
        missing = _missing_loras(parameters.prompt, catalogue)
    else:
        if missing and settable:
            missing = _missing_loras(parameters.prompt, await refresh())
    body = parameters.model_dump(include={*_KNOWN, *_MORE}, exclude_none=True)
    body |= {name: value for name, value in (("sampler_name", sampler), ("scheduler", scheduler)) if value is not None}
    body |= {"send_images": True, "save_images": False, "do_not_save_samples": True, "do_not_save_grid": True}
    if parameters.override_settings:
        body |= {"override_settings": parameters.override_settings, "override_settings_restore_afterwards": True}
    route = "txt2img"
    if isinstance(parameters, Img2ImgParameters):
        route = "img2img"
        body |= await anyio.to_thread.run_sync(_pictures, parameters, limits.pixels)
    warnings = [f"The LoRA {name!r} is not known to the WebUI and has no effect." for name in missing if settable]
    if not settable and (names := without_effect(parameters)):
        warnings.append(f"This image engine does not know {', '.join(names)}: of no effect.")
    if parameters.scheduler is not None and not catalogue.schedulers:
        warnings.append(f"This image engine lists no schedulers: {parameters.scheduler!r} may have had no effect.")
    return ImageRequest(
        parameters, route, body, None if parameters.seed == RANDOM else parameters.seed, tuple(warnings)
    )


def _checked(parameters: ImageParameters, catalogue: Catalogue) -> tuple[str | None, str | None]:
    check_overrides(parameters.override_settings or {}, catalogue)
    return _sampling(parameters, catalogue)


def _check_limits(parameters: ImageParameters, limits: ImageLimits) -> None:
    if _SMUGGLED.search(parameters.prompt):
        raise BadJobError("data.prompt: <sd_cpp_extra_args> is not allowed: give parameters by their names.")
    pixels = parameters.width * parameters.height
    if pixels > limits.pixels:
        raise BadJobError(
            f"data.width x data.height is {pixels} pixels; SD_MAX_PIXELS allows {limits.pixels}. Ask for fewer."
        )
    if parameters.batch_size > limits.batch:
        raise BadJobError(
            f"data.batch_size is {parameters.batch_size}; SD_MAX_BATCH allows {limits.batch}. Use n_iter for more."
        )
    if parameters.images > limits.images:
        raise BadJobError(
            f"data.batch_size x data.n_iter is {parameters.images} images; SD_MAX_IMAGES allows {limits.images}."
        )
    _check_allowed(parameters, limits)
    if isinstance(parameters, Img2ImgParameters) and len(parameters.init_images) > parameters.batch_size:
        raise BadJobError(
            f"data.init_images has {len(parameters.init_images)} images, and batch_size is {parameters.batch_size}: "
            "send as many as batch_size at most."
        )


def _check_allowed(parameters: ImageParameters, limits: ImageLimits) -> None:
    options = parameters.override_settings or {}
    if named := _MODEL_OPTIONS.intersection(options):
        raise BadJobError(f"data.override_settings.{min(named)}: name the model with data.model instead.")
    for key in options:
        if key not in limits.options:
            allowed = f"allowed are {listed(limits.options)}" if limits.options else "none is"
            raise BadJobError(f"data.override_settings.{key[:80]} is not allowed: {allowed} (SD_OVERRIDE_SETTINGS).")
    scripts = [("script_name", parameters.script_name)] if parameters.script_name else []
    for place, name in (*scripts, *(("alwayson_scripts", name) for name in parameters.alwayson_scripts or {})):
        if name not in limits.scripts:
            allowed = f"allowed are {listed(limits.scripts)}" if limits.scripts else "none is"
            raise BadJobError(f"data.{place}: the script {name[:80]!r} is not allowed: {allowed} (SD_SCRIPTS).")
    check_scripts(parameters)


def _sampling(parameters: ImageParameters, catalogue: Catalogue) -> tuple[str | None, str | None]:
    """Return the sampler and the scheduler as the WebUI calls them; None: it chooses."""
    name, wanted = parameters.sampler_name, parameters.scheduler
    sampler: str | None = name
    scheduler: str | None = None
    if catalogue.samplers:
        found = catalogue.sampler(name)
        if found is not None:
            sampler, scheduler = found
        elif "sampler_name" in parameters.model_fields_set:
            raise BadJobError(
                f"data.sampler_name: no sampler {name!r}; there are {listed(catalogue.samplers.values())}."
            )
        else:
            sampler = None
    if wanted is not None and catalogue.schedulers:
        scheduler = catalogue.scheduler(wanted)
        if scheduler is None:
            known = listed(set(catalogue.schedulers.values()))
            raise BadJobError(f"data.scheduler: no scheduler {wanted!r}; there are {known}.")
    return sampler, scheduler if wanted is None or catalogue.schedulers else wanted


def _missing_loras(prompt: str, catalogue: Catalogue) -> list[str]:
    if catalogue.loras is None:
        return []
    named = dict.fromkeys(_LORA.findall(prompt))
    return [name for name in named if name not in catalogue.loras and name not in catalogue.lora_aliases]


def _pictures(parameters: Img2ImgParameters, max_pixels: int) -> dict[str, Any]:
    """Decode the images that came with a job; slow."""
    names = [f"init_images.{number}" for number in range(len(parameters.init_images))]
    pictures = zip(parameters.init_images, names, strict=True)
    sent: dict[str, Any] = {
        "init_images": [check_picture(picture, name=name, max_pixels=max_pixels) for picture, name in pictures]
    }
    if parameters.mask is not None:
        sent["mask"] = check_picture(parameters.mask, name="mask", max_pixels=max_pixels)
    return sent


def with_numbers(error: JobError, request: ImageRequest, memory: str) -> JobError:
    """Return an error for too little memory that says how much was asked for and how much there is."""
    asked, said = request.parameters, str(error).rstrip(" .")
    return type(error)(
        f"{said}. {asked.width}x{asked.height} pixels, {asked.batch_size} at once, were asked for; {memory}. "
        "Ask for smaller images or a smaller batch_size, or start the WebUI with --medvram (SD_ARGS)."
    )
