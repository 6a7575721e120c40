"""What a WebUI can do beside a plain image: hires fix, refiner, styles, tiling, faces, the samplers' own numbers.

Values of no effect are taken from everybody and sent to nobody. Others are checked against what the WebUI has, and
refused by name where it has none of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from velesio_worker.engines.webui.catalogue import Catalogue, ImageModel, listed, plain
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.image_parameters import HIRES_STRENGTH, REFINED_FROM, ImageParameters, Txt2ImgParameters

HIRES: Final = (
    *("enable_hr", "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y"),
    *("hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt"),
)
_REFINER: Final = ("refiner_checkpoint", "refiner_switch_at")
_CHECKPOINTS: Final = ("refiner_checkpoint", "hr_checkpoint_name")
"""The parameters that have a WebUI load another model in the midst of an image."""

_NO_EFFECT: Final[dict[str, tuple[object, ...]]] = {
    "tiling": (False,),
    "restore_faces": (False,),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_tmax": (0,),
    "s_noise": (1,),
}
"""The values that are what a WebUI does unasked. They are sent where it knows the names, since it may be set to others.
"""

ETA: Final = "eta"
NAMES: Final = (*HIRES, *_REFINER, *_NO_EFFECT, ETA, "styles")
"""All parameters that are looked after here."""

_NO_NAME: Final = frozenset({"", "none"})
_SAME: Final = "use same "
"""How a WebUI's pages name the choice that changes nothing: ``Use same sampler``."""


def _named(name: str | None) -> str | None:
    """Return a name, or None for a text that names nothing."""
    if name is None or name.strip().lower() in _NO_NAME or name.strip().lower().startswith(_SAME):
        return None
    return name


def extras(parameters: ImageParameters, catalogue: Catalogue, *, settable: bool) -> dict[str, Any]:
    """Return the part of a request that asks for them.

    Args:
        parameters: the job's.
        catalogue: what the WebUI has.
        settable: whether it is one whose settings can be changed; others know none of this.

    Raises:
        BadJobError: the WebUI does not have what is asked for.
    """
    body = _hires(parameters, catalogue, settable=settable)
    body |= _refiner(parameters, catalogue, settable=settable) | _styles(parameters, catalogue, settable=settable)
    for name, without in _NO_EFFECT.items():
        value: object = getattr(parameters, name)
        if value is None:
            continue
        if not settable and value not in without:
            raise _absent(name, "does not know it; leave it out")
        if settable:
            body[name] = value
    if parameters.eta is not None:
        if not settable and parameters.eta not in {0, 1}:
            raise _absent(ETA, "does not know it; leave it out")
        if settable:
            body[ETA] = parameters.eta
    restorers = catalogue.face_restorers
    if parameters.restore_faces and restorers is not None and not restorers:
        raise _absent("restore_faces", "has no face restoration model")
    return body


def further_models(body: Mapping[str, Any], catalogue: Catalogue, loaded: ImageModel | None) -> list[ImageModel]:
    """Return the models beside the loaded one that a request has the WebUI load in the midst of it."""
    titles = {body[name] for name in _CHECKPOINTS if name in body}
    found = [model for title in titles if (model := catalogue.model(title)) is not None]
    return [model for model in found if loaded is None or model.name != loaded.name]


def _absent(name: str, why: str) -> BadJobError:
    return BadJobError(f"data.{name}: this image engine {why}.")


def _hires(asked: ImageParameters, catalogue: Catalogue, *, settable: bool) -> dict[str, Any]:
    if not asked.enable_hr:
        return {}
    if not isinstance(asked, Txt2ImgParameters):
        raise BadJobError("data.enable_hr: a hires fix is txt2img's alone; ask for the size with width and height.")
    if not settable or catalogue.upscalers is None:
        raise _absent("enable_hr", "has no hires fix; ask for the size with width and height")
    sizes = {name: getattr(asked, name) for name in ("hr_scale", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y")}
    upscaler: str | None = asked.hr_upscaler or None
    if upscaler is not None and (upscaler := catalogue.upscalers.get(plain(upscaler))) is None:
        raise _unknown("hr_upscaler", "upscaler", asked.hr_upscaler, catalogue.upscalers.values())
    sampler, scheduler = _second_pass(asked, catalogue)
    body = sizes | {
        "enable_hr": True,
        "denoising_strength": HIRES_STRENGTH if asked.denoising_strength is None else asked.denoising_strength,
        "hr_upscaler": upscaler,
        "hr_checkpoint_name": _checkpoint("hr_checkpoint_name", asked.hr_checkpoint_name, catalogue),
        "hr_sampler_name": sampler,
        "hr_scheduler": scheduler,
        "hr_prompt": asked.hr_prompt or None,
        "hr_negative_prompt": asked.hr_negative_prompt or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _second_pass(asked: Txt2ImgParameters, catalogue: Catalogue) -> tuple[str | None, str | None]:
    """Return sampler and scheduler of the second pass, None: those of the first."""
    sampler, wanted = _named(asked.hr_sampler_name), _named(asked.hr_scheduler)
    scheduler = None
    if sampler is not None and catalogue.samplers:
        found = catalogue.sampler(sampler)
        if found is None:
            raise _unknown("hr_sampler_name", "sampler", sampler, catalogue.samplers.values())
        sampler, scheduler = found
    if wanted is not None:
        scheduler = catalogue.scheduler(wanted) if catalogue.schedulers else wanted
        if scheduler is None:
            raise _unknown("hr_scheduler", "scheduler", wanted, catalogue.schedulers.values())
    return sampler, None if scheduler is None else catalogue.label(scheduler)


def _refiner(asked: ImageParameters, catalogue: Catalogue, *, settable: bool) -> dict[str, Any]:
    name = _named(asked.refiner_checkpoint)
    if name is None:
        return {}
    if not settable or not catalogue.refiner:
        raise _absent("refiner_checkpoint", "has no refiner; leave it out")
    switch = REFINED_FROM if asked.refiner_switch_at is None else asked.refiner_switch_at
    return {"refiner_checkpoint": _checkpoint("refiner_checkpoint", name, catalogue), "refiner_switch_at": switch}


def _styles(asked: ImageParameters, catalogue: Catalogue, *, settable: bool) -> dict[str, Any]:
    known = catalogue.styles if settable else None
    styles = [style for style in asked.styles or [] if _named(style) is not None or style in (known or ())]
    if not styles:
        return {}
    if known is None:
        raise _absent("styles", "has no styles; write their words into the prompt")
    for style in styles:
        if style not in known:
            raise _unknown("styles", "style", style, known)
    return {"styles": styles}


def _checkpoint(field: str, name: str | None, catalogue: Catalogue) -> str | None:
    """Return a checkpoint as the WebUI calls it: it takes the nearest name that it has for one that it has not."""
    if (name := _named(name)) is None:
        return None
    model = catalogue.model(name)
    if model is None:
        raise _unknown(field, "image model", name, [model.name for model in catalogue.models])
    return model.title


def _unknown(field: str, kind: str, name: str | None, known: Any) -> BadJobError:  # noqa: ANN401 (names)
    there = listed(set(cast("list[str]", known))) or "none"
    return BadJobError(f"data.{field}: no {kind} {(name or '')[:80]!r}; there are {there}.")


def told_of(parameters: ImageParameters, catalogue: Catalogue) -> list[str]:
    """Say what of them has no effect: another one is missing, or the WebUI's own setting goes before a job's.

    AUTOMATIC1111 takes its settings ``s_…`` before those of a request, unless they are the usual ones.
    """
    said = _without_hires(parameters)
    for name in ("s_churn", "s_tmin", "s_tmax", "s_noise"):
        asked, own = getattr(parameters, name), catalogue.options.get(name)
        if asked is not None and isinstance(own, int | float) and own not in {*_NO_EFFECT[name], asked}:
            said.append(f"The WebUI's own setting {name}, {own:g}, goes before the job's.")
    return said


def _without_hires(parameters: ImageParameters) -> list[str]:
    given = parameters.model_fields_set
    if "enable_hr" in given:
        return []
    idle = [name for name in HIRES if name in given and _says_something(name, getattr(parameters, name))]
    return [f"Without enable_hr of no effect: {', '.join(idle)}."] if idle else []


def _says_something(name: str, value: object) -> bool:
    if isinstance(value, str):
        return _named(value) is not None
    return bool(value) and (name, value) != ("hr_scale", 2)
