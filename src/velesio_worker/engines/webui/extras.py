"""What a job asks for beside an image's plain parameters: overridden settings and scripts.

A WebUI answers 500 for a setting that it does not know, and takes a VAE that it does not have for none, in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from velesio_worker.engines.webui.catalogue import Catalogue, listed
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.image_parameters import ImageParameters
from velesio_worker.wire.parameters import FETCHED

_VAE: Final = "sd_vae"
_NO_VAE_FILES: Final = frozenset({"Automatic", "None"})
_KINDS: Final[tuple[tuple[type, str], ...]] = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "a text"),
    (list, "a list"),
    (dict, "an object"),
)
_UNUSUAL: Final = (
    *("override_settings", "subseed_strength", "script_name", "alwayson_scripts"),
    *("mask_blur", "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding", "resize_mode"),
)
"""What a server knows that knows the WebUI's settings, too."""


def check_overrides(settings: Mapping[str, Any], catalogue: Catalogue) -> None:
    """Check the values of ``override_settings`` against the WebUI's own settings, where it tells them.

    Raises:
        BadJobError: there is no such setting, its value is of another kind, or it names a VAE that there is not.
    """
    for key, value in settings.items():
        if catalogue.options and key not in catalogue.options:
            raise BadJobError(f"data.override_settings.{key[:80]}: the WebUI has no such setting; leave it out.")
        kind = _kind(catalogue.options.get(key))
        if kind is not None and not _is_of(value, kind):
            raise BadJobError(f"data.override_settings.{key[:80]}: give {dict(_KINDS)[kind]}, as the WebUI has it.")
    vae: object = settings.get(_VAE)
    known_vaes = None if catalogue.vaes is None else catalogue.vaes | _NO_VAE_FILES
    if _VAE in settings and known_vaes is not None and not (isinstance(vae, str) and vae in known_vaes):
        known = listed(known_vaes)
        raise BadJobError(f"data.override_settings.{_VAE}: there is no VAE {str(vae)[:80]!r}; there are {known}.")


def _kind(known: object) -> type | None:
    """Of which kind a setting is; None where its value so far does not tell."""
    return next((kind for kind, _ in _KINDS if isinstance(known, kind)), None)


def _is_of(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def check_scripts(parameters: ImageParameters) -> None:
    """Refuse addresses in what scripts are given: they might fetch them, as ControlNet's images are.

    Raises:
        BadJobError: there is one.
    """
    for name in ("script_args", "alwayson_scripts"):
        if any(FETCHED.match(text) for text in _texts(getattr(parameters, name))):
            raise BadJobError(f"data.{name}: images are taken as base64, never fetched; send no URL.")


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


def without_effect(parameters: ImageParameters) -> list[str]:
    """Name what a job asks for that a server without the WebUI's settings, as sd-server is one, leaves out."""
    names = [name for name in _UNUSUAL if getattr(parameters, name, None)]
    images: object = getattr(parameters, "init_images", None)
    if isinstance(images, list) and len(cast("list[object]", images)) > 1:
        names.append("init_images after the first")
    if "<lora:" in parameters.prompt:
        names.append("<lora:…> in the prompt")
    return names
