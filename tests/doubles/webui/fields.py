"""The fields of txt2img and img2img with their types and defaults, and the checks of a body against them."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any, Final, cast

from tests.doubles.webui.catalogue import SCRIPTS
from tests.doubles.webui.setup import RefusedError, http_error

Fields = dict[str, tuple[type, Any]]

_COMMON: Final[Fields] = {
    "prompt": (str, ""),
    "negative_prompt": (str, ""),
    "styles": (list, None),
    "seed": (int, -1),
    "subseed": (int, -1),
    "subseed_strength": (float, 0),
    "seed_resize_from_h": (int, -1),
    "seed_resize_from_w": (int, -1),
    "sampler_name": (str, None),
    "scheduler": (str, None),
    "batch_size": (int, 1),
    "n_iter": (int, 1),
    "steps": (int, 50),
    "cfg_scale": (float, 7.0),
    "width": (int, 512),
    "height": (int, 512),
    "restore_faces": (bool, None),
    "tiling": (bool, None),
    "do_not_save_samples": (bool, False),
    "do_not_save_grid": (bool, False),
    "eta": (float, None),
    "denoising_strength": (float, None),
    "s_min_uncond": (float, None),
    "s_churn": (float, None),
    "s_tmax": (float, None),
    "s_tmin": (float, None),
    "s_noise": (float, None),
    "override_settings": (dict, None),
    "override_settings_restore_afterwards": (bool, True),
    "refiner_checkpoint": (str, None),
    "refiner_switch_at": (float, None),
    "disable_extra_networks": (bool, False),
    "firstpass_image": (str, None),
    "comments": (dict, None),
}
_HIGH_RESOLUTION: Final[Fields] = {
    "enable_hr": (bool, False),
    "firstphase_width": (int, 0),
    "firstphase_height": (int, 0),
    "hr_scale": (float, 2.0),
    "hr_upscaler": (str, None),
    "hr_second_pass_steps": (int, 0),
    "hr_resize_x": (int, 0),
    "hr_resize_y": (int, 0),
    "hr_checkpoint_name": (str, None),
    "hr_sampler_name": (str, None),
    "hr_scheduler": (str, None),
    "hr_prompt": (str, ""),
    "hr_negative_prompt": (str, ""),
}
_FROM_IMAGES: Final[Fields] = {
    "init_images": (list, None),
    "resize_mode": (int, 0),
    "image_cfg_scale": (float, None),
    "mask": (str, None),
    "mask_blur_x": (int, 4),
    "mask_blur_y": (int, 4),
    "mask_blur": (int, None),
    "mask_round": (bool, True),
    "inpainting_fill": (int, 0),
    "inpaint_full_res": (bool, True),
    "inpaint_full_res_padding": (int, 0),
    "inpainting_mask_invert": (int, 0),
    "initial_noise_multiplier": (float, None),
    "latent_mask": (str, None),
}
_REQUEST: Final[Fields] = {
    "script_name": (str, None),
    "script_args": (list, []),
    "send_images": (bool, True),
    "save_images": (bool, False),
    "alwayson_scripts": (dict, {}),
    "infotext": (str, None),
}
_NAMES: Final[Fields] = {"force_task_id": (str, None), "sampler_index": (str, "Euler")}

FIELDS: Final[dict[str, Fields]] = {
    "txt2img": _COMMON | _HIGH_RESOLUTION | _NAMES | _REQUEST,
    "img2img": _COMMON
    | {"denoising_strength": (float, 0.75)}
    | _FROM_IMAGES
    | _NAMES
    | {"include_init_images": (bool, False)}
    | _REQUEST,
}

_COMPLAINTS: Final[dict[type, tuple[str, str]]] = {
    str: ("str type expected", "type_error.str"),
    int: ("value is not a valid integer", "type_error.integer"),
    float: ("value is not a valid float", "type_error.float"),
    bool: ("value could not be parsed to a boolean", "type_error.bool"),
    list: ("value is not a valid list", "type_error.list"),
    dict: ("value is not a valid dict", "type_error.dict"),
}
_WORDS: Final = {
    "true": True,
    "on": True,
    "yes": True,
    "1": True,
    "false": False,
    "off": False,
    "no": False,
    "0": False,
}


def _invalid(loc: list[Any], msg: str, kind: str, **more: Any) -> RefusedError:
    return RefusedError(422, {"detail": [_complaint(loc, msg, kind) | more]})


def _complaint(loc: list[Any], msg: str, kind: str) -> dict[str, Any]:
    return {"loc": loc, "msg": msg, "type": kind}


def read_document(content: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
        RefusedError: 422, as the real program says it, where there is none.
    """
    if not content:
        raise _invalid(["body"], "field required", "value_error.missing")
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        where = {"msg": error.msg, "doc": error.doc, "pos": error.pos, "lineno": error.lineno, "colno": error.colno}
        raise _invalid(["body", error.pos], str(error), "value_error.jsondecode", ctx=where) from None
    if not isinstance(value, dict):
        raise _invalid(["body"], *_COMPLAINTS[dict])
    return cast("dict[str, Any]", value)


def parse(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """All fields of a request, as its answer's ``parameters`` repeat them; unknown ones are dropped.

    Raises:
        RefusedError: 422, with one complaint for each field of a wrong type.
    """
    fields: dict[str, Any] = {}
    complaints: list[dict[str, Any]] = []
    for name, (wanted, default) in FIELDS[kind].items():
        value = body.get(name)
        if name not in body:  # a default stays as it is, a whole number among them
            fields[name] = deepcopy(default)
            continue
        try:
            fields[name] = None if value is None else _coerced(wanted, value)
        except (TypeError, ValueError, OverflowError):
            complaints.append(_complaint(["body", name], *_COMPLAINTS[wanted]))
    if complaints:
        raise RefusedError(422, {"detail": complaints})
    return fields


def _coerced(wanted: type, value: Any) -> Any:
    """A value as pydantic 1 takes it: numbers from text, text from numbers, no guess beyond that."""
    if wanted in (list, dict):
        if not isinstance(value, wanted):
            raise TypeError(wanted)
        return deepcopy(cast("object", value))
    if isinstance(value, (list, dict)):
        raise TypeError(wanted)
    if wanted is bool and not isinstance(value, bool):
        word = str(value).lower()
        if word not in _WORDS:
            raise ValueError(word)
        return _WORDS[word]
    return wanted(value)


def check_scripts(kind: str, fields: dict[str, Any]) -> None:
    """Refuse scripts that are not there.

    Raises:
        RefusedError: 422, naming the first.
    """
    named = [fields["script_name"]] if fields["script_name"] else []
    for name in (*named, *(fields["alwayson_scripts"] or ())):
        if name.lower() not in (known.lower() for known in SCRIPTS[kind]):
            raise http_error(422, f"Script '{name}' not found")
