"""What a WebUI has, as A1111, older ones and sd-server tell it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.engines.webui.api import WebUIApi
from velesio_worker.engines.webui.catalogue import Catalogue, ImageModel, listed, plain, read_catalogue
from velesio_worker.wire.errors import EngineRefusedError

pytestmark = pytest.mark.anyio

TRANSCRIPTS: Final = Path(__file__).parents[5] / "shared" / "sdapi-transcripts"
SAMPLERS: Final[list[dict[str, Any]]] = [
    {"name": "DPM++ 2M", "aliases": ["k_dpmpp_2m"], "options": {}},
    {"name": "DPM++ 2M SDE", "aliases": ["k_dpmpp_2m_sde"], "options": {}},
    {"name": "Euler a", "aliases": ["k_euler_a", "k_euler_ancestral"], "options": {}},
    {"name": "Euler", "aliases": ["k_euler"], "options": {}},
]
SCHEDULERS: Final[list[dict[str, Any]]] = [
    {"name": "karras", "label": "Karras", "aliases": None},
    {"name": "sgm_uniform", "label": "SGM Uniform", "aliases": ["SGMUniform"]},
]


class Told(WebUIApi):
    """A WebUI that answers so and knows no other routes."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    async def get(self, route: str) -> Any:
        return self._answers.get(route.replace("-", "_"))


def entry(title: str, name: str | None = None, filename: str = "", hash_: str | None = None) -> dict[str, Any]:
    return {"title": title, "model_name": name or title.partition(".")[0], "filename": filename, "hash": hash_}


TINY: Final = [entry("tinyA.safetensors", filename="/m/tinyA.safetensors"), entry("tinyB.safetensors")]


async def read(**answers: Any) -> Catalogue:
    return await read_catalogue(Told(**{"sd_models": TINY} | answers))


def model(title: str, name: str, filename: str, hash_: str | None = None) -> ImageModel:
    return ImageModel(name, title, filename, hash_)


@pytest.mark.parametrize(
    "said",
    [
        *("sd_xl_base", "sd_xl_base.safetensors [31e35c80fc]", "sd_xl_base.safetensors", "31e35c80fc"),
        "sd_xl_base.safetensors [an older one]",
    ],
)
def test_a_model_is_found_by_name_title_file_and_hash(said: str) -> None:
    base = model("sd_xl_base.safetensors [31e35c80fc]", "sd_xl_base", "/m/sd_xl_base.safetensors", "31e35c80fc")
    other = model("tinyA.safetensors", "tinyA", "/m/tinyA.safetensors")
    assert Catalogue([other, base]).model(said) is base


def test_a_model_is_found_by_a_title_with_a_hash_that_the_webui_does_not_know_yet() -> None:
    tiny = model("tinyA.safetensors", "tinyA", "/m/tinyA.safetensors")
    assert Catalogue([tiny]).model("tinyA.safetensors [31e35c80fc]") is tiny


@pytest.mark.parametrize("filename", ["/m/sdxl/base.safetensors", r"C:\webui\models\sdxl\base.safetensors"])
def test_a_model_in_a_folder_is_found_by_its_file_too(filename: str) -> None:
    base = model("sdxl/base.safetensors", "sdxl_base", filename)
    for said in ("sdxl_base", "sdxl/base.safetensors", "base.safetensors"):
        assert Catalogue([base]).model(said) is base


def test_of_two_files_of_the_same_name_the_one_that_is_called_so_is_meant() -> None:
    old = model("old/base.safetensors", "old_base", "/m/old/base.safetensors")
    base = model("base.safetensors", "base", "/m/base.safetensors")
    assert Catalogue([old, base]).model("base.safetensors") is base
    assert Catalogue([base, old]).model("old/base.safetensors") is old


@pytest.mark.parametrize("said", ["", " ", "nope", "tiny", "TINYA", "None", "["])
def test_no_model_is_found_by_what_is_none(said: str) -> None:
    assert Catalogue([model("tinyA.safetensors", "tinyA", "")]).model(said) is None


async def test_what_is_loaded_is_what_the_webui_says() -> None:
    said = {"sd_model_checkpoint": "tinyB.safetensors [31e35c80fc]"}
    catalogue = await read(options=said)
    assert catalogue.loaded is not None
    assert catalogue.loaded.name == "tinyB"
    assert catalogue.options == said


@pytest.mark.parametrize("said", [None, "", "gone.safetensors", 7, []])
async def test_what_is_loaded_is_not_known_where_the_webui_does_not_say(said: Any) -> None:
    assert (await read(options={"sd_model_checkpoint": said})).loaded is None
    assert (await read(options=None)).loaded is None


async def test_the_only_model_is_the_loaded_one() -> None:
    catalogue = await read(sd_models=TINY[:1], options={"sd_model_checkpoint": None})
    assert catalogue.loaded is catalogue.models[0]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Euler a", "Euler a"),
        ("euler_a", "Euler a"),
        ("EULER A", "Euler a"),
        ("k_euler_a", "Euler a"),
        ("k_euler_ancestral", "Euler a"),
        ("Euler", "Euler"),
        ("dpm++2m", "DPM++ 2M"),
        ("k_dpmpp_2m_sde", "DPM++ 2M SDE"),
    ],
)
async def test_a_sampler_is_found_however_servers_write_it(said: str, meant: str) -> None:
    assert (await read(samplers=SAMPLERS)).sampler(said) == (meant, None)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("DPM++ 2M Karras", ("DPM++ 2M", "karras")),
        ("DPM++ 2M SDE Karras", ("DPM++ 2M SDE", "karras")),
        ("dpm++_2m karras", ("DPM++ 2M", "karras")),
        ("DPM++ 9M Karras", None),
        ("DPM++ 2M Nonsense", None),
        ("Karras", None),
    ],
)
async def test_a_name_from_before_schedulers_means_both(said: str, meant: tuple[str, str] | None) -> None:
    assert (await read(samplers=SAMPLERS, schedulers=SCHEDULERS)).sampler(said) == meant


async def test_an_older_webui_has_such_names_itself_and_no_schedulers() -> None:
    catalogue = await read(samplers=[*SAMPLERS, {"name": "DPM++ 2M Karras", "aliases": ["k_dpmpp_2m_ka"]}])
    assert catalogue.sampler("DPM++ 2M Karras") == ("DPM++ 2M Karras", None)
    assert catalogue.schedulers == {}


@pytest.mark.parametrize("said", ["Euler a SGM Uniform", "euler_a_sgm_uniform", "k_euler_ancestral SGMUniform"])
async def test_any_scheduler_may_stand_behind_a_sampler(said: str) -> None:
    assert (await read(samplers=SAMPLERS, schedulers=SCHEDULERS)).sampler(said) == ("Euler a", "sgm_uniform")


async def test_a_scheduler_is_sent_as_the_webui_shows_it() -> None:
    catalogue = await read(schedulers=[{"name": "automatic", "label": "Automatic"}, *SCHEDULERS, {"name": "bare"}])
    assert [catalogue.label(name) for name in ("sgm_uniform", "bare", None)] == ["SGM Uniform", "bare", "Automatic"]
    assert (await read(schedulers=SCHEDULERS)).label(None) is None


async def test_what_a_webui_can_do_beside_plain_images_is_read() -> None:
    names = [{"name": "Noir"}]
    catalogue = await read(
        upscalers=[{"name": "Lanczos"}],
        latent_upscale_modes=[{"name": "Latent (bicubic)"}],
        prompt_styles=names,
        hypernetworks=[],
        scripts={"txt2img": ["seed", "refiner"], "img2img": []},
    )
    assert catalogue.upscalers == {"lanczos": "Lanczos", "latentbicubic": "Latent (bicubic)"}
    assert (catalogue.styles, catalogue.hypernetworks, catalogue.face_restorers) == ({"Noir"}, frozenset(), None)
    assert catalogue.refiner
    nothing = await read()
    assert (nothing.upscalers, nothing.styles, nothing.hypernetworks, nothing.refiner) == (None, None, None, False)


@pytest.mark.parametrize("said", ["SGM Uniform", "sgm_uniform", "SGMUniform", "sgm uniform"])
async def test_a_scheduler_is_found_by_name_label_and_alias(said: str) -> None:
    assert (await read(schedulers=SCHEDULERS)).scheduler(said) == "sgm_uniform"


@pytest.mark.parametrize("said", ["", " ", "-", "eul", "Euler b", "欧拉"])
async def test_no_sampler_is_found_by_what_is_none(said: str) -> None:
    assert (await read(samplers=SAMPLERS, schedulers=SCHEDULERS)).sampler(said) is None


async def test_names_in_other_scripts_are_told_apart() -> None:
    catalogue = await read(samplers=[{"name": "欧拉", "aliases": []}, {"name": "海恩", "aliases": []}])
    assert catalogue.sampler("欧拉") == ("欧拉", None)
    assert catalogue.sampler("海恩") == ("海恩", None)
    assert catalogue.sampler("龙格") is None


async def test_a_name_goes_before_anothers_alias() -> None:
    catalogue = await read(samplers=[{"name": "A", "aliases": ["B"]}, {"name": "B", "aliases": ["A"]}])
    assert catalogue.sampler("A") == ("A", None)
    assert catalogue.sampler("B") == ("B", None)


async def test_loras_are_known_by_name_and_alias_exactly_as_written() -> None:
    catalogue = await read(
        loras=[{"name": "more_details", "alias": "Details"}, {"name": "more-details", "alias": None}]
    )
    assert catalogue.loras == {"more_details", "more-details"}
    assert catalogue.lora_aliases == {"Details"}


async def test_no_loras_and_not_knowing_of_any_are_two_things() -> None:
    assert (await read(loras=[])).loras == frozenset()
    assert (await read()).loras is None
    assert (await read(loras={"detail": "odd"})).loras is None


@pytest.mark.parametrize("answer", [None, {}, "<html>", 7])
async def test_what_is_no_webui_is_told_with_what_to_change(answer: Any) -> None:
    with pytest.raises(EngineRefusedError, match=r"/sdapi/v1/sd-models .* --api"):
        await read(sd_models=answer)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "aliases", "alias", "label", "title", "model_name"]), inner, max_size=4
        )
    ),
    max_leaves=15,
)


@given(st.lists(JSON, max_size=3), JSON, JSON, JSON)
async def test_whatever_a_server_answers_becomes_a_catalogue(models: list[Any], one: Any, two: Any, three: Any) -> None:
    catalogue = await read(sd_models=models, samplers=one, schedulers=two, loras=three, options=one)
    assert catalogue.sampler("Euler a") is None or catalogue.samplers
    assert catalogue.model("") is None


@given(st.text())
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert plain(plain(name)) == plain(name)


def test_a_long_list_is_cut_for_people() -> None:
    assert listed(["b", "a"]) == "a, b"
    assert listed(f"n{number:03}" for number in range(50)).endswith("n039 and 10 more")


def recorded(name: str) -> Any:
    return json.loads((TRANSCRIPTS / f"{name}.json").read_text())["body"]


@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="the transcripts are not there")
async def test_what_a_real_webui_says_is_read() -> None:
    routes = ("sd-models", "options", "samplers", "schedulers", "loras", "upscalers", "latent-upscale-modes", "scripts")
    catalogue = await read_catalogue(Told(**{route.replace("-", "_"): recorded(f"get_{route}") for route in routes}))
    assert [found.name for found in catalogue.models] == ["tinyA", "tinyB"]
    assert catalogue.loras == frozenset()
    for sampler in recorded("get_samplers"):
        for said in (sampler["name"], *sampler["aliases"]):
            assert catalogue.sampler(said) == (sampler["name"], None)
    for scheduler in recorded("get_schedulers"):
        for said in (scheduler["name"], scheduler["label"], *(scheduler["aliases"] or ())):
            assert catalogue.scheduler(said) == scheduler["name"]
        assert catalogue.label(scheduler["name"]) == scheduler["label"]
    for sampler in recorded("get_samplers"):
        for scheduler in recorded("get_schedulers"):
            both = f"{sampler['name']} {scheduler['label']}"
            assert catalogue.sampler(both) == (sampler["name"], scheduler["name"])
    assert catalogue.refiner
    upscalers = [*recorded("get_upscalers"), *recorded("get_latent-upscale-modes")]
    assert sorted((catalogue.upscalers or {}).values()) == sorted(one["name"] for one in upscalers)
    assert catalogue.sampler("DPM++ 2M Karras") == ("DPM++ 2M", "karras")
    assert catalogue.sampler("NoSuch") is None
