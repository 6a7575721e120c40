"""The WebUI's bodies become jobs that the worker's own models take, or that it refuses by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import orjson
import pytest
from pydantic import ValidationError

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.sdapi.fields import Img2ImgRequest, Txt2ImgRequest
from velesio_worker.gateway.sdapi.translation import job_of
from velesio_worker.wire.image_parameters import ImageParameters, Img2ImgParameters
from velesio_worker.wire.jobs import RefusedJobError, parse_job

TRANSCRIPTS: Final = Path(__file__).parents[5] / "shared" / "sdapi-transcripts"
PNG: Final = "iVBORw0KGgo="

OPEN_WEBUI: dict[str, Any] = {
    "prompt": "a cat",
    "batch_size": 1,
    "width": 512,
    "height": 512,
    "steps": 20,
    "negative_prompt": "a dog",
    "cfg_scale": 7,
    "sampler_name": "Euler a",
    "scheduler": "Karras",
}
SILLY_TAVERN: dict[str, Any] = {
    "prompt": "a cat",
    "negative_prompt": "",
    "sampler_name": "DPM++ 2M",
    "scheduler": "Karras",
    "steps": 20,
    "cfg_scale": 7,
    "width": 512,
    "height": 768,
    "restore_faces": False,
    "enable_hr": True,
    "hr_upscaler": "Latent",
    "hr_scale": 1.5,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "seed": -1,
    "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic", "forge_additional_modules": []},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
    "url": "http://localhost:7860",
    "auth": "user:password",
}
WEBUIAPI: dict[str, Any] = {
    "prompt": "a cat",
    "negative_prompt": "",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0.0,
    "seed_resize_from_h": 0,
    "seed_resize_from_w": 0,
    "sampler_name": None,
    "sampler_index": "Euler a",
    "batch_size": 1,
    "n_iter": 1,
    "steps": None,
    "cfg_scale": 7.0,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "tiling": False,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "eta": 1.0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "script_args": [],
    "script_name": None,
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
    "enable_hr": False,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "refiner_checkpoint": "",
    "refiner_switch_at": 0,
}
TO_PAINT: dict[str, Any] = {
    "init_images": [PNG],
    "resize_mode": 0,
    "denoising_strength": 0.75,
    "image_cfg_scale": None,
    "mask": PNG,
    "mask_blur_x": 4,
    "mask_blur_y": 4,
    "inpainting_fill": 1,
    "inpaint_full_res": 1,
    "inpaint_full_res_padding": 32,
    "inpainting_mask_invert": 0,
    "initial_noise_multiplier": 1,
    "mask_round": True,
    "include_init_images": True,
}


def taken(job: tuple[str, dict[str, Any]]) -> ImageParameters:
    """Have the worker read a job; returns its parameters."""
    job_type, data = job
    parameters = parse_job(orjson.dumps({"id": "a", "type": job_type, "data": data}), max_bytes=1 << 20).parameters
    assert isinstance(parameters, ImageParameters)
    return parameters


@pytest.mark.parametrize("body", [OPEN_WEBUI, SILLY_TAVERN, WEBUIAPI, {}, {"prompt": None, "nonsense": 1}])
def test_the_worker_takes_the_bodies_of_known_clients(body: dict[str, Any]) -> None:
    assert taken(job_of(Txt2ImgRequest.model_validate(body))).defaults == "engine"


@pytest.mark.parametrize("body", [OPEN_WEBUI, WEBUIAPI, {}])
def test_the_worker_takes_images_to_begin_with(body: dict[str, Any]) -> None:
    job = job_of(Img2ImgRequest.model_validate(body | TO_PAINT))
    parameters = taken(job)
    assert job[0] == "img2img"
    assert isinstance(parameters, Img2ImgParameters)
    assert (parameters.mask, parameters.mask_blur, parameters.inpaint_full_res) == (PNG, 4, True)


def recorded() -> list[Any]:
    """Return the bodies that a real WebUI was sent, as it repeated them."""
    bodies: list[Any] = []
    for path in sorted(TRANSCRIPTS.glob("*2img_*.json")):
        answer = orjson.loads(path.read_bytes())
        body: Any = answer.get("body")
        parameters: Any = cast("dict[str, Any]", body).get("parameters") if isinstance(body, dict) else None
        if parameters:
            bodies.append(pytest.param(path.stem, parameters, id=path.stem))
    return bodies


def worker_would_refuse(name: str, parameters: dict[str, Any]) -> bool:
    """Whether a body asks for what the worker has bounds for and a WebUI quietly makes something else of."""
    odd_side = any(side % 8 or side < 64 for side in (parameters["width"], parameters["height"]))
    return odd_side or "strength2" in name or "badalwayson" in name


@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="the transcripts of a real WebUI are not here")
def test_there_are_transcripts() -> None:
    assert len(recorded()) > 10


@pytest.mark.parametrize(("name", "parameters"), recorded())
def test_the_worker_takes_what_a_real_webui_took(name: str, parameters: dict[str, Any]) -> None:
    of_images = "init_images" in parameters
    model = Img2ImgRequest if of_images else Txt2ImgRequest
    body = parameters | ({"init_images": [PNG]} if of_images else {})
    job = job_of(model.model_validate(body))
    if worker_would_refuse(name, parameters):
        with pytest.raises(RefusedJobError):
            taken(job)
    else:
        assert taken(job).prompt == parameters["prompt"]


def test_what_is_not_given_is_the_engines() -> None:
    assert job_of(Txt2ImgRequest()) == ("txt2img", {"defaults": "engine", "prompt": ""})


def test_the_checkpoint_of_the_settings_is_the_jobs_model() -> None:
    settings = {"sd_model_checkpoint": "tiny", "sd_vae": "Automatic", "CLIP_stop_at_last_layers": None}
    _, data = job_of(Txt2ImgRequest.model_validate({"override_settings": settings}))
    assert (data["model"], data["override_settings"]) == ("tiny", {"sd_vae": "Automatic"})


def test_an_old_name_of_the_sampler_counts_where_there_is_no_other() -> None:
    old = job_of(Txt2ImgRequest(sampler_index="Euler"))[1]
    both = job_of(Txt2ImgRequest(sampler_index="Euler", sampler_name="Heun"))[1]
    assert (old["sampler_name"], both["sampler_name"]) == ("Euler", "Heun")
    assert "sampler_index" not in old | both


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed_resize_from_h", 512),
        ("s_min_uncond", 0.5),
        ("disable_extra_networks", True),
        ("firstpass_image", PNG),
        ("infotext", "a dog\nSteps: 3"),
        ("firstphase_width", 256),
    ],
)
def test_what_would_change_the_image_and_no_worker_has_is_refused_by_name(name: str, value: Any) -> None:
    job = job_of(Txt2ImgRequest.model_validate({"prompt": "a cat", name: value}))
    with pytest.raises(RefusedJobError, match=f"data.{name}: unknown parameter"):
        taken(job)


@pytest.mark.parametrize(("name", "value"), [("latent_mask", PNG), ("image_cfg_scale", 1.5), ("mask_round", False)])
def test_the_same_of_images_to_begin_with(name: str, value: Any) -> None:
    job = job_of(Img2ImgRequest.model_validate({"init_images": [PNG], name: value}))
    with pytest.raises(RefusedJobError, match=f"data.{name}: unknown parameter"):
        taken(job)


@pytest.mark.parametrize(
    ("axes", "sent"),
    [
        ({"mask_blur_x": 8, "mask_blur_y": 8}, {"mask_blur": 8}),
        ({"mask_blur_x": 4, "mask_blur_y": 4, "mask_blur": 9}, {"mask_blur": 9}),
        ({"mask_blur_x": 8, "mask_blur_y": 4}, {"mask_blur_x": 8, "mask_blur_y": 4}),
        ({"mask_blur_x": 8}, {"mask_blur_x": 8}),
        ({}, {}),
    ],
)
def test_a_masks_blur_by_its_axes(axes: dict[str, int], sent: dict[str, int]) -> None:
    _, data = job_of(Img2ImgRequest.model_validate({"init_images": [PNG], "mask": PNG} | axes))
    assert {name: value for name, value in data.items() if name.startswith("mask_blur")} == sent


@pytest.mark.parametrize("images", [[], None])
def test_an_image_to_begin_with_is_needed(images: Any) -> None:
    with pytest.raises(ApiError, match="Init image not found") as caught:
        job_of(Img2ImgRequest.model_validate({"init_images": images}))
    assert caught.value.status == 404


def test_images_are_never_fetched() -> None:
    job = job_of(Img2ImgRequest(init_images=["http://127.0.0.1/a.png"]))
    with pytest.raises(RefusedJobError, match="never fetched"):
        taken(job)


@pytest.mark.parametrize("body", [{"steps": "many"}, {"prompt": ["a"]}, {"styles": "one"}, {"override_settings": 1}])
def test_wrong_types_are_no_bodies(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Txt2ImgRequest.model_validate(body)
