"""Results become what a WebUI would have answered."""

from __future__ import annotations

from typing import Any

import orjson

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.sdapi.answers import error_body, image_answer
from velesio_worker.gateway.sdapi.fields import Img2ImgRequest, Txt2ImgRequest

RESULT: dict[str, Any] = {
    "images": ["AAAA", "BBBB"],
    "parameters": {
        "prompt": "a cat",
        "negative_prompt": "",
        "steps": 50,
        "seed": 7,
        "width": 512,
        "height": 512,
        "cfg_scale": 7.0,
        "sampler_name": "Euler",
        "batch_size": 2,
        "n_iter": 1,
        "model": "tiny",
    },
    "seeds": [7, 8],
    "info": {"seed": 7, "all_seeds": [7, 8], "infotexts": ["a cat", "a cat"], "sd_model_name": "tinyA"},
}


def test_images_are_bare_and_info_is_a_string() -> None:
    answer = image_answer(Txt2ImgRequest(prompt="a cat", batch_size=2), RESULT)
    assert answer.keys() == {"images", "parameters", "info"}
    assert answer["images"] == ["AAAA", "BBBB"]
    info = orjson.loads(answer["info"])
    assert (info["seed"], info["all_seeds"], info["sd_model_name"]) == (7, [7, 8], "tinyA")
    assert info["infotexts"] == ["a cat", "a cat"]
    assert info["index_of_first_image"] == 0


def test_an_engine_that_says_nothing_of_its_images_has_its_seeds_told_all_the_same() -> None:
    info = orjson.loads(image_answer(Txt2ImgRequest(), RESULT | {"info": {}})["info"])
    assert (info["seed"], info["all_seeds"], info["sd_model_name"], info["steps"]) == (7, [7, 8], "tiny", 50)


def test_warnings_stand_in_info() -> None:
    answer = image_answer(Txt2ImgRequest(), RESULT | {"warnings": ["The WebUI knows no LoRA 'x'."]})
    assert orjson.loads(answer["info"])["warnings"] == ["The WebUI knows no LoRA 'x'."]


def test_parameters_are_the_body_and_what_the_engine_decided() -> None:
    parameters = image_answer(Txt2ImgRequest(prompt="a cat", steps=4, sampler_index="Euler"), RESULT)["parameters"]
    assert (parameters["seed"], parameters["steps"]) == (-1, 4)
    assert (parameters["width"], parameters["cfg_scale"], parameters["sampler_name"]) == (512, 7.0, "Euler")
    assert parameters["enable_hr"] is False


def test_images_that_nobody_wants_are_left_out() -> None:
    answer = image_answer(Txt2ImgRequest(send_images=False), RESULT)
    assert answer["images"] == []
    assert orjson.loads(answer["info"])["all_seeds"] == [7, 8]


def test_images_to_begin_with_are_repeated_only_if_wanted() -> None:
    body = Img2ImgRequest(init_images=["CCCC"], mask="DDDD")
    parameters = image_answer(body, RESULT)["parameters"]
    assert (parameters["init_images"], parameters["mask"]) == (None, None)
    body.include_init_images = True
    parameters = image_answer(body, RESULT)["parameters"]
    assert (parameters["init_images"], parameters["mask"]) == (["CCCC"], "DDDD")


def test_a_job_that_was_interrupted_has_no_images() -> None:
    answer = image_answer(Txt2ImgRequest(), {"images": [], "finish_reason": "cancelled", "usage": None})
    assert answer["images"] == []
    assert orjson.loads(answer["info"])["all_seeds"] == []


def test_an_error_has_its_sentence_where_clients_look_for_it() -> None:
    assert error_body(ApiError(400, "invalid_request", "data.steps: 1 or more")) == {
        "error": "invalid_request",
        "detail": "data.steps: 1 or more",
        "body": "",
        "errors": "data.steps: 1 or more",
    }
