"""What image jobs may say, and what a producer is told who says something else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.image_parameters import LARGEST_SEED, Img2ImgParameters, Txt2ImgParameters
from velesio_worker.wire.jobs import Job, RefusedJobError, parse_job

LIMIT = 1024 * 1024
SECRET = "a very private prompt"
PICTURE = "aGVsbG8="
FETCHED = "never fetched"


def job(type_: str, data: dict[str, Any]) -> Job:
    return parse_job(orjson.dumps({"id": "a1", "type": type_, "data": data}), max_bytes=LIMIT)


def refused(type_: str, data: dict[str, Any]) -> str:
    with pytest.raises(RefusedJobError) as caught:
        job(type_, data)
    assert isinstance(caught.value.error, BadJobError)
    return str(caught.value.error)


def txt(**more: Any) -> Txt2ImgParameters:
    return Txt2ImgParameters.model_validate({"prompt": "a cat"} | more)


def img(**more: Any) -> Img2ImgParameters:
    return Img2ImgParameters.model_validate({"prompt": "a cat", "init_images": [PICTURE]} | more)


def test_the_defaults_are_the_wire_protocols() -> None:
    assert txt().given() == {
        "prompt": "a cat",
        "negative_prompt": "",
        "width": 512,
        "height": 512,
        "steps": 20,
        "cfg_scale": 7.5,
        "sampler_name": "Euler a",
        "seed": -1,
        "batch_size": 1,
        "n_iter": 1,
    }
    assert img().denoising_strength == 0.75
    assert img().mask is None


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("width", 100, "multiple of 8"),
        ("height", 100, "multiple of 8"),
        ("width", 0, "greater than or equal to 64"),
        ("height", 0, "greater than or equal to 64"),
        ("width", -8, "greater than or equal to 64"),
        ("width", 8, "greater than or equal to 64"),
        ("width", 16392, "less than or equal to 16384"),
        ("width", 64.7, "integer"),
        ("steps", 0, "greater than or equal to 1"),
        ("steps", -1, "greater than or equal to 1"),
        ("steps", 151, "less than or equal to 150"),
        ("steps", "many", "integer"),
        ("cfg_scale", -3, "greater than or equal to 0"),
        ("seed", -2, "greater than or equal to -1"),
        ("seed", LARGEST_SEED + 1, f"less than or equal to {LARGEST_SEED}"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("n_iter", 0, "greater than or equal to 1"),
        ("sampler_name", "", "at least 1"),
        ("scheduler", "", "at least 1"),
        ("model", "", "at least 1"),
        ("prompt", ["a", "cat"], "string"),
        ("prompt", None, "required"),
        ("override_settings", [], "dict"),
        ("subseed_strength", 1.5, "less than or equal to 1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field_and_what_is_right(field: str, value: Any, hint: str) -> None:
    said = refused("txt2img", {"prompt": "a cat", field: value})
    assert said.startswith(f"data.{field}: ")
    assert hint in said


@pytest.mark.parametrize(
    ("data", "field", "hint"),
    [
        ({}, "init_images", "required"),
        ({"init_images": None}, "init_images", "required"),
        ({"init_images": PICTURE}, "init_images", "list"),
        ({"init_images": []}, "init_images", "at least 1"),
        ({"init_images": [None]}, "init_images.0", "string"),
        ({"init_images": [PICTURE, 7]}, "init_images.1", "string"),
        ({"init_images": [""]}, "init_images.0", "at least 1"),
        ({"init_images": ["http://10.0.0.1/a.png"]}, "init_images.0", FETCHED),
        ({"init_images": ["https://example.com/a.png"]}, "init_images.0", FETCHED),
        ({"init_images": [" HTTPS://example.com/a.png"]}, "init_images.0", FETCHED),
        ({"init_images": ["file:///etc/passwd"]}, "init_images.0", FETCHED),
        ({"init_images": [PICTURE], "mask": "http://10.0.0.1/mask.png"}, "mask", FETCHED),
        ({"init_images": [PICTURE], "mask": ""}, "mask", "at least 1"),
        ({"init_images": [PICTURE], "denoising_strength": 2}, "denoising_strength", "less than or equal to 1"),
        ({"init_images": [PICTURE], "inpainting_fill": 4}, "inpainting_fill", "less than or equal to 3"),
        ({"init_images": [PICTURE], "mask_blur": -1}, "mask_blur", "greater than or equal to 0"),
        ({"init_images": [PICTURE], "resize_mode": 9}, "resize_mode", "less than or equal to 3"),
    ],
)
def test_wrong_images_are_refused_with_their_place_and_what_is_right(
    data: dict[str, Any], field: str, hint: str
) -> None:
    said = refused("img2img", {"prompt": "a cat"} | data)
    assert said.startswith(f"data.{field}: ")
    assert hint in said


def test_an_unknown_parameter_is_refused_with_those_there_are() -> None:
    said = refused("txt2img", {"prompt": SECRET, "hires_scale": 2})
    assert "data.hires_scale: unknown parameter" in said
    assert "sampler_name" in said
    assert "init_images" in refused("img2img", {"prompt": SECRET, "images": [PICTURE]})
    assert "data.init_images: unknown" in refused("txt2img", {"prompt": SECRET, "init_images": [PICTURE]})


@pytest.mark.parametrize(
    "data",
    [
        {"prompt": [SECRET]},
        {"prompt": {"text": SECRET}},
        {"negative_prompt": [SECRET]},
        {"init_images": SECRET},
        {"init_images": [f"http://host/{SECRET}"]},
        {"init_images": [[SECRET]]},
        {"init_images": {SECRET: 1}},
        {"mask": [SECRET]},
        {"mask": f"https://host/{SECRET}"},
        {"script_args": SECRET},
        {"alwayson_scripts": SECRET},
    ],
)
def test_an_error_repeats_no_prompt_and_no_image(data: dict[str, Any]) -> None:
    assert SECRET not in refused("img2img", {"prompt": SECRET, "steps": 0, "init_images": [PICTURE]} | data)


@pytest.mark.parametrize("picture", [PICTURE, f"data:image/png;base64,{PICTURE}", "Ly8vLw==", "//8="])
def test_base64_is_taken_bare_and_as_a_data_uri(picture: str) -> None:
    read = job("img2img", {"prompt": "a cat", "init_images": [picture], "mask": picture}).parameters
    assert isinstance(read, Img2ImgParameters)
    assert read.init_images == [picture]
    assert read.mask == picture


def test_the_images_asked_for_are_counted_over_all_rounds() -> None:
    assert txt(batch_size=3, n_iter=4).images == 12
    assert img().images == 1


def test_jobs_that_want_any_seed_and_differ_in_nothing_are_the_same() -> None:
    assert txt().same_but_for_seed(txt())
    assert txt(seed=-1, width=512, cfg_scale=7.5).same_but_for_seed(txt(subseed=None))


@pytest.mark.parametrize(
    "more",
    [
        {"subseed_strength": 0.1},
        {"seed": 7},
        {"seed": 0},
        {"subseed": 7},
        {"n_iter": 2},
        {"script_name": "x/y/z plot"},
        {"alwayson_scripts": {"refiner": {}}},
    ],
)
def test_a_job_with_a_seed_or_a_loop_of_its_own_is_run_alone(more: dict[str, Any]) -> None:
    assert not txt(**more).mergeable
    assert not txt(**more).same_but_for_seed(txt(**more))


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": "a dog"},
        {"negative_prompt": "dogs"},
        {"width": 256},
        {"steps": 21},
        {"cfg_scale": 7},
        {"sampler_name": "Euler"},
        {"scheduler": "karras"},
        {"model": "tinyB"},
        {"batch_size": 2},
        {"override_settings": {"sd_vae": "None"}},
    ],
)
def test_jobs_that_differ_in_anything_are_not_the_same(more: dict[str, Any]) -> None:
    assert not txt().same_but_for_seed(txt(**more))
    assert not txt(**more).same_but_for_seed(txt())


def outcome(type_: str, data: dict[str, Any]) -> object:
    try:
        return job(type_, data).parameters
    except RefusedJobError as error:
        return error


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
VALUES = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.text(max_size=3), LEAVES, max_size=2)


@given(
    st.sampled_from(["txt2img", "img2img"]),
    st.dictionaries(st.sampled_from(sorted({*Img2ImgParameters.model_fields} - {"prompt"})), VALUES, max_size=4),
)
def test_whatever_is_sent_is_a_job_within_bounds_or_is_refused(type_: str, data: dict[str, Any]) -> None:
    needed = {"prompt": SECRET} | ({"init_images": [PICTURE]} if type_ == "img2img" else {})
    read = outcome(type_, needed | data)
    if isinstance(read, RefusedJobError):
        assert isinstance(read.error, BadJobError)
        assert SECRET not in str(read)
        return
    assert isinstance(read, Txt2ImgParameters | Img2ImgParameters)
    assert read.width % 8 == read.height % 8 == 0
    assert min(read.width, read.height) >= 64
    assert read.steps >= 1
    assert read.images >= 1
    assert orjson.loads(orjson.dumps(read.model_dump()))
