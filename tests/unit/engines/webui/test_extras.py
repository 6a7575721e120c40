"""Hires fix, refiner, styles and their like: run where the WebUI has them, refused by name where it has not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.engines.webui.test_request import ABLE, FULL, SILENT, img, limits, prepared, refused, txt
from velesio_worker.engines.webui.catalogue import Catalogue
from velesio_worker.engines.webui.extras import NAMES
from velesio_worker.engines.webui.request import ImageRequest
from velesio_worker.wire.errors import BadJobError

pytestmark = pytest.mark.anyio

NO_EFFECT: dict[str, Any] = {
    "enable_hr": False,
    "denoising_strength": 0.6,
    "hr_scale": 2,
    "hr_upscaler": "",
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_checkpoint_name": "Use same checkpoint",
    "hr_sampler_name": "Use same sampler",
    "hr_scheduler": "Use same scheduler",
    "hr_prompt": "",
    "hr_negative_prompt": "",
    "refiner_checkpoint": "None",
    "refiner_switch_at": 0,
    "styles": [],
    "tiling": False,
    "restore_faces": False,
    "s_churn": 0,
    "s_tmin": 0,
    "s_tmax": 0,
    "s_noise": 1,
    "eta": 0,
    "send_images": True,
    "save_images": False,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
}
"""Of each field the value that changes nothing."""


async def plain_server(**more: Any) -> ImageRequest:
    return await prepared(txt(**more), SILENT, settable=False)


@pytest.mark.parametrize("names", [[name] for name in NO_EFFECT] + [list(NO_EFFECT)], ids=str)
async def test_values_of_no_effect_are_taken_by_every_image_engine(names: list[str]) -> None:
    given = {name: NO_EFFECT[name] for name in names}
    asked = [txt(**given), img(**given)]
    for request in [
        *[await prepared(one, ABLE) for one in asked],
        *[await prepared(one, FULL) for one in asked],
        *[await prepared(one, SILENT, settable=False) for one in asked],
    ]:
        assert request.warnings == ()
        assert "enable_hr" not in request.body
    assert not set(NAMES) & set((await plain_server(**given)).body), "a server that knows none of it gets none of it"


ASKED: list[tuple[dict[str, Any], str]] = [
    ({"enable_hr": True}, "data.enable_hr"),
    ({"enable_hr": True, "hr_upscaler": "Latent"}, "data.enable_hr"),
    ({"refiner_checkpoint": "tinyB"}, "data.refiner_checkpoint"),
    ({"styles": ["Noir"]}, "data.styles"),
    ({"tiling": True}, "data.tiling"),
    ({"restore_faces": True}, "data.restore_faces"),
    ({"s_churn": 0.1}, "data.s_churn"),
    ({"s_tmin": 0.1}, "data.s_tmin"),
    ({"s_tmax": 0.1}, "data.s_tmax"),
    ({"s_noise": 0.9}, "data.s_noise"),
    ({"eta": 0.5}, "data.eta"),
]


@pytest.mark.parametrize(("more", "field"), ASKED, ids=str)
async def test_what_an_image_engine_has_not_is_refused_by_name(more: dict[str, Any], field: str) -> None:
    with pytest.raises(BadJobError) as caught:
        await plain_server(**more)
    assert str(caught.value).startswith(f"{field}: this image engine ")
    request = await prepared(txt(**more), ABLE)
    assert set(more) <= set(request.body), "and run where it is there"
    assert request.warnings == ()


@pytest.mark.parametrize(
    ("lacking", "more", "field"),
    [
        ({"upscalers": None}, {"enable_hr": True}, "data.enable_hr"),
        ({"refiner": False}, {"refiner_checkpoint": "tinyB"}, "data.refiner_checkpoint"),
        ({"styles": None}, {"styles": ["Noir"]}, "data.styles"),
        ({"face_restorers": frozenset[str]()}, {"restore_faces": True}, "data.restore_faces"),
    ],
)
async def test_a_webui_without_one_of_them_refuses_that_one(
    lacking: dict[str, Any], more: dict[str, Any], field: str
) -> None:
    assert (await refused(txt(**more), replace(ABLE, **lacking))).startswith(f"{field}: this image engine has no ")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"hr_upscaler": "NoSuch"}, "data.hr_upscaler: no upscaler 'NoSuch'; there are Latent, None, R-ESRGAN 4x+."),
        ({"hr_checkpoint_name": "x"}, "data.hr_checkpoint_name: no image model 'x'; there are tinyB."),
        ({"hr_sampler_name": "x"}, "data.hr_sampler_name: no sampler 'x'; there are DPM++ 2M, Euler, Euler a."),
        ({"hr_scheduler": "x"}, "data.hr_scheduler: no scheduler 'x'; there are automatic, karras, sgm_uniform."),
        ({"refiner_checkpoint": "tiny"}, "data.refiner_checkpoint: no image model 'tiny'; there are tinyB."),
        ({"styles": ["Noir", "x"]}, "data.styles: no style 'x'; there are Noir, Sketch."),
    ],
)
async def test_names_that_the_webui_has_not_are_refused_with_those_it_has(more: dict[str, Any], said: str) -> None:
    assert await refused(txt(enable_hr=True, **more), ABLE) == said


async def test_names_are_sent_as_the_webui_writes_them() -> None:
    asked = txt(
        enable_hr=True,
        hr_upscaler="r-esrgan 4x+",
        hr_checkpoint_name="tinyB",
        hr_sampler_name="dpm++_2m sgm uniform",
        refiner_checkpoint="0123",
        styles=["None", "Sketch", ""],
    )
    body = (await prepared(asked, ABLE)).body
    assert body["hr_upscaler"] == "R-ESRGAN 4x+"
    assert (body["hr_sampler_name"], body["hr_scheduler"]) == ("DPM++ 2M", "SGM Uniform")
    assert body["hr_checkpoint_name"] == body["refiner_checkpoint"] == "tinyB.safetensors [0123]"
    assert body["styles"] == ["Sketch"]


async def test_what_a_webui_without_a_word_does_badly_has_a_default() -> None:
    body = (await prepared(txt(enable_hr=True, refiner_checkpoint="tinyB"), ABLE)).body
    assert body["denoising_strength"] == 0.75, "the WebUI fails without one"
    assert body["refiner_switch_at"] == 0.8, "the WebUI would use the refiner alone"


async def test_what_was_added_meanwhile_is_found() -> None:
    later = replace(ABLE, styles=frozenset({"New"}))
    assert (await prepared(txt(styles=["New"]), ABLE, later=later)).body["styles"] == ["New"]


async def test_second_pass_parameters_without_a_second_pass_are_told_of() -> None:
    request = await prepared(txt(hr_scale=3, hr_upscaler="Latent"), ABLE)
    assert request.warnings == ("Without enable_hr of no effect: hr_scale, hr_upscaler.",)
    assert "hr_scale" not in request.body
    assert (await prepared(txt(hr_scale=3, enable_hr=False), ABLE)).warnings == (), "it was said"


@pytest.mark.parametrize(
    ("more", "final"),
    [
        ({}, (1024, 1024)),
        ({"hr_scale": 1.5}, (768, 768)),
        ({"hr_scale": 1.3}, (664, 664)),
        ({"width": 768, "hr_resize_x": 1152}, (1152, 768)),
        ({"width": 768, "hr_resize_y": 1024}, (1536, 1024)),
        ({"hr_resize_x": 1024, "hr_resize_y": 768}, (1024, 768)),
    ],
)
async def test_the_size_limit_counts_the_final_size(more: dict[str, Any], final: tuple[int, int]) -> None:
    asked = txt(enable_hr=True, **more)
    assert asked.final_size == final
    exactly = final[0] * final[1]
    assert (await prepared(asked, ABLE, limits(sd_max_pixels=exactly))).body["enable_hr"] is True
    said = await refused(asked, ABLE, limits(sd_max_pixels=exactly - 1))
    assert f"{final[0]}x{final[1]}" in said
    assert "SD_MAX_PIXELS" in said


async def test_no_second_pass_is_larger_than_what_is_kept_of_it_by_much() -> None:
    asked = txt(width=1024, height=64, enable_hr=True, hr_resize_x=64, hr_resize_y=1024)
    assert asked.enlarged == (16384, 1024)
    said = await refused(asked, ABLE, limits(sd_max_pixels=1024 * 1024))
    assert "16384x1024 pixels would be made and 64x1024 of them kept" in said


async def test_a_final_size_that_is_none_is_refused() -> None:
    assert "64 or more" in await refused(txt(enable_hr=True, hr_scale=0.01), ABLE)
    assert "64 or more" in await refused(txt(enable_hr=True, height=64, hr_resize_x=128), ABLE)


async def test_images_from_images_take_them_too_but_for_the_hires_fix() -> None:
    body = (await prepared(img(tiling=True, styles=["Noir"], refiner_checkpoint="tinyB", eta=0.5), ABLE)).body
    assert {"tiling", "styles", "refiner_checkpoint", "refiner_switch_at", "eta"} <= set(body)
    assert (await refused(img(enable_hr=True), ABLE)).startswith("data.enable_hr: a hires fix is txt2img's alone")


async def test_a_setting_of_the_webui_that_goes_before_a_jobs_is_told_of() -> None:
    set_so = replace(ABLE, options={"s_churn": 0.5, "s_noise": 1.0, "s_tmax": 0})
    asked = txt(s_churn=0.2, s_noise=0.9, s_tmax=3)
    assert (await prepared(asked, set_so)).warnings == ("The WebUI's own setting s_churn, 0.5, goes before the job's.",)
    assert (await prepared(txt(s_churn=0.5), set_so)).warnings == ()


async def test_a_job_that_leaves_the_defaults_to_the_engine_sends_what_it_gave() -> None:
    sent = {"send_images", "save_images", "do_not_save_samples", "do_not_save_grid"}
    for catalogue in (ABLE, SILENT):
        body = (await prepared(txt(defaults="engine"), catalogue)).body
        assert set(body) == {"prompt"} | sent
    body = (await prepared(txt(defaults="engine", steps=5, sampler_name="Euler Karras", tiling=True), ABLE)).body
    assert set(body) == {"prompt", "steps", "sampler_name", "scheduler", "tiling"} | sent
    said = await refused(txt(defaults="engine", width=8192, height=8192))
    assert "SD_MAX_PIXELS" in said
    assert "SD_MAX_PIXELS" in await refused(txt(defaults="engine", enable_hr=True, hr_scale=8), ABLE)
    assert (await prepared(img(defaults="engine"), ABLE)).body.keys() == {"prompt", "init_images"} | sent


async def test_prompts_in_the_arguments_of_a_script_have_the_limits_of_prompts() -> None:
    allowed = limits(sd_scripts="prompts from file or textbox")
    lines = "(a cat:1.1), [a dog]\n" * 500
    asked: dict[str, Any] = {"script_name": "prompts from file or textbox", "script_args": [False, lines]}
    assert (await prepared(txt(**asked), ABLE, allowed)).body["script_args"] == [False, lines]
    asked["script_args"] = [False, {"lines": ["a cat\n" + "(" * 3000]}]
    said = await refused(txt(**asked), ABLE, allowed)
    assert said.startswith("data.script_args: a line has 3000 of the signs")


NAMED_TWICE = [("Euler a SGM Uniform", "Euler a", "SGM Uniform"), ("dpm++_2m_sgm_uniform", "DPM++ 2M", "SGM Uniform")]


@pytest.mark.parametrize(("said", "sampler", "scheduler"), NAMED_TWICE)
async def test_any_scheduler_may_stand_behind_a_samplers_name(said: str, sampler: str, scheduler: str) -> None:
    body = (await prepared(txt(sampler_name=said), ABLE)).body
    assert (body["sampler_name"], body["scheduler"]) == (sampler, scheduler)


async def test_the_scheduler_is_always_sent_and_as_the_webui_shows_it() -> None:
    assert (await prepared(txt(), ABLE)).body["scheduler"] == "Automatic"
    assert (await prepared(txt(scheduler="karras"), ABLE)).body["scheduler"] == "Karras"
    assert (await prepared(txt(scheduler="Karras"), ABLE, settable=False)).body["scheduler"] == "karras", "no WebUI"
    assert "scheduler" not in (await prepared(txt(), ABLE, settable=False)).body
    assert "scheduler" not in (await prepared(txt(), Catalogue(samplers=ABLE.samplers))).body, "where there is none"


async def test_each_sampler_is_listed_once() -> None:
    aliased = replace(ABLE, samplers={"eulera": "Euler a", "keulera": "Euler a", "keulerancestral": "Euler a"})
    assert await refused(txt(sampler_name="x"), aliased) == "data.sampler_name: no sampler 'x'; there are Euler a."


@pytest.mark.parametrize(
    ("name", "instead"), [("Refiner", "refiner_checkpoint"), ("sampler", "sampler_name"), ("SEED", "subseed")]
)
async def test_scripts_that_only_the_pages_of_a_webui_use_are_refused_with_the_parameter(
    name: str, instead: str
) -> None:
    said = await refused(txt(alwayson_scripts={name: {"args": []}}), ABLE, limits(sd_scripts=name))
    assert said.startswith(f"data.alwayson_scripts.{name}: ")
    assert instead in said
