"""What is sent to a WebUI for a job, and what is refused before it is."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.webui import sample_image
from tests.support.webui_bench import decoding
from velesio_worker.core.settings import Settings
from velesio_worker.engines.webui.catalogue import Catalogue, ImageModel, plain
from velesio_worker.engines.webui.extras import HIRES
from velesio_worker.engines.webui.limits import names_in
from velesio_worker.engines.webui.request import ImageRequest, draw_seed, prepare, with_numbers
from velesio_worker.wire.errors import BadJobError, EngineUnavailableError, OutOfMemoryError
from velesio_worker.wire.image_parameters import ImageParameters, Img2ImgParameters, Txt2ImgParameters

pytestmark = pytest.mark.anyio

SECRET = "a very private prompt"
LIMITS = Settings(
    sd_max_pixels=2048 * 2048,
    sd_max_batch=4,
    sd_max_images=16,
    sd_override_settings="CLIP_stop_at_last_layers, sd_vae",
    sd_scripts="",
)
DECODE = decoding(LIMITS)
IMAGE = sample_image()
TORN = base64.b64encode(base64.b64decode(IMAGE)[:150]).decode()
NO_IMAGE = base64.b64encode(b"SECRET, and no image at all").decode()


def limits(**other: Any) -> Settings:
    return LIMITS.model_copy(update=other)


def named(*names: str) -> dict[str, str]:
    return {plain(name): name for name in names}


FULL = Catalogue(
    samplers=named("Euler a", "Euler", "DPM++ 2M"), schedulers=named("karras", "simple"), loras=frozenset({"details"})
)
ABLE = replace(
    FULL,
    models=(ImageModel("tinyB", "tinyB.safetensors [0123]", "/m/tinyB.safetensors", "0123"),),
    schedulers=named("automatic", "karras", "sgm_uniform"),
    labels={"automatic": "Automatic", "karras": "Karras", "sgm_uniform": "SGM Uniform"},
    upscalers=named("None", "Latent", "R-ESRGAN 4x+"),
    styles=frozenset({"Noir", "Sketch"}),
    hypernetworks=frozenset({"ink"}),
    face_restorers=frozenset({"CodeFormer"}),
    refiner=True,
)
"""What an AUTOMATIC1111 of today tells."""

SILENT = Catalogue()
"""Of a server that does not tell what it has."""


class Shelf:
    """What a WebUI has when it is asked again."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.asked = 0

    async def refresh(self) -> Catalogue:
        self.asked += 1
        return self.catalogue


def txt(**more: Any) -> Txt2ImgParameters:
    return Txt2ImgParameters.model_validate({"prompt": SECRET} | more)


def img(**more: Any) -> Img2ImgParameters:
    return Img2ImgParameters.model_validate({"prompt": SECRET, "init_images": [IMAGE]} | more)


async def prepared(
    parameters: ImageParameters,
    catalogue: Catalogue = FULL,
    limits: Settings = LIMITS,
    later: Catalogue | None = None,
    *,
    settable: bool = True,
) -> ImageRequest:
    return await prepare(
        parameters, catalogue, limits, Shelf(later or catalogue).refresh, decoding(limits), settable=settable
    )


async def refused(
    parameters: ImageParameters,
    catalogue: Catalogue = FULL,
    limits: Settings = LIMITS,
    later: Catalogue | None = None,
) -> str:
    with pytest.raises(BadJobError) as caught:
        await prepared(parameters, catalogue, limits, later)
    said = str(caught.value)
    assert SECRET not in said
    assert IMAGE[:40] not in said
    assert len(said) < 500
    return said


async def test_a_plain_job_is_sent_with_the_protocols_defaults_and_nothing_is_kept() -> None:
    request = await prepared(txt())
    assert request.route == "txt2img"
    assert request.body_with(7, 2) == {
        "prompt": SECRET,
        "negative_prompt": "",
        "width": 512,
        "height": 512,
        "steps": 20,
        "cfg_scale": 7.5,
        "sampler_name": "Euler a",
        "seed": 7,
        "batch_size": 2,
        "n_iter": 1,
        "send_images": True,
        "save_images": False,
        "do_not_save_samples": True,
        "do_not_save_grid": True,
    }
    assert request.seed is None
    assert request.warnings == ()


async def test_nothing_is_sent_as_null() -> None:
    request = await prepared(img(mask=None, scheduler=None, subseed=None, override_settings=None))
    assert None not in request.body.values()


async def test_no_field_of_a_job_is_left_out() -> None:
    """A field that is new must be sent, too: this fails until it is."""
    everything: dict[str, Any] = {
        "negative_prompt": "dogs",
        "width": 64,
        "height": 72,
        "steps": 4,
        "cfg_scale": 1,
        "sampler_name": "Euler",
        "scheduler": "karras",
        "seed": 3,
        "subseed": 4,
        "subseed_strength": 0.5,
        "batch_size": 2,
        "n_iter": 3,
        "override_settings": {"sd_vae": "None"},
        "script_name": "loopback",
        "script_args": [1],
        "alwayson_scripts": {"hypertile": {"args": []}},
        "styles": ["Noir"],
        "tiling": True,
        "restore_faces": True,
        "refiner_checkpoint": "tinyB.safetensors [0123]",
        "refiner_switch_at": 0.7,
        "s_churn": 0.5,
        "s_tmin": 0.1,
        "s_tmax": 9,
        "s_noise": 1.1,
        "eta": 0.3,
        "init_images": [IMAGE],
        "denoising_strength": 0.5,
        "mask": IMAGE,
        "mask_blur": 4,
        "inpainting_fill": 1,
        "inpainting_mask_invert": 1,
        "inpaint_full_res": True,
        "inpaint_full_res_padding": 32,
        "resize_mode": 1,
    }
    everything |= {"scheduler": "Karras"}
    allowing = limits(sd_scripts="loopback,hypertile")
    request = await prepared(img(**everything, model="tinyA"), ABLE, allowing)
    body = request.body_with(3, 2)
    assert {name: body.get(name) for name in everything} == everything
    left_out = {name for name in set(Img2ImgParameters.model_fields) - set(body) if "hr" not in name.split("_")}
    assert left_out == {"model", "defaults"}, "the model is loaded before"
    assert request.seed == 3
    hires: dict[str, Any] = {
        "denoising_strength": 0.6,
        "enable_hr": True,
        "hr_scale": 1.5,
        "hr_upscaler": "R-ESRGAN 4x+",
        "hr_second_pass_steps": 3,
        "hr_resize_x": 128,
        "hr_resize_y": 136,
        "hr_checkpoint_name": "tinyB.safetensors [0123]",
        "hr_sampler_name": "Euler",
        "hr_scheduler": "SGM Uniform",
        "hr_prompt": "a second cat",
        "hr_negative_prompt": "no dog",
    }
    body = (await prepared(txt(**hires), ABLE)).body
    assert {name: body.get(name) for name in hires} == hires
    assert set(HIRES) <= set(hires)


async def test_overrides_are_taken_back_afterwards() -> None:
    request = await prepared(txt(override_settings={"CLIP_stop_at_last_layers": 2}))
    assert request.body["override_settings"] == {"CLIP_stop_at_last_layers": 2}
    assert request.body["override_settings_restore_afterwards"] is True


async def test_a_batch_begins_with_its_seed_and_leaves_the_request_as_it_is() -> None:
    request = await prepared(txt())
    assert request.body_with(5, 3)["seed"] == 5
    assert request.body_with(8, 1)["batch_size"] == 1
    assert "seed" not in request.body


async def test_names_are_sent_as_the_webui_writes_them() -> None:
    body = (await prepared(txt(sampler_name="dpm++_2m", scheduler="Karras"))).body
    assert (body["sampler_name"], body["scheduler"]) == ("DPM++ 2M", "karras")


async def test_a_name_from_before_schedulers_is_sent_as_two() -> None:
    body = (await prepared(txt(sampler_name="DPM++ 2M Karras"))).body
    assert (body["sampler_name"], body["scheduler"]) == ("DPM++ 2M", "karras")
    body = (await prepared(txt(sampler_name="DPM++ 2M Karras", scheduler="simple"))).body
    assert body["scheduler"] == "simple", "what was asked for by its own name goes first"


async def test_the_protocols_default_sampler_is_the_webuis_where_there_is_none_of_that_name() -> None:
    other = replace(FULL, samplers=named("UniPC"))
    assert "sampler_name" not in (await prepared(txt(), other)).body
    assert "no sampler 'Euler a'" in await refused(txt(sampler_name="Euler a"), other)


async def test_a_webui_that_does_not_tell_what_it_has_gets_what_was_asked_for() -> None:
    body = (await prepared(txt(sampler_name="Any", scheduler="thing", prompt="<lora:x:1>"), SILENT)).body
    assert (body["sampler_name"], body["scheduler"]) == ("Any", "thing")


@pytest.mark.parametrize(
    ("more", "field", "hints"),
    [
        ({"sampler_name": "NoSuch"}, "data.sampler_name", ["'NoSuch'", "there are DPM++ 2M, Euler, Euler a"]),
        ({"scheduler": "NoSuch"}, "data.scheduler", ["'NoSuch'", "there are karras, simple"]),
        ({"override_settings": {"no_such_key": 1}}, "data.override_settings.no_such_key", ["SD_OVERRIDE_SETTINGS"]),
        ({"override_settings": {"no_such_key": 1}}, "data.override_settings", ["CLIP_stop_at_last_layers, sd_vae"]),
        ({"override_settings": {"sd_model_checkpoint": "nope"}}, "data.override_settings", ["data.model"]),
        ({"override_settings": {"sd_checkpoint_hash": "0"}}, "data.override_settings", ["data.model"]),
        ({"override_settings": {"k" * 9999: 1}}, "data.override_settings.k", ["kkk is not allowed"]),
        ({"script_name": "s" * 1000}, "data.script_name", ["sss' is not allowed"]),
        ({"script_name": "NoSuch"}, "data.script_name", ["'NoSuch'", "none is", "SD_SCRIPTS"]),
        ({"alwayson_scripts": {"NoSuch": {"args": [SECRET]}}}, "data.alwayson_scripts", ["'NoSuch'", "SD_SCRIPTS"]),
        ({"width": 2048, "height": 2056}, "data.width x data.height", ["4210688", "SD_MAX_PIXELS allows 4194304"]),
        ({"width": 16384, "height": 16384}, "data.width x data.height", ["SD_MAX_PIXELS"]),
        ({"batch_size": 5}, "data.batch_size", ["5", "SD_MAX_BATCH allows 4", "n_iter"]),
        ({"batch_size": 4, "n_iter": 5}, "data.batch_size x data.n_iter", ["20", "SD_MAX_IMAGES allows 16"]),
    ],
)
async def test_what_there_is_not_or_is_not_allowed_is_refused_with_what_there_is(
    more: dict[str, Any], field: str, hints: list[str]
) -> None:
    said = await refused(txt(**more))
    assert said.startswith(field)
    for hint in hints:
        assert hint in said


@pytest.mark.parametrize(
    "tag",
    [
        '<sd_cpp_extra_args>{"width": 8192}</sd_cpp_extra_args>',
        "<SD_CPP_EXTRA_ARGS>{}",
        "< sd_cpp_extra_args >{}",
        "</sd_cpp_extra_args>",
        "<\nsd_cpp_extra_args>",
    ],
)
async def test_parameters_cannot_be_smuggled_into_a_prompt(tag: str) -> None:
    for catalogue in (FULL, SILENT):
        said = await refused(txt(prompt=f"{SECRET} {tag}"), catalogue)
        assert said.startswith("data.prompt")
        assert "by their names" in said
    assert (await prepared(txt(negative_prompt=tag))).body["negative_prompt"] == tag, "there it is plain text"


@pytest.mark.parametrize(
    ("more", "field", "hint"),
    [
        ({"init_images": ["!!! no base64 !!!"]}, "data.init_images.0", "base64"),
        ({"init_images": ["data:image/png"]}, "data.init_images.0", "base64"),
        ({"init_images": ["data:image/png;base64;" + IMAGE]}, "data.init_images.0", "base64"),
        ({"init_images": [NO_IMAGE]}, "data.init_images.0", "send a PNG"),
        ({"init_images": [TORN]}, "data.init_images.0", "damaged or cut off"),
        ({"init_images": [IMAGE, TORN], "batch_size": 2}, "data.init_images.1", "damaged or cut off"),
        ({"init_images": [IMAGE, IMAGE]}, "data.init_images has 2 images", "batch_size is 1"),
        ({"init_images": [IMAGE, IMAGE], "batch_size": 3}, "data.init_images has 2 images", "send one, or as many"),
        ({"mask": "!!! no base64 !!!"}, "data.mask", "base64"),
        ({"mask": NO_IMAGE}, "data.mask", "send a PNG"),
        ({"init_images": [sample_image(128, 128)]}, "data.init_images.0 has 128x128 pixels", "SD_MAX_PIXELS"),
        ({"mask": sample_image(128, 128)}, "data.mask has 128x128 pixels", "SD_MAX_PIXELS"),
    ],
)
async def test_wrong_images_are_refused_with_their_place(more: dict[str, Any], field: str, hint: str) -> None:
    small = limits(sd_max_pixels=64 * 64)
    said = await refused(img(**{"width": 64, "height": 64} | more), limits=small)
    assert said.startswith(field)
    assert hint in said
    assert NO_IMAGE[:12] not in said


async def test_images_are_sent_as_bare_base64() -> None:
    uri = f"data:image/png;base64,{IMAGE}"
    request = await prepared(img(init_images=[uri, IMAGE], mask=uri, batch_size=2))
    assert request.route == "img2img"
    assert request.body["init_images"] == [IMAGE, IMAGE]
    assert request.body["mask"] == IMAGE


async def test_scripts_run_only_where_their_names_are_allowed() -> None:
    allowing = limits(sd_scripts="loopback")
    assert (await prepared(txt(script_name="loopback", script_args=[1]), limits=allowing)).body["script_args"] == [1]
    said = await refused(txt(script_name="x/y/z plot"), limits=allowing)
    assert "allowed are loopback (SD_SCRIPTS)" in said
    await refused(txt(script_name="loopback", alwayson_scripts={"hypertile": {}}), limits=allowing)


async def test_addresses_in_what_scripts_are_given_are_refused() -> None:
    allowing = limits(sd_scripts="loopback,controlnet")
    url = "http://169.254.169.254/" + SECRET
    for more in (
        {"script_name": "loopback", "script_args": [1, [url]]},
        {"alwayson_scripts": {"controlnet": {"args": [{"image": {"image": url, "mask": None}}]}}},
    ):
        said = await refused(txt(**more), limits=allowing)
        assert said.startswith(f"data.{list(more)[-1]}")
        assert "send no URL" in said
    inline = {"controlnet": {"args": [{"image": "data:image/png;base64," + IMAGE, "module": "see http://x"}]}}
    assert (await prepared(txt(alwayson_scripts=inline), limits=allowing)).body["alwayson_scripts"] == inline


async def test_arguments_of_scripts_may_be_deep() -> None:
    deep: list[Any] = ["ftp://host/file"]
    for _ in range(5000):
        deep = [deep]
    allowing = limits(sd_scripts="loopback")
    parameters = txt(script_name="loopback").model_copy(update={"script_args": deep})
    assert "send no URL" in await refused(parameters, limits=allowing)


TELLING = replace(
    FULL,
    options={"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic", "emphasis": 0.5, "tiling": False, "unset": None},
    vaes=frozenset({"fine.safetensors"}),
)
ANY_OVERRIDE = limits(sd_override_settings=",".join([*TELLING.options, "forge_only"]))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"sd_vae": "nope.pt"}, "there is no VAE 'nope.pt'; there are Automatic, None, fine.safetensors."),
        ({"sd_vae": 7}, "give a text, as the WebUI has it"),
        ({"CLIP_stop_at_last_layers": "two"}, "give a whole number"),
        ({"CLIP_stop_at_last_layers": True}, "give a whole number"),
        ({"CLIP_stop_at_last_layers": None}, "give a whole number"),
        ({"emphasis": True}, "give a number"),
        ({"tiling": 1}, "give true or false"),
        ({"forge_only": 1}, "the WebUI has no such setting; leave it out"),
    ],
)
async def test_overrides_that_the_webui_cannot_take_are_refused(overrides: dict[str, Any], said: str) -> None:
    told = await refused(txt(override_settings=overrides), TELLING, ANY_OVERRIDE)
    assert told.startswith(f"data.override_settings.{next(iter(overrides))}: ")
    assert said in told


@pytest.mark.parametrize("vae", [["fine.safetensors"], {}, 7, None])
async def test_a_vae_that_is_no_text_is_refused_also_where_settings_are_not_told(vae: object) -> None:
    told = await refused(txt(override_settings={"sd_vae": vae}), replace(TELLING, options={}), ANY_OVERRIDE)
    assert told.startswith("data.override_settings.sd_vae: there is no VAE ")


@pytest.mark.parametrize(
    "overrides",
    [
        *({"sd_vae": vae} for vae in ("Automatic", "None", "fine.safetensors")),
        *({"emphasis": number} for number in (1, 0.3)),
        *({"CLIP_stop_at_last_layers": 2}, {"tiling": True}, {"unset": "anything"}, {"unset": 3}),
    ],
)
async def test_overrides_that_the_webui_can_take_are_sent(overrides: dict[str, Any]) -> None:
    request = await prepared(txt(override_settings=overrides), TELLING, ANY_OVERRIDE)
    assert request.body["override_settings"] == overrides
    assert request.warnings == ()


async def test_a_vae_that_was_just_added_is_known() -> None:
    later = replace(TELLING, vaes=frozenset({"new.pt"}))
    request = await prepared(txt(override_settings={"sd_vae": "new.pt"}), TELLING, later=later)
    assert request.body["override_settings"] == {"sd_vae": "new.pt"}


async def test_a_server_that_knows_plain_parameters_alone_is_told_of_in_a_warning() -> None:
    plain_one = replace(FULL, loras=frozenset({"details"}))
    unusual: dict[str, Any] = {
        "override_settings": {"sd_vae": "None"},
        "subseed_strength": 0.5,
        "subseed": 3,
        "mask_blur": 4,
        "init_images": [IMAGE, IMAGE],
        "batch_size": 2,
        "resize_mode": 1,
    }
    asked = img(**unusual).model_copy(update={"prompt": "<lora:details:1>"})
    (warning,) = (await prepared(asked, plain_one, settable=False)).warnings
    names = ("override_settings", "subseed_strength", "mask_blur", "resize_mode", "init_images after the first")
    assert warning == f"This image engine does not know {', '.join(names)}, <lora:…> in the prompt: of no effect."
    usual = img(subseed=3, subseed_strength=0, resize_mode=0)
    assert (await prepared(usual, plain_one, settable=False)).warnings == ()


async def test_a_scheduler_that_cannot_be_checked_is_told_of_in_a_warning() -> None:
    request = await prepared(txt(scheduler="karras"), SILENT)
    assert request.warnings == ("This image engine lists no schedulers: 'karras' may have had no effect.",)
    assert request.body["scheduler"] == "karras"


@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt"])
def test_a_prompt_has_a_limit(name: str) -> None:
    assert txt(**{name: "x" * 65_536})
    with pytest.raises(ValueError, match=name):
        txt(**{name: "x" * 65_537})


@pytest.mark.parametrize(("more", "most"), [({}, 4), ({"enable_hr": True}, 4), ({"script_name": "x/y/z plot"}, 4 * 16)])
async def test_an_image_may_be_some_times_as_large_as_is_asked_for_and_a_grid_as_large_as_all(
    more: dict[str, Any], most: int
) -> None:
    request = await prepared(txt(**more), ABLE, limits(sd_scripts="x/y/z plot"))
    assert request.most_pixels == most * LIMITS.sd_max_pixels


async def test_a_prompt_of_spaces_is_looked_through_once() -> None:
    prompt = "<" + " " * 50_000 + "<" * 10_000
    assert (await prepared(txt(prompt=prompt), SILENT)).body["prompt"] == prompt


async def test_what_somebody_added_meanwhile_is_found() -> None:
    new = Shelf(replace(FULL, samplers=named("Euler a", "New")))
    request = await prepare(txt(sampler_name="new"), FULL, LIMITS, new.refresh, DECODE, settable=True)
    assert request.body["sampler_name"] == "New"
    assert new.asked == 1


async def test_a_webui_is_not_asked_again_for_what_it_has_or_what_is_never_allowed() -> None:
    shelf = Shelf(FULL)
    await prepare(txt(prompt="<lora:details:1>"), FULL, LIMITS, shelf.refresh, DECODE, settable=True)
    with pytest.raises(BadJobError):
        await prepare(txt(batch_size=5), FULL, LIMITS, shelf.refresh, DECODE, settable=True)
    assert shelf.asked == 0


async def test_a_webui_that_is_gone_when_asked_again_is_no_mistake_of_the_job() -> None:
    async def gone() -> Catalogue:
        raise EngineUnavailableError

    with pytest.raises(EngineUnavailableError):
        await prepare(txt(sampler_name="NoSuch"), FULL, LIMITS, gone, DECODE, settable=True)


async def test_a_lora_that_is_not_known_is_told_once_each_and_fails_no_job() -> None:
    shelf = Shelf(FULL)
    prompt = "<lora:gone:1> <lora:gone:0.5> <lora:details:1> <lora:other>"
    request = await prepare(txt(prompt=prompt), FULL, LIMITS, shelf.refresh, DECODE, settable=True)
    assert request.warnings == (
        "The LoRA 'gone' is not known to the WebUI and has no effect.",
        "The LoRA 'other' is not known to the WebUI and has no effect.",
    )
    assert request.body["prompt"] == prompt
    assert shelf.asked == 1


async def test_a_lora_is_known_by_its_alias_too() -> None:
    aliased = replace(FULL, lora_aliases=frozenset({"Details XL"}))
    assert (await prepared(txt(prompt="<lora:Details XL:1>"), aliased)).warnings == ()


async def test_a_lora_that_was_just_added_is_known() -> None:
    later = replace(FULL, loras=frozenset({"gone"}))
    assert (await prepared(txt(prompt="<lora:gone:1>"), later=later)).warnings == ()


@given(st.text(max_size=200) | st.from_regex(r"(<lora:[^>]{0,9}>|<\s?/?sd_cpp|a b){1,4}", fullmatch=True))
async def test_any_prompt_is_sent_as_it_is_or_refused(prompt: str) -> None:
    try:
        request = await prepared(txt(prompt=prompt))
    except BadJobError as error:
        said = str(error)
    else:
        assert request.body["prompt"] == prompt
        return
    assert said.startswith("data.prompt")


@given(st.integers(1, 4096))
def test_a_drawn_seed_leaves_room_for_those_that_follow(images: int) -> None:
    seed = draw_seed(images)
    assert seed >= 0
    assert seed + images - 1 < 2**31, "sd-server takes a larger one for any seed"


def test_drawn_seeds_differ() -> None:
    assert len({draw_seed(1) for _ in range(50)}) > 45


def test_settings_list_names_between_commas() -> None:
    assert names_in(" sd_vae, ,x ") == {"sd_vae", "x"}
    assert names_in("x/y/z plot,loopback,") == {"x/y/z plot", "loopback"}
    assert names_in("") == frozenset()


async def test_too_little_memory_is_told_with_numbers_and_what_to_change() -> None:
    request = await prepared(txt(width=1024, height=768, batch_size=2))
    for said in ("CUDA out of memory", "CUDA out of memory.", "CUDA out of memory. "):
        error = with_numbers(OutOfMemoryError(said), request, "GPU has 100 of 8,192 MiB free")
        assert isinstance(error, OutOfMemoryError)
        assert str(error).startswith("CUDA out of memory. 1024x768 pixels, 2 at once, were asked for; GPU has 100 of")
        assert "batch_size" in str(error)
        assert "--medvram" in str(error)
        assert SECRET not in str(error)


async def test_a_body_can_be_written_as_json() -> None:
    assert orjson.loads(orjson.dumps((await prepared(img(mask=IMAGE))).body_with(1, 1)))["seed"] == 1
