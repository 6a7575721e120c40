"""From a job's parameters to what is sent: checked first, since a WebUI replaces what it does not know in silence."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from velesio_worker.core.settings import Settings
from velesio_worker.engines.webui.catalogue import Catalogue, listed
from velesio_worker.engines.webui.extras import NAMES, extras, told_of
from velesio_worker.engines.webui.limits import check_allowed, check_limits, most_pixels
from velesio_worker.engines.webui.networks import kinds_in, unknown, warnings_of
from velesio_worker.wire.errors import BadJobError, OutOfMemoryError
from velesio_worker.wire.image_parameters import RANDOM, ImageParameters, Img2ImgParameters, Txt2ImgParameters

_WEBUI_STEPS: Final = 50
"""What a WebUI takes for ``steps`` where a job leaves that to it."""

_LARGEST_DRAWN: Final = 2**31 - 1
"""sd-server takes a larger seed for any seed."""

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


Decode = Callable[[Sequence[tuple[str, str]]], Awaitable[list[str]]]
"""See :meth:`velesio_worker.engines.webui.decoding.PictureDecoder.check`."""


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What one job asks of a WebUI.

    Attributes:
        parameters: the job's.
        route: ``txt2img`` or ``img2img``.
        body: the request's, but for seed and batch size.
        seed: the seed that the job gave; None: any.
        most_pixels: how many pixels an image of it may have, on its way and in the end.
        warnings: what the WebUI will not do as it was asked.
    """

    parameters: ImageParameters
    route: str
    body: dict[str, Any]
    seed: int | None
    most_pixels: int
    warnings: tuple[str, ...] = ()

    def body_with(self, seed: int, batch_size: int) -> dict[str, Any]:
        """Return the body of a request that begins with ``seed`` and makes ``batch_size`` images at once."""
        return self.body | {"seed": seed, "batch_size": batch_size}

    @property
    def steps(self) -> int:
        """The steps of one image, those of its second pass among them."""
        asked = self.parameters
        first = asked.steps if asked.decides("steps") else _WEBUI_STEPS
        if not isinstance(asked, Txt2ImgParameters) or not asked.enable_hr:
            return first
        return first + (asked.hr_second_pass_steps or first)


def draw_seed(images: int) -> int:
    """Draw the first of the seeds of so many images, which follow one another."""
    return random.randrange(_LARGEST_DRAWN - images)  # noqa: S311 (a picture's, no secret's)


async def prepare(
    parameters: ImageParameters,
    catalogue: Catalogue,
    settings: Settings,
    refresh: Callable[[], Awaitable[Catalogue]],
    decode: Decode,
    *,
    settable: bool,
) -> ImageRequest:
    """Check a job against what the WebUI has and what is allowed; returns what is to be sent.

    Args:
        parameters: the job's.
        catalogue: what the WebUI had when it was last asked.
        settings: what is allowed.
        refresh: asks it again; called where something is not found, which somebody may have added.
        decode: decodes the images that came with the job, as a :class:`PictureDecoder` does.
        settable: whether its settings can be changed; a server where they cannot knows the plain parameters alone.

    Raises:
        BadJobError: the job asks for what there is not, or too much, and what to change.
    """
    check_limits(parameters, settings)
    check_allowed(parameters, settings)
    found = None
    with suppress(BadJobError):
        found = _looked_up(parameters, catalogue, settable=settable)
    if found is None or (settable and unknown(_prompts(parameters), catalogue)):
        catalogue = await refresh()
        found = _looked_up(parameters, catalogue, settable=settable)
    elsewhere = {*NAMES, "seed", "sampler_name", "scheduler"}
    if isinstance(parameters, Txt2ImgParameters):
        elsewhere.add("denoising_strength")  # a hires fix's
    body = parameters.given(*elsewhere) | UNKEPT | found
    if parameters.override_settings:
        body["override_settings_restore_afterwards"] = True
    route = "txt2img"
    if isinstance(parameters, Img2ImgParameters):
        route = "img2img"
        body |= await _pictures(parameters, decode)
    seed = None if parameters.seed == RANDOM else parameters.seed
    warnings = tuple(_warnings(parameters, catalogue, settable=settable))
    return ImageRequest(parameters, route, body, seed, most_pixels(parameters, settings), warnings)


def _prompts(parameters: ImageParameters) -> str:
    """Return the prompts whose tags are obeyed."""
    second = parameters.hr_prompt if isinstance(parameters, Txt2ImgParameters) and parameters.enable_hr else None
    return f"{parameters.prompt}\n{second}" if second else parameters.prompt


def _warnings(parameters: ImageParameters, catalogue: Catalogue, *, settable: bool) -> list[str]:
    warnings = told_of(parameters, catalogue)
    if settable:
        warnings += warnings_of(_prompts(parameters), parameters.negative_prompt, catalogue)
    elif names := _without_effect(parameters):
        warnings.append(f"This image engine does not know {', '.join(names)}: of no effect.")
    if parameters.scheduler is not None and not catalogue.schedulers:
        warnings.append(f"This image engine lists no schedulers: {parameters.scheduler!r} may have had no effect.")
    return warnings


def _looked_up(parameters: ImageParameters, catalogue: Catalogue, *, settable: bool) -> dict[str, Any]:
    """Return the part of a request that names what the WebUI has, as it calls it."""
    check_overrides(parameters.override_settings or {}, catalogue)
    named = {"sampler_name", "scheduler"} & parameters.given().keys()
    sampler, scheduler = _sampling(parameters, catalogue)
    body = extras(parameters, catalogue, settable=settable)
    if named:  # else the engine's own defaults are asked for
        label = catalogue.label(scheduler) if settable else scheduler  # AUTOMATIC1111 warns in its log of all else
        body |= {name: value for name, value in (("sampler_name", sampler), ("scheduler", label)) if value is not None}
    return body


def _sampling(parameters: ImageParameters, catalogue: Catalogue) -> tuple[str | None, str | None]:
    """Return the sampler and the scheduler as the WebUI calls them, None: it chooses."""
    wanted, scheduler = parameters.scheduler, None
    sampler: str | None = parameters.given().get("sampler_name")
    if sampler is not None and catalogue.samplers:
        found = catalogue.sampler(sampler)
        if found is None and "sampler_name" in parameters.model_fields_set:
            known = listed(set(catalogue.samplers.values()))
            raise BadJobError(f"data.sampler_name: no sampler {sampler!r}; there are {known}.")
        sampler, scheduler = found or (None, None)
    if wanted is not None:
        scheduler = catalogue.scheduler(wanted) if catalogue.schedulers else wanted
        if scheduler is None:
            known = listed(set(catalogue.schedulers.values()))
            raise BadJobError(f"data.scheduler: no scheduler {wanted!r}; there are {known}.")
    return sampler, scheduler


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


def _without_effect(parameters: ImageParameters) -> list[str]:
    """Name what a job asks for that a server without the WebUI's settings, as sd-server is one, leaves out."""
    names = [name for name in _UNUSUAL if getattr(parameters, name, None)]
    if isinstance(parameters, Img2ImgParameters) and len(parameters.init_images) > 1:
        names.append("init_images after the first")
    return names + [f"<{kind}:…> in the prompt" for kind in kinds_in(parameters.prompt)]


async def _pictures(parameters: Img2ImgParameters, decode: Decode) -> dict[str, Any]:
    """Have the images decoded that came with a job."""
    pictures = [(f"init_images.{number}", picture) for number, picture in enumerate(parameters.init_images)]
    if parameters.mask is not None:
        pictures.append(("mask", parameters.mask))
    checked = await decode(pictures)
    count = len(parameters.init_images)
    sent: dict[str, Any] = {"init_images": checked[:count]}
    return sent if parameters.mask is None else sent | {"mask": checked[count]}


def with_numbers(error: OutOfMemoryError, request: ImageRequest, memory: str) -> OutOfMemoryError:
    """Return an error for too little memory that says how much was asked for and how much there is."""
    asked, said = request.parameters, str(error).rstrip(" .")
    width, height = asked.final_size
    return OutOfMemoryError(
        f"{said}. {width}x{height} pixels, {asked.batch_size} at once, were asked for; {memory}. "
        "Ask for smaller images or a smaller batch_size, or start the WebUI with --medvram (SD_ARGS)."
    )
