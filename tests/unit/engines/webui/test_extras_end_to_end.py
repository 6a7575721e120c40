"""Hires fix, refiner, styles, scripts and the engine's own defaults, from a job to its images, on a double."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson
import pytest

from tests.doubles.webui import MISSING
from tests.support.webui_bench import FAST, bench, cat, cat_from_image, size
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.image_parameters import Txt2ImgParameters
from velesio_worker.wire.jobs import parse_job

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

EVERYDAY: Final[dict[str, Any]] = {
    "prompt": "a cat",
    "negative_prompt": "",
    "steps": 2,
    "width": 64,
    "height": 64,
    "sampler_name": "DPM++ 2M Karras",
    "cfg_scale": 7,
    "seed": -1,
    "batch_size": 1,
    "n_iter": 1,
    "enable_hr": False,
    "denoising_strength": 0.6,
    "restore_faces": False,
    "tiling": False,
    "styles": [],
    "send_images": True,
    "save_images": False,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
}
"""What clients of a WebUI send with every job."""

STYLED: Final = replace(FAST, styles=(("Noir", "black and white"),))


def everyday(**more: Any) -> Txt2ImgParameters:
    job = parse_job(orjson.dumps({"id": "hr-1", "type": "txt2img", "data": EVERYDAY | more}), max_bytes=2**20)
    assert isinstance(job.parameters, Txt2ImgParameters)
    return job.parameters


@pytest.mark.parametrize("missing", [frozenset[str](), MISSING - {"info"}], ids=["WebUI", "plain server"])
async def test_the_fields_that_every_client_sends_make_an_image(missing: frozenset[str]) -> None:
    async with bench(replace(FAST, missing=missing)) as bed:
        made = await bed.start(everyday()).ended()
        assert [size(image) for image in made["images"]] == [(64, 64)]
        assert "warnings" not in made


async def test_a_hires_fix_makes_a_larger_image_and_counts_both_passes() -> None:
    async with bench() as bed:
        job = bed.start(everyday(enable_hr=True, hr_upscaler="Lanczos", hr_second_pass_steps=3))
        made = await job.ended()
        assert [size(image) for image in made["images"]] == [(128, 128)]
        assert (made["parameters"]["width"], made["parameters"]["height"]) == (128, 128)
        assert "warnings" not in made
        assert job.progress[-1].data["steps"] == 5


async def test_a_hires_fix_that_is_too_large_is_refused_before_it_is_sent() -> None:
    async with bench() as bed:
        error = await bed.start(cat(width=512, height=512, enable_hr=True)).failed()
        assert isinstance(error, BadJobError)
        assert "1024x1024" in str(error)
        assert bed.double.asked("txt2img") == []


async def test_a_refiner_and_styles_are_used() -> None:
    async with bench(STYLED) as bed:
        made = await bed.start(cat(refiner_checkpoint="tinyB", styles=["Noir"], tiling=True)).ended()
        assert made["info"]["extra_generation_params"]["Refiner"] == "tinyB.safetensors"
        assert made["info"]["prompt"] == "a cat, black and white"
        assert made["parameters"]["prompt"] == "a cat"
        assert "warnings" not in made


@pytest.mark.parametrize(
    "more", [{"enable_hr": True}, {"refiner_checkpoint": "tinyA"}, {"styles": ["Noir"]}, {"tiling": True}], ids=str
)
async def test_a_plain_server_refuses_them_by_name(more: dict[str, Any]) -> None:
    async with bench(replace(STYLED, missing=MISSING - {"info"})) as bed:
        error = await bed.start(cat(**more)).failed()
        assert isinstance(error, BadJobError)
        assert str(error).startswith(f"data.{next(iter(more))}: ")
        assert bed.double.asked("txt2img") == []


@pytest.mark.parametrize(
    "more",
    [
        *({}, {"sampler_name": "Euler a SGM Uniform"}, {"sampler_name": "euler_a", "scheduler": "karras"}),
        {"scheduler": "SGMUniform"},
        {"sampler_name": "k_dpmpp_2m", "defaults": "engine"},
        {"enable_hr": True, "hr_sampler_name": "Euler Karras"},
    ],
    ids=str,
)
async def test_the_webui_has_nothing_to_correct_in_names_of_samplers_and_schedulers(more: dict[str, Any]) -> None:
    async with bench() as bed:
        for parameters in (cat(**more), *(() if "enable_hr" in more else (cat_from_image(**more),))):
            assert "warnings" not in await bed.start(parameters).ended()
        assert bed.double.log == []


async def test_a_job_that_leaves_the_defaults_to_the_engine_gets_them() -> None:
    async with bench() as bed:
        job = bed.start(Txt2ImgParameters(prompt="a cat", width=64, height=64, defaults="engine"))
        made = await job.ended()
        (sent,) = bed.double.asked("txt2img")
        assert {"steps", "cfg_scale", "sampler_name", "scheduler"}.isdisjoint(sent)
        assert (made["parameters"]["steps"], made["parameters"]["cfg_scale"]) == (50, 7.0)
        assert job.progress[-1].data["steps"] == 50
        assert "warnings" not in made


async def test_a_plot_that_is_a_grid_alone_is_the_result() -> None:
    async with bench() as bed:
        plot = await bed.start(cat(script_name="x/y/z plot", script_args=[4, "1,2,3"], seed=5)).ended()
        assert len(plot["images"]) == len(plot["seeds"]) == 1
        assert size(plot["images"][0]) > (64, 64)
        assert "warnings" not in plot


async def test_a_loopback_has_its_images_and_no_grid_among_them() -> None:
    async with bench() as bed:
        made = await bed.start(cat_from_image(script_name="Loopback", script_args=[3])).ended()
        assert [size(image) for image in made["images"]] == [(64, 64)] * 3
        assert len(made["seeds"]) == 3
        assert "warnings" not in made


async def test_images_that_are_more_than_one_and_fewer_than_the_batch_are_refused() -> None:
    async with bench() as bed:
        picture = cat_from_image().init_images[0]
        for count, batch in ((1, 3), (3, 3)):
            made = await bed.start(cat_from_image(init_images=[picture] * count, batch_size=batch)).ended()
            assert len(made["images"]) == 3
        error = await bed.start(cat_from_image(init_images=[picture] * 2, batch_size=3)).failed()
        assert isinstance(error, BadJobError)
        assert "send one, or as many as batch_size" in str(error)


async def test_networks_that_are_not_there_are_told_of() -> None:
    async with bench(replace(FAST, loras=("details",), hypernetworks=("ink",))) as bed:
        known = await bed.start(cat(prompt="<lora:details:1> <lyco:details> <hypernet:ink:1>")).ended()
        assert "warnings" not in known
        prompt = "<lora:details:strong> <lyco:gone> <hypernet:gone:1>"
        said = (await bed.start(cat(prompt=prompt)).ended())["warnings"]
        assert len(said) == 3
