"""From a WebUI's answer to the results of the jobs that it was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import orjson

from velesio_worker.engines.decoding import decode_json
from velesio_worker.engines.webui.catalogue import AUTOMATIC, listed, plain
from velesio_worker.engines.webui.pictures import PictureError, as_png, picture_size, png_seed, png_size
from velesio_worker.engines.webui.request import ImageRequest
from velesio_worker.wire.errors import EngineRefusedError
from velesio_worker.wire.events import Done
from velesio_worker.wire.fields import LARGEST_COUNT, count_in, name_in, number_in

_TEXTS: Final = "infotexts"
_LARGEST_INFO: Final = 1024 * 1024
"""So many bytes of JSON a WebUI may say about a job's images; a prompt stands in it several times for each."""

_MOST_WARNINGS: Final = 8
_SHOWN: Final = 80
_PER_IMAGE: Final = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds", _TEXTS)


def results(requests: Sequence[ImageRequest], answers: Sequence[object], seed: int, model: str) -> list[Done]:
    """Share a WebUI's answers out among the jobs that were run together. Slow: for a thread.

    Args:
        requests: what the jobs asked for, in the order of their images.
        answers: the answers, decoded; more than one if the WebUI makes no more than a batch for one request.
        seed: the first seed that was sent; the others follow one another.
        model: the name of the model that is loaded.

    Raises:
        EngineRefusedError: the answer is not what was asked for.
    """
    images = [image for answer in answers for image in images_of(answer)]
    info = _info(answers[0])
    if _grids(info) >= len(_pictures(answers[0])):
        info["index_of_first_image"] = 0  # a grid alone
    counts = [request.parameters.images for request in requests]
    if len(requests) == 1 and requests[0].parameters.script_name and images:
        images = _without_grids(images, requests[0].most_pixels)
        counts = [len(images)]  # a script makes as many as it likes
    wanted = sum(counts)
    if len(images) < wanted:
        raise EngineRefusedError(f"The WebUI made {len(images)} of {wanted} images: somebody else interrupted it.")
    seeds = _seeds(info, images, seed, wanted, requests[0].most_pixels)
    done: list[Done] = []
    first = 0
    for request, count in zip(requests, counts, strict=True):
        last = first + count
        done.append(_done(request, images[first:last], _share(info, first, last), seeds[first:last], model))
        first = last
    return done


def images_of(answer: object) -> list[str]:
    """Return the images in an answer, without a grid that stands before them; a grid that stands alone is one.

    Raises:
        EngineRefusedError: there are none.
    """
    images = _pictures(answer)
    return images[_grids(_info(answer)) :] or images


def _pictures(answer: object) -> list[str]:
    """Return all images in an answer, grids too. Raises EngineRefusedError if there is no place for them."""
    fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    pictures: Any = fields.get("images")
    if not isinstance(pictures, list):
        raise EngineRefusedError("The WebUI's answer has no images.")
    return [picture for picture in cast("list[object]", pictures) if isinstance(picture, str)]


def _grids(info: dict[str, Any]) -> int:
    """Return how many images of images stand before the images."""
    first: Any = info.get("index_of_first_image")
    return max(first, 0) if isinstance(first, int) else 0


def _without_grids(images: list[str], most_pixels: int) -> list[str]:
    """Leave out the grids that scripts put before their images and do not count, as Loopback does."""
    sizes = [picture_size(image, most_pixels) for image in images]
    last = sizes[-1]
    first = 0
    while first < len(images) - 1 and _is_grid(sizes[first], last):
        first += 1
    return images[first:]


def _is_grid(size: tuple[int, int] | None, of: tuple[int, int] | None) -> bool:
    if size is None or of is None or size == of:
        return False
    return size[0] % of[0] == 0 and size[1] % of[1] == 0


def _info(answer: object) -> dict[str, Any]:
    """Read an answer's info, which is JSON in a string, or an empty one."""
    info: Any = cast("dict[str, Any]", answer).get("info") if isinstance(answer, dict) else None
    if isinstance(info, str):
        info = decode_json(info.encode())
    return cast("dict[str, Any]", info) if isinstance(info, dict) else {}


def _seeds(info: dict[str, Any], images: Sequence[str], seed: int, count: int, most_pixels: int) -> list[int]:
    told: Any = info.get("all_seeds")
    seeds = cast("list[Any]", told)[:count] if isinstance(told, list) else []
    if len(seeds) == count and all(type(one) is int and 0 <= one <= LARGEST_COUNT for one in seeds):
        return seeds
    written = [png_seed(image, most_pixels) for image in images[:count]]
    return [seed + number if told is None else told for number, told in enumerate(written)]


def _share(info: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """Return what the info says of some of the images."""
    own = dict(info)
    grids = _grids(info)
    for name in _PER_IMAGE:
        value = info.get(name)
        if isinstance(value, list):
            skipped = grids if name == _TEXTS else 0  # grids have a text, and nothing else
            own[name] = cast("list[Any]", value)[first + skipped : last + skipped]
    if grids:
        own["index_of_first_image"] = 0
    for name, every in (("seed", "all_seeds"), ("subseed", "all_subseeds")):
        values: Any = own.get(every)
        if isinstance(values, list) and values:
            own[name] = values[0]
    return own


def _cut(info: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Leave out the largest fields of what is too large; returns the rest, and a warning if there are any."""
    sizes = {name: len(orjson.dumps(value)) + len(name) for name, value in info.items()}
    total = sum(sizes.values())
    left_out: list[str] = []
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        if total <= _LARGEST_INFO:
            break
        total -= sizes[name]
        left_out.append(name)
    if not left_out:
        return info, []
    kept = {name: value for name, value in info.items() if name not in set(left_out)}
    names = listed(name[:_SHOWN] for name in left_out)
    return kept, [f"The WebUI's info is longer than {_LARGEST_INFO} bytes: it is without {names}."]


def _as_pngs(images: list[str], most_pixels: int) -> tuple[set[tuple[int, int]], bool]:
    """Have images be PNGs; returns their sizes, and whether some were not.

    Raises:
        EngineRefusedError: one is no image, or too large.
    """
    sizes: set[tuple[int, int]] = set()
    converted = False
    for number, image in enumerate(images):
        size = png_size(image)
        if size is None:
            try:
                images[number] = as_png(image, most_pixels)
            except PictureError as error:
                raise EngineRefusedError(f"The WebUI's answer has an image that cannot be used: it {error}.") from None
            size, converted = png_size(images[number]) or (0, 0), True
        if size[0] * size[1] > most_pixels:
            raise EngineRefusedError(
                f"The WebUI's answer has an image of {size[0]}x{size[1]} pixels, more than {most_pixels}: "
                "raise SD_MAX_PIXELS if it is to be so large."
            )
        sizes.add(size)
    return sizes, converted


def _done(request: ImageRequest, images: list[str], info: dict[str, Any], seeds: list[int], model: str) -> Done:
    parameters = request.parameters
    alike = not parameters.script_name  # a script varies what it likes
    info, warnings = _cut(info)
    warnings = [*request.warnings, *warnings, *(_fallbacks(request, info, model) if alike else ())]
    sizes, converted = _as_pngs(images, request.most_pixels)
    if converted:
        warnings.append("The WebUI made an image that is no PNG (its samples_format); it was converted.")
    if alike and request.seed is not None and seeds[0] != request.seed:
        warnings.append(f"The WebUI used the seed {seeds[0]} instead of {request.seed}.")
    width, height = min(sizes)
    wide, high = parameters.final_size
    if alike and sizes != {(wide, high)} and parameters.decides("width", "height"):
        odd = next(size for size in sorted(sizes) if size != (wide, high))
        warnings.append(f"The images have {odd[0]}x{odd[1]} pixels, not {wide}x{high}.")
    used = {
        "prompt": parameters.prompt,
        "negative_prompt": parameters.negative_prompt,
        "steps": parameters.steps if parameters.decides("steps") else count_in(info, "steps"),
        "cfg_scale": parameters.cfg_scale if parameters.decides("cfg_scale") else number_in(info, "cfg_scale"),
        "batch_size": parameters.batch_size,
        "n_iter": parameters.n_iter,
        "seed": seeds[0],
        "width": width,
        "height": height,
        "sampler_name": _name(info, "sampler_name") or request.body.get("sampler_name"),
        "model": _other_model(info, model) or model,
    }
    result: dict[str, Any] = {"images": images, "parameters": used, "seeds": seeds, "info": info}
    if warnings:
        result["warnings"] = _first(list(dict.fromkeys(warnings)))
    return Done(result, "stop")


def _first(warnings: list[str]) -> list[str]:
    """Return the first warnings, and how many more there are."""
    left = len(warnings) - _MOST_WARNINGS
    return warnings if left <= 0 else [*warnings[:_MOST_WARNINGS], f"… and {left:,} more"]


def _fallbacks(request: ImageRequest, info: dict[str, Any], model: str) -> list[str]:
    """What the WebUI says that it did otherwise than it was asked."""
    said: list[str] = []
    extra: Any = info.get("extra_generation_params")
    schedule = cast("dict[str, Any]", extra).get("Schedule type") if isinstance(extra, dict) else None
    for what, used in (("sampler", _name(info, "sampler_name")), ("scheduler", schedule)):
        asked = request.body.get("sampler_name" if what == "sampler" else what)
        if isinstance(used, str) and isinstance(asked, str) and plain(asked) not in {plain(used), AUTOMATIC}:
            said.append(f"The WebUI used the {what} {name_in(used)[:_SHOWN]!r} instead of {asked!r}.")
    loaded = _other_model(info, model)
    if loaded and model:
        said.append(f"The WebUI used the model {loaded[:_SHOWN]!r} instead of {model!r}.")
    return said


def _name(info: dict[str, Any], name: str) -> str | None:
    """Return a name that the info tells; None if it is none."""
    value = info.get(name)
    return name_in(value) if isinstance(value, str) else None


def _other_model(info: dict[str, Any], model: str) -> str | None:
    """Return the model that the WebUI says it used; None if that is ``model``, or it does not say.

    It says the file's name alone, and ``model`` is the name with its folders: ``sdxl_base`` for ``sdxl/base``.
    """
    used = _name(info, "sd_model_name")
    if not used or used == model or model.endswith(f"_{used}"):
        return None
    return used
