"""From a job's parameters to what is sent: checked first, since a WebUI replaces what it does not know in silence."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio.to_thread

from velesio_worker.core.settings import Settings
from velesio_worker.engines.webui.catalogue import Catalogue, listed
from velesio_worker.engines.webui.pictures import check_picture
from velesio_worker.wire.errors import BadJobError, OutOfMemoryError
from velesio_worker.wire.image_parameters import RANDOM, ImageParameters, Img2ImgParameters
from velesio_worker.wire.parameters import FETCHED

_LORA: Final = re.compile(r"<lora:([^:>]+)")
_SMUGGLED: Final = re.compile(r"<\s*+/?+\s*+sd_cpp_extra_args", re.IGNORECASE)
"""In a prompt, sd-server takes what stands in this tag for parameters, past every limit. Possessive: a megabyte of
spaces is not to be walked through over and over."""

_LARGEST_DRAWN: Final = 2**31 - 1
"""sd-server takes a larger seed for any seed."""

_MODEL_OPTIONS: Final = frozenset({"sd_model_checkpoint", "sd_checkpoint_hash"})
_VAE: Final = "sd_vae"
_NO_VAE_FILES: Final = frozenset({"Automatic", "None"})
_WHOLE: Final = "a whole number"
_NUMBER: Final = "a number"
_KINDS: Final[tuple[tuple[type, str], ...]] = (
    (bool, "true or false"),
    (int, _WHOLE),
    (float, _NUMBER),
    (str, "a text"),
    (list, "a list"),
    (dict, "an object"),
)
_UNUSUAL: Final = (
    *("override_settings", "subseed_strength", "script_name", "alwayson_scripts"),
    *("mask_blur", "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding", "resize_mode"),
)
"""What a server knows that knows the WebUI's settings, too."""

UNKEPT: Final[dict[str, Any]] = {
    "send_images": True,
    "save_images": False,
    "do_not_save_samples": True,
    "do_not_save_grid": True,
}
"""With these a WebUI sends its images and keeps none."""


def names_in(text: str) -> frozenset[str]:
    """Return the names in a setting that lists some, such as ``SD_SCRIPTS``."""
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
    warnings: tuple[str, ...] = ()

    def body_with(self, seed: int, batch_size: int) -> dict[str, Any]:
        """Return the body of a request that begins with ``seed`` and makes ``batch_size`` images at once."""
        return self.body | {"seed": seed, "batch_size": batch_size}


def draw_seed(images: int) -> int:
    """Draw the first of the seeds of so many images, which follow one another."""
    return random.randrange(_LARGEST_DRAWN - images)  # noqa: S311 (a picture's, no secret's)


async def prepare(
    parameters: ImageParameters,
    catalogue: Catalogue,
    settings: Settings,
    refresh: Callable[[], Awaitable[Catalogue]],
    *,
    settable: bool,
) -> ImageRequest:
    """Check a job against what the WebUI has and what is allowed; returns what is to be sent.

    Args:
        parameters: the job's.
        catalogue: what the WebUI had when it was last asked.
        settings: what is allowed.
        refresh: asks it again; called where something is not found, which somebody may have added.
        settable: whether its settings can be changed; a server where they cannot knows the plain parameters alone.

    Raises:
        BadJobError: the job asks for what there is not, or too much, and what to change.
    """
    _check_limits(parameters, settings)
    _check_allowed(parameters, settings)
    found = None
    with suppress(BadJobError):
        found = _looked_up(parameters, catalogue)
    if found is None or (found[-1] and settable):
        catalogue = await refresh()
        found = _looked_up(parameters, catalogue)
    sampler, scheduler, missing = found
    body = parameters.model_dump(exclude={"model", "seed"}) | UNKEPT | {"sampler_name": sampler, "scheduler": scheduler}
    if parameters.override_settings:
        body["override_settings_restore_afterwards"] = True
    route = "txt2img"
    if isinstance(parameters, Img2ImgParameters):
        route = "img2img"
        body |= await anyio.to_thread.run_sync(_pictures, parameters, settings.sd_max_pixels)
    warnings = [f"The LoRA {name!r} is not known to the WebUI and has no effect." for name in missing if settable]
    if not settable and (names := _without_effect(parameters)):
        warnings.append(f"This image engine does not know {', '.join(names)}: of no effect.")
    if parameters.scheduler is not None and not catalogue.schedulers:
        warnings.append(f"This image engine lists no schedulers: {parameters.scheduler!r} may have had no effect.")
    body = {name: value for name, value in body.items() if value is not None}
    seed = None if parameters.seed == RANDOM else parameters.seed
    return ImageRequest(parameters, route, body, seed, tuple(warnings))


def _looked_up(parameters: ImageParameters, catalogue: Catalogue) -> tuple[str | None, str | None, list[str]]:
    """Return the sampler and the scheduler as the WebUI calls them, None: it chooses; and LoRAs that it has not."""
    check_overrides(parameters.override_settings or {}, catalogue)
    wanted, scheduler = parameters.scheduler, None
    sampler: str | None = parameters.sampler_name
    if catalogue.samplers:
        found = catalogue.sampler(parameters.sampler_name)
        if found is None and "sampler_name" in parameters.model_fields_set:
            known = listed(catalogue.samplers.values())
            raise BadJobError(f"data.sampler_name: no sampler {sampler!r}; there are {known}.")
        sampler, scheduler = found or (None, None)
    if wanted is not None:
        scheduler = catalogue.scheduler(wanted) if catalogue.schedulers else wanted
        if scheduler is None:
            known = listed(set(catalogue.schedulers.values()))
            raise BadJobError(f"data.scheduler: no scheduler {wanted!r}; there are {known}.")
    if catalogue.loras is None:
        return sampler, scheduler, []
    loras = catalogue.loras | catalogue.lora_aliases
    return sampler, scheduler, [name for name in dict.fromkeys(_LORA.findall(parameters.prompt)) if name not in loras]


def _check_limits(parameters: ImageParameters, settings: Settings) -> None:
    if _SMUGGLED.search(parameters.prompt):
        raise BadJobError("data.prompt: <sd_cpp_extra_args> is not allowed: give parameters by their names.")
    pixels, batch, images = parameters.width * parameters.height, parameters.batch_size, parameters.images
    for asked, most, said, remedy in (
        (pixels, settings.sd_max_pixels, f"width x data.height is {pixels} pixels; SD_MAX_PIXELS", " Ask for fewer."),
        (batch, settings.sd_max_batch, f"batch_size is {batch}; SD_MAX_BATCH", " Use n_iter for more."),
        (images, settings.sd_max_images, f"batch_size x data.n_iter is {images} images; SD_MAX_IMAGES", ""),
    ):
        if asked > most:
            raise BadJobError(f"data.{said} allows {most}.{remedy}")
    if isinstance(parameters, Img2ImgParameters) and len(parameters.init_images) > parameters.batch_size:
        raise BadJobError(
            f"data.init_images has {len(parameters.init_images)} images, and batch_size is {batch}: send as many as "
            "batch_size at most."
        )


def _check_allowed(parameters: ImageParameters, settings: Settings) -> None:
    options = parameters.override_settings or {}
    if named := _MODEL_OPTIONS.intersection(options):
        raise BadJobError(f"data.override_settings.{min(named)}: name the model with data.model instead.")
    names = names_in(settings.sd_override_settings)
    allowed = f"allowed are {listed(names)}" if names else "none is"
    for key in options:
        if key not in names:
            raise BadJobError(f"data.override_settings.{key[:80]} is not allowed: {allowed} (SD_OVERRIDE_SETTINGS).")
    names = names_in(settings.sd_scripts)
    allowed = f"allowed are {listed(names)}" if names else "none is"
    scripts = [("script_name", parameters.script_name)] if parameters.script_name else []
    for place, name in (*scripts, *(("alwayson_scripts", name) for name in parameters.alwayson_scripts or {})):
        if name not in names:
            raise BadJobError(f"data.{place}: the script {name[:80]!r} is not allowed: {allowed} (SD_SCRIPTS).")
    for place in ("script_args", "alwayson_scripts"):
        if any(FETCHED.match(text) for text in _texts(getattr(parameters, place))):  # as ControlNet's images are
            raise BadJobError(f"data.{place}: images are taken as base64, never fetched; send no URL.")


def check_overrides(settings: Mapping[str, Any], catalogue: Catalogue) -> None:
    """Check the values of ``override_settings`` against the WebUI's own settings, where it tells them.

    Raises:
        BadJobError: there is no such setting, its value is of another kind, or it names a VAE that there is not.
    """
    for key, value in settings.items():
        if catalogue.options and key not in catalogue.options:
            raise BadJobError(f"data.override_settings.{key[:80]}: the WebUI has no such setting; leave it out.")
        kind, given = _kind(catalogue.options.get(key)), _kind(value)
        if kind not in {None, given} and (kind, given) != (_NUMBER, _WHOLE):
            raise BadJobError(f"data.override_settings.{key[:80]}: give {kind}, as the WebUI has it.")
    vae: object = settings.get(_VAE)
    known_vaes = None if catalogue.vaes is None else catalogue.vaes | _NO_VAE_FILES
    if _VAE in settings and known_vaes is not None and not (isinstance(vae, str) and vae in known_vaes):
        known = listed(known_vaes)
        raise BadJobError(f"data.override_settings.{_VAE}: there is no VAE {str(vae)[:80]!r}; there are {known}.")


def _kind(value: object) -> str | None:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), None)


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


def _without_effect(parameters: ImageParameters) -> list[str]:
    """Name what a job asks for that a server without the WebUI's settings, as sd-server is one, leaves out."""
    names = [name for name in _UNUSUAL if getattr(parameters, name, None)]
    if isinstance(parameters, Img2ImgParameters) and len(parameters.init_images) > 1:
        names.append("init_images after the first")
    if "<lora:" in parameters.prompt:
        names.append("<lora:…> in the prompt")
    return names


def _pictures(parameters: Img2ImgParameters, max_pixels: int) -> dict[str, Any]:
    """Decode the images that came with a job; slow."""
    sent: dict[str, Any] = {
        "init_images": [
            check_picture(picture, name=f"init_images.{number}", max_pixels=max_pixels)
            for number, picture in enumerate(parameters.init_images)
        ]
    }
    if parameters.mask is not None:
        sent["mask"] = check_picture(parameters.mask, name="mask", max_pixels=max_pixels)
    return sent


def with_numbers(error: OutOfMemoryError, request: ImageRequest, memory: str) -> OutOfMemoryError:
    """Return an error for too little memory that says how much was asked for and how much there is."""
    asked, said = request.parameters, str(error).rstrip(" .")
    return OutOfMemoryError(
        f"{said}. {asked.width}x{asked.height} pixels, {asked.batch_size} at once, were asked for; {memory}. "
        "Ask for smaller images or a smaller batch_size, or start the WebUI with --medvram (SD_ARGS)."
    )
