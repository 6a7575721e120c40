"""From a WebUI's answer to each job's own result."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.webui.pictures import draw, encode
from velesio_worker.engines.webui.request import ImageRequest
from velesio_worker.engines.webui.result import images_of, results
from velesio_worker.wire.errors import EngineRefusedError
from velesio_worker.wire.events import Done
from velesio_worker.wire.image_parameters import Txt2ImgParameters

SECRET = "a very private prompt"
MODEL = "tinyA"
MOST = 4 * 512 * 512
"""How many pixels an image may have."""


def request(seed: int | None = None, warnings: tuple[str, ...] = (), **more: Any) -> ImageRequest:
    parameters = Txt2ImgParameters.model_validate({"prompt": SECRET, "width": 64, "height": 64} | more)
    scheduler = {} if parameters.scheduler is None else {"scheduler": parameters.scheduler}
    return ImageRequest(parameters, "txt2img", {"sampler_name": "Euler a"} | scheduler, seed, MOST, warnings)


def picture(seed: int, size: tuple[int, int] = (64, 64), format_: str = "png", *, written: bool = False) -> str:
    words = f"{SECRET}\nSteps: 4, Sampler: Euler a, Seed: {seed}, Size: 64x64" if written else None
    return encode(draw(*size, seed), format_, words)


def info(seeds: list[int], **more: Any) -> dict[str, Any]:
    return {
        "prompt": SECRET,
        "all_prompts": [SECRET for _ in seeds],
        "all_negative_prompts": ["" for _ in seeds],
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": seeds[0] + 1000,
        "all_subseeds": [seed + 1000 for seed in seeds],
        "sampler_name": "Euler a",
        "sd_model_name": MODEL,
        "index_of_first_image": 0,
        "infotexts": [f"Seed: {seed}" for seed in seeds],
    } | more


def answer(seeds: list[int], **more: Any) -> dict[str, Any]:
    return {"images": [picture(seed) for seed in seeds], "info": json.dumps(info(seeds, **more))}


def result(whole: Any, asked: ImageRequest | None = None, seed: int = 7, model: str = MODEL) -> dict[str, Any]:
    (done,) = results([asked or request()], [whole], seed, model)
    assert done.finish_reason == "stop"
    return done.result


def test_a_result_has_its_images_what_was_used_and_the_seeds() -> None:
    made = result(answer([7, 8]), request(batch_size=2, steps=4))
    assert made["images"] == [picture(7), picture(8)]
    assert made["seeds"] == [7, 8]
    assert made["info"]["all_seeds"] == [7, 8]
    assert made["parameters"] == {
        "prompt": SECRET,
        "negative_prompt": "",
        "steps": 4,
        "seed": 7,
        "width": 64,
        "height": 64,
        "cfg_scale": 7.5,
        "sampler_name": "Euler a",
        "batch_size": 2,
        "n_iter": 1,
        "model": MODEL,
    }
    assert "warnings" not in made


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 2**31), st.sampled_from(["info", "png", ""]))
def test_shares_of_an_answer_are_each_jobs_own_and_together_all_of_it(sizes: list[int], seed: int, told: str) -> None:
    seeds = [seed + number for number in range(sum(sizes))]
    whole: dict[str, Any] = answer(seeds) if told == "info" else {"info": ""}
    whole["images"] = [picture(one, written=told == "png") for one in seeds]
    done = results([request(batch_size=size) for size in sizes], [whole], seed, MODEL)
    made = [one.result for one in done]
    assert [len(one["images"]) for one in made] == sizes
    assert [image for one in made for image in one["images"]] == whole["images"]
    assert [one_seed for one in made for one_seed in one["seeds"]] == seeds
    for one in made:
        assert one["parameters"]["seed"] == one["seeds"][0]
        if told == "info":
            assert one["info"]["seed"] == one["seeds"][0]
            assert one["info"]["subseed"] == one["info"]["all_subseeds"][0]
            assert one["info"]["infotexts"] == [f"Seed: {one_seed}" for one_seed in one["seeds"]]
            assert len(one["info"]["all_prompts"]) == len(one["images"])
        assert "warnings" not in one


def test_each_jobs_result_is_its_own_to_change() -> None:
    first, second = results([request(), request()], [answer([7, 8])], 7, MODEL)
    first.result["info"]["all_seeds"].append(99)
    first.result["images"].clear()
    assert second.result["info"]["all_seeds"] == [8]
    assert len(second.result["images"]) == 1


def test_several_answers_for_one_job_are_put_together() -> None:
    answers = [{"images": [picture(seed)], "info": ""} for seed in (7, 8, 9)]
    (done,) = results([request(n_iter=3)], answers, 7, MODEL)
    assert done.result["images"] == [picture(seed) for seed in (7, 8, 9)]
    assert done.result["seeds"] == [7, 8, 9]


def test_the_seed_that_was_really_used_is_told() -> None:
    made = result({"images": [picture(41, written=True)], "info": ""}, request(seed=7))
    assert made["parameters"]["seed"] == 41
    assert made["warnings"] == ["The WebUI used the seed 41 instead of 7."]


def test_the_seed_is_the_one_that_was_sent_where_nothing_tells() -> None:
    assert result({"images": [picture(7)], "info": ""})["parameters"]["seed"] == 7


@pytest.mark.parametrize("told", [[], ["7"], [None], "7", None, {}, [7.5]])
def test_seeds_that_are_none_are_not_believed(told: Any) -> None:
    assert result(answer([7], all_seeds=told))["seeds"] == [7]


@pytest.mark.parametrize("words", ["", "no JSON", "[]", "null", "7", '{"a": NaN}', None, 7, []])
def test_an_answer_without_usable_info_is_a_result_all_the_same(words: Any) -> None:
    made = result({"images": [picture(7)], "info": words})
    assert made["info"] == {}
    assert made["parameters"]["model"] == MODEL
    assert made["parameters"]["sampler_name"] == "Euler a"


def test_info_may_come_as_an_object() -> None:
    assert result({"images": [picture(9)], "info": info([9])})["seeds"] == [9]


def test_a_grid_is_no_image_of_the_job() -> None:
    whole = answer([7, 8], index_of_first_image=1, infotexts=["grid", "seven", "eight"])
    whole["images"].insert(0, picture(0, (128, 64)))
    first, second = (done.result for done in results([request(), request()], [whole], 7, MODEL))
    assert (first["images"], second["images"]) == ([picture(7)], [picture(8)])
    assert (first["info"]["infotexts"], second["info"]["infotexts"]) == (["seven"], ["eight"])
    assert first["info"]["index_of_first_image"] == 0, "it is gone"
    assert "warnings" not in first


@pytest.mark.parametrize("place", [-1, None, "1", 1.0])
def test_a_first_image_that_is_nowhere_is_the_first(place: Any) -> None:
    assert images_of(answer([7, 8], index_of_first_image=place)) == [picture(7), picture(8)]


def test_images_beyond_those_asked_for_are_left_out() -> None:
    assert result(answer([7, 8, 9]))["images"] == [picture(7)]


def test_a_plot_that_is_a_grid_alone_is_the_jobs_image() -> None:
    plot = picture(0, (136, 72))
    whole = {
        "images": [plot],
        "info": json.dumps(info([7, 7, 8], index_of_first_image=1, infotexts=["plot", "a", "b"])),
    }
    made = result(whole, request(script_name="x/y/z plot", seed=7))
    assert made["images"] == [plot]
    assert made["seeds"] == [7]
    assert made["info"]["infotexts"] == ["plot"]
    assert (made["parameters"]["width"], made["parameters"]["height"]) == (136, 72)
    assert "warnings" not in made


@pytest.mark.parametrize("format_", ["png", "jpeg"])
def test_a_grid_that_a_script_does_not_count_is_no_image(format_: str) -> None:
    loops = [picture(seed, format_=format_) for seed in (7, 8, 9)]
    whole = {"images": [picture(0, (192, 64), format_), *loops], "info": json.dumps(info([7]))}
    made = result(whole, request(script_name="Loopback"))
    assert len(made["images"]) == len(made["seeds"]) == 3
    assert not [warning for warning in made.get("warnings", ()) if "pixels" in warning]


def test_larger_images_of_a_script_are_no_grid() -> None:
    larger = [picture(seed, (128, 128)) for seed in (7, 8)]
    made = result({"images": larger, "info": json.dumps(info([7, 8]))}, request(script_name="SD upscale"))
    assert made["images"] == larger
    assert "warnings" not in made


def test_a_job_that_leaves_the_defaults_to_the_engine_is_told_what_they_were() -> None:
    whole = answer([7], steps=50, cfg_scale=7.0)
    made = result(whole, request(defaults="engine"))
    assert (made["parameters"]["steps"], made["parameters"]["cfg_scale"]) == (50, 7.0)
    assert made["parameters"]["sampler_name"] == "Euler a"
    asked = request(defaults="engine", steps=3)
    assert result(whole, asked)["parameters"]["steps"] == 3
    free = ImageRequest(Txt2ImgParameters(prompt=SECRET, defaults="engine"), "txt2img", {}, None, MOST)
    assert "warnings" not in result(whole, free), "the size was the engine's to choose"


def test_the_size_of_a_hires_fix_is_the_one_that_was_asked_for() -> None:
    whole = {"images": [picture(7, (128, 128))], "info": json.dumps(info([7]))}
    assert "warnings" not in result(whole, request(enable_hr=True))
    said = result(whole, request(enable_hr=True, hr_scale=3))["warnings"]
    assert said == ["The images have 128x128 pixels, not 192x192."]


def test_of_several_sizes_the_one_that_is_not_right_is_told() -> None:
    whole = {"images": [picture(7), picture(8, (128, 64))], "info": json.dumps(info([7, 8]))}
    assert result(whole, request(batch_size=2))["warnings"] == ["The images have 128x64 pixels, not 64x64."]


@pytest.mark.parametrize("seeds", [[7], [7, 8, 9]])
def test_a_script_makes_as_many_images_as_it_likes(seeds: list[int]) -> None:
    made = result(answer(seeds), request(batch_size=2, script_name="x/y/z plot"))
    assert made["images"] == [picture(seed) for seed in seeds]
    assert made["seeds"] == seeds


@pytest.mark.parametrize(
    "whole", [None, [], {}, {"images": None}, {"images": picture(7)}, {"images": {}}, {"detail": "odd"}]
)
def test_an_answer_without_images_is_refused(whole: Any) -> None:
    with pytest.raises(EngineRefusedError, match="no images"):
        result(whole)


@pytest.mark.parametrize("images", [[], [None], [7], [picture(7)], [picture(7), None]])
def test_fewer_images_than_asked_for_are_no_result(images: list[Any]) -> None:
    with pytest.raises(EngineRefusedError, match=rf"made {images.count(picture(7))} of 2 images"):
        result({"images": images, "info": json.dumps(info([7, 8]))}, request(batch_size=2))
    with pytest.raises(EngineRefusedError, match="made 0 of 1 images"):
        result({"images": [], "info": ""}, request(script_name="loopback"))


@pytest.mark.parametrize("image", ["", "no base64", base64.b64encode(SECRET.encode()).decode(), picture(7)[:28]])
def test_an_image_that_is_none_is_refused_and_not_repeated(image: str) -> None:
    with pytest.raises(EngineRefusedError, match="an image that cannot be used") as caught:
        result({"images": [image], "info": ""})
    assert SECRET not in str(caught.value)
    assert not image or image not in str(caught.value)


@pytest.mark.parametrize("format_", ["png", "jpg"])
def test_an_image_that_is_larger_than_any_of_the_jobs_may_be_is_refused(format_: str) -> None:
    made = {"images": [picture(7, (1024, 1024), format_)], "info": ""}
    assert result(made)["images"]
    larger = {"images": [picture(7, (1032, 1024), format_)], "info": ""}
    with pytest.raises(EngineRefusedError, match=r"1032x1024 pixels.*SD_MAX_PIXELS"):
        result(larger)


@pytest.mark.parametrize("name", ["prompt", "sampler_name", "infotexts", "all_prompts", "extra"])
def test_what_a_webui_says_at_great_length_is_left_out_and_told(name: str) -> None:
    value = "x" * 3_000_000
    made = result(answer([7], **{name: [value] if name.endswith("s") else value}))
    assert len(json.dumps(made["info"])) < 1024 * 1024
    assert name not in made["info"]
    assert made["info"]["all_seeds"] == [7], "what is short stays"
    assert made["warnings"] == [f"The WebUI's info is longer than 1048576 bytes: it is without {name}."]
    assert len(json.dumps(made)) < 2 * 1024 * 1024


def test_of_many_warnings_there_are_the_first_and_a_count() -> None:
    made = result(answer([7]), request(warnings=tuple(f"no {number}" for number in range(200_000))))
    assert made["warnings"] == [*(f"no {number}" for number in range(8)), "… and 199,992 more"]
    eight = tuple(f"no {number}" for number in range(8))
    assert result(answer([7]), request(warnings=eight))["warnings"] == list(eight)


@pytest.mark.parametrize("format_", ["jpg", "webp"])
def test_images_of_another_format_become_pngs_and_the_job_is_told_once(format_: str) -> None:
    whole = {"images": [picture(seed, format_=format_) for seed in (7, 8)], "info": ""}
    made = result(whole, request(batch_size=2))
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in made["images"])
    assert (made["parameters"]["width"], made["parameters"]["height"]) == (64, 64)
    (said,) = made["warnings"]
    assert "samples_format" in said


def test_another_size_than_asked_for_is_told() -> None:
    made = result({"images": [picture(7, (96, 64))], "info": ""}, request(width=104))
    assert (made["parameters"]["width"], made["parameters"]["height"]) == (96, 64)
    assert made["warnings"] == ["The images have 96x64 pixels, not 104x64."]


def test_another_sampler_than_asked_for_is_told() -> None:
    made = result(answer([7], sampler_name="DPM++ 2M"))
    assert made["parameters"]["sampler_name"] == "DPM++ 2M"
    assert made["warnings"] == ["The WebUI used the sampler 'DPM++ 2M' instead of 'Euler a'."]
    assert "warnings" not in result(answer([7], sampler_name="euler_a"))


def test_another_model_than_is_loaded_is_told() -> None:
    made = result(answer([7], sd_model_name="tinyB"))
    assert made["parameters"]["model"] == "tinyB"
    assert made["warnings"] == ["The WebUI used the model 'tinyB' instead of 'tinyA'."]


def test_a_model_in_a_folder_is_no_other_model() -> None:
    made = result(answer([7], sd_model_name="base"), model="sdxl_base")
    assert made["parameters"]["model"] == "sdxl_base"
    assert "warnings" not in made


def test_a_webui_that_does_not_tell_its_model_used_no_other() -> None:
    made = result(answer([7], sd_model_name="base"), model="")
    assert made["parameters"]["model"] == "base"
    assert "warnings" not in made
    assert result({"images": [picture(7)], "info": ""}, model="")["parameters"]["model"] == ""


def test_what_was_known_before_is_told_first() -> None:
    made = result(answer([7], sampler_name="UniPC"), request(warnings=("The LoRA 'x' is not known.",)))
    assert made["warnings"][0] == "The LoRA 'x' is not known."
    assert len(made["warnings"]) == 2


VALUES = st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=5) | st.lists(st.integers(0, 9), max_size=3)
FIELDS = st.sampled_from([*info([7])])


def outcome(whole: Any) -> list[Done] | None:
    try:
        return results([request(), request()], [whole], 7, MODEL)
    except EngineRefusedError:
        return None


@given(
    st.dictionaries(FIELDS, VALUES, max_size=5),
    st.lists(st.just(picture(7)) | st.text(max_size=8) | VALUES, max_size=4),
)
def test_any_answer_becomes_results_or_is_refused(odd: dict[str, Any], images: list[Any]) -> None:
    done = outcome({"images": images, "info": json.dumps(info([7, 8]) | odd)})
    for one in done or []:
        assert len(one.result["images"]) == len(one.result["seeds"]) == 1
        assert json.dumps(one.result)


@pytest.mark.parametrize(
    ("asked", "used", "warnings"),
    [
        ("karras", "Karras", []),
        ("sgm_uniform", "SGM Uniform", []),
        ("Automatic", "Karras", []),
        (None, "Karras", []),
        ("karras", None, []),
        ("karras", "Exponential", ["The WebUI used the scheduler 'Exponential' instead of 'karras'."]),
    ],
)
def test_another_scheduler_than_the_one_asked_for_is_told(
    asked: str | None, used: str | None, warnings: list[str]
) -> None:
    extra = {} if used is None else {"Schedule type": used}
    made = result(answer([7], extra_generation_params=extra), request(scheduler=asked))
    assert made.get("warnings", []) == warnings
