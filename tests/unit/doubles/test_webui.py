"""The WebUI's double against answers of a real AUTOMATIC1111 1.10.1."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import pytest

from tests.doubles.webui import Setup, WebUIDouble, sample_image
from tests.doubles.webui.client import Asking, ask, until
from tests.doubles.webui.pictures import draw, encode

TRANSCRIPTS: Final = Path(__file__).parents[4] / "shared" / "sdapi-transcripts"
pytestmark = pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="the transcripts are not there")

CAT: Final = {"prompt": "a cat", "seed": 7, "steps": 4, "width": 64, "height": 64, "sampler_name": "Euler"}
IMAGE: Final = sample_image()
FROM_IMAGE: Final = CAT | {"init_images": [IMAGE], "denoising_strength": 0.5}
WHITE, BLACK = sample_image(colour="white"), sample_image(colour="black", shape="black")
NO_IMAGE: Final = base64.b64encode(b"no image at all").decode()
TORN: Final = base64.b64encode(base64.b64decode(encode(draw(64, 64)))[:150]).decode()
MEASURED: Final = {"images", "init_images", "job_timestamp", "subseed", "all_subseeds", "free", "used", "total"}
FAST: Final = Setup(step_seconds=0.001)
NOT_SERVED: Final = {"get_docs", "get_openapi.json", "get_script-info", "kill"}
ELSEWHERE: Final = {"interrupted_result", "interrupt_running", "skip_running", "internal_progress_done", "get_options"}
ELSEWHERE_TOO: Final = {"get_cmd-flags", "get_upscalers", "txt2img_default_seed"}


@dataclass(frozen=True)
class Case:
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    setup: Setup = FAST
    fault: str | None = None


def txt(**more: Any) -> Case:
    return Case("POST", "txt2img", CAT | more)


def img(**more: Any) -> Case:
    return Case("POST", "img2img", FROM_IMAGE | more)


def get(path: str, setup: Setup = FAST, authorization: str | None = None) -> Case:
    return Case("GET", path, None, {"Authorization": authorization} if authorization else {}, setup)


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()


WITHOUT_PAGES: Final = Setup(nowebui=True)
LOCKED: Final = Setup(api_auth="user:secret")
LISTS: Final = ("embeddings", "extensions", "latent-upscale-modes", "loras", "memory", "progress", "prompt-styles")
MORE_LISTS: Final = ("samplers", "schedulers", "scripts", "sd-models", "sd-vae")

CASES: Final[dict[str, Case]] = {
    **{f"get_{name}": get(name) for name in LISTS + MORE_LISTS},
    "get_": get("/", WITHOUT_PAGES),
    "get_internal_ping": get("/internal/ping", WITHOUT_PAGES),
    "get_internal_pending-tasks": get("/internal/pending-tasks", WITHOUT_PAGES),
    "internal_ping": get("/internal/ping"),
    "internal_pending": get("/internal/pending-tasks"),
    "internal_progress_noid": Case("POST", "/internal/progress", {}),
    "internal_progress_unknown": Case("POST", "/internal/progress", {"id_task": "nobody"}),
    "auth_none": get("progress", LOCKED),
    "auth_bad": get("progress", LOCKED, basic("user:wrong")),
    "auth_ok": get("progress", LOCKED, basic("user:secret")),
    "interrupt_idle": Case("POST", "interrupt"),
    "skip_idle": Case("POST", "skip"),
    "refresh": Case("POST", "refresh-checkpoints"),
    "unload": Case("POST", "unload-checkpoint"),
    "reload": Case("POST", "reload-checkpoint"),
    "options_badkey": Case("POST", "options", {"no_such_key": 1}),
    "options_badmodel": Case("POST", "options", {"sd_model_checkpoint": "nope"}),
    "options_setmodel": Case("POST", "options", {"sd_model_checkpoint": "tinyB"}),
    "options_setmodel_title": Case("POST", "options", {"sd_model_checkpoint": "tinyB.safetensors"}),
    "switch_tinyB": Case("POST", "txt2img", CAT, fault="nan"),
    "txt2img_basic": txt(),
    "after": txt(),
    "txt2img_batch2_iter2": txt(batch_size=2, n_iter=2),
    "txt2img_batch2_save": txt(batch_size=2, save_images=True),
    "txt2img_send_images_false": txt(send_images=False),
    "txt2img_unknownfield": txt(no_such_field=1),
    "txt2img_badsampler": txt(sampler_name="NoSuch"),
    "txt2img_badscript": txt(script_name="NoSuch"),
    "txt2img_badalwayson": txt(alwayson_scripts={"NoSuch": {"args": []}}),
    "txt2img_badkey_override": txt(override_settings={"no_such_key": 1}),
    "txt2img_badmodel_override": txt(override_settings={"sd_model_checkpoint": "nope"}),
    "txt2img_badtype": txt(steps="many"),
    "prompt_list": txt(prompt=["a", "cat"]),
    "txt2img_badjson": Case("POST", "txt2img", b"{"),
    "txt2img_empty_body": Case("POST", "txt2img", b""),
    "txt2img_steps0": txt(steps=0),
    **{f"txt2img_width_{width}": txt(width=width) for width in (-8, 0, 7, 8, 65, 100)},
    "img2img_bare_b64": img(),
    "img2img_datauri": img(init_images=["data:image/png;base64," + IMAGE]),
    "img2img_dataurl_malformed": img(init_images=["data:image/png"]),
    "img2img_badb64": img(init_images=["!!!"]),
    "img2img_notimage": img(init_images=[NO_IMAGE]),
    "img2img_truncpng": img(init_images=[TORN]),
    "img2img_null_item": img(init_images=[None]),
    "img2img_missing": Case("POST", "img2img", CAT),
    "img2img_emptylist": img(init_images=[]),
    "img2img_url_local": img(init_images=["http://127.0.0.1:9/a.png"]),
    "img2img_2imgs_batch1": img(init_images=[IMAGE, IMAGE]),
    "img2img_2imgs_batch2": img(init_images=[IMAGE, IMAGE], batch_size=2, denoising_strength=0.75),
    "img2img_include_init": img(include_init_images=True),
    "img2img_size_other": img(width=128),
    "img2img_strength0": img(denoising_strength=0),
    "img2img_strength2": img(denoising_strength=2),
    "img2img_mask": img(mask=WHITE, mask_blur=4, inpainting_fill=1, inpaint_full_res=False),
    "img2img_mask_blank": img(mask=BLACK),
    "img2img_mask_fullres": img(mask=WHITE),
    "img2img_mask_bad": img(mask="!!!"),
}


def recorded(name: str) -> Any:
    return json.loads((TRANSCRIPTS / f"{name}.json").read_text())


def read_info(body: Any) -> Any:
    """A body with its ``info`` read."""
    if not isinstance(body, dict) or "info" not in body:
        return cast("Any", body)
    document = cast("dict[str, Any]", body)
    return document | {"info": json.loads(document["info"])}


def differences(ours: Any, theirs: Any, where: str = "", measured: frozenset[str] = frozenset()) -> list[str]:
    """Where two documents have other keys, types or, outside of measurements, values."""
    free = where.rpartition(".")[2].partition("[")[0] in MEASURED | measured
    if type(ours) is not type(theirs):
        return [f"{where}: {ours!r} is not of the type of {theirs!r}"]
    if isinstance(ours, dict):
        ours = cast("dict[str, Any]", ours)
        both = [
            line
            for key in ours.keys() & theirs.keys()
            for line in differences(ours[key], theirs[key], f"{where}.{key}", measured)
        ]
        return both + [f"{where}.{key}: only on one side" for key in ours.keys() ^ theirs.keys()]
    if isinstance(ours, list):
        ours = cast("list[Any]", ours)
        if len(ours) != len(theirs):
            return [f"{where}: {len(ours)} items, not {len(theirs)}"]
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for n, (one, other) in pairs for line in differences(one, other, f"{where}[{n}]", measured)]
    return [] if free or ours == theirs else [f"{where}: {ours!r} is not {theirs!r}"]


@pytest.mark.parametrize("name", CASES)
def test_answers_as_the_real_program_did(name: str) -> None:
    case, real = CASES[name], recorded(name)
    with WebUIDouble(case.setup) as double:
        if case.fault:
            double.fail_next(case.fault)
        status, body = ask(double, case.method, case.path, case.body, case.headers)
    assert status == real["status"]
    assert differences(read_info(body), read_info(real["body"])) == []


def test_every_transcript_is_held_against_the_double_or_named_as_not_served() -> None:
    names = {path.name.removesuffix(".json") for path in TRANSCRIPTS.glob("*.json")}
    sequences = {name for name in names if name.startswith("progress_seq_")}
    assert names - sequences == CASES.keys() | NOT_SERVED | ELSEWHERE | ELSEWHERE_TOO
    assert {name.rpartition("_")[2] for name in sequences} == SEQUENCES.keys()


@pytest.mark.parametrize("name", ["options", "cmd-flags"])
def test_serves_a_part_of_long_documents_with_the_real_values(name: str) -> None:
    real = recorded(f"get_{name}")["body"]
    with WebUIDouble(Setup(nowebui=True)) as double:
        ours = ask(double, "GET", name)[1]
    assert ours
    assert differences(ours, {key: real[key] for key in ours}) == []


def test_serves_some_of_the_real_upscalers() -> None:
    with WebUIDouble(FAST) as double:
        ours = ask(double, "GET", "upscalers")[1]
    assert ours == recorded("get_upscalers")["body"][: len(ours)]


def test_draws_a_seed_and_names_it_only_in_info() -> None:
    real = recorded("txt2img_default_seed")
    with WebUIDouble(FAST) as double:
        status, body = ask(double, "POST", "txt2img", CAT | {"seed": -1})
    ours, theirs = read_info(body), read_info(real["body"])
    for one in (ours, theirs):
        one["info"]["infotexts"] = [re.sub(r"Seed: \d+", "Seed: N", text) for text in one["info"]["infotexts"]]
    assert status == real["status"]
    assert differences(ours, theirs, measured=frozenset({"seed", "all_seeds"})) == []
    assert ours["parameters"]["seed"] == -1
    assert ours["info"]["seed"] >= 0


def test_an_interrupted_answer_looks_like_any_other_but_for_missing_pictures() -> None:
    real = recorded("interrupted_result")
    request = CAT | {"steps": 30, "n_iter": 3, "width": 256, "height": 256}
    with WebUIDouble(FAST) as double:
        double.pause(at=3)
        asking = Asking(double, "POST", "txt2img", request)
        until(lambda: double.paused)
        answer = ask(double, "POST", "interrupt")
        double.go_on()
        status, body = asking.answer()
        state = ask(double, "GET", "progress")[1]["state"]
    assert answer == (200, recorded("interrupt_running")["body"])
    assert status == real["status"]
    assert differences(read_info(body), read_info(real["body"])) == []
    assert state["interrupted"]


def test_skip_answers_the_same_while_something_runs() -> None:
    real = recorded("skip_running")
    with WebUIDouble(FAST) as double:
        double.pause()
        asking = Asking(double, "POST", "txt2img", CAT)
        until(lambda: double.running)
        answer = ask(double, "POST", "skip")
        double.go_on()
        asking.answer()
    assert answer == (real["status"], real["body"])


def test_a_finished_task_is_known_as_completed() -> None:
    with WebUIDouble(FAST) as double:
        ask(double, "POST", "txt2img", CAT | {"force_task_id": "mine"})
        body = ask(double, "POST", "/internal/progress", {"id_task": "mine"})[1]
    assert body == recorded("internal_progress_done")


def columns(report: Any) -> list[Any]:
    """A report as the recorded sequences have it: time, what is known, the time left, and the time it took."""
    state = report["state"]
    names = ("job", "job_no", "job_count", "sampling_step", "sampling_steps")
    image = report["current_image"] is not None
    known = [*(state[name] for name in names), image, state["interrupted"], state["skipped"]]
    return [0.0, round(report["progress"], 4), *known, round(report["eta_relative"], 2), 0.0]


SEQUENCES: Final[dict[str, dict[str, Any]]] = {
    "single": {"steps": 30},
    "niter2": {"steps": 15, "n_iter": 2},
    "hires": {"steps": 10, "enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7},
}
IMAGES_IN: Final = {"single"}


@pytest.mark.parametrize("name", SEQUENCES)
def test_reports_progress_through_the_states_of_the_real_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = recorded(f"progress_seq_{name}")
    ours: list[list[Any]] = []
    with WebUIDouble(FAST) as double:
        ask(double, "POST", "txt2img", CAT)
        studio, pause = double.studio, double.studio.pause

        def noting(seconds: float) -> None:
            pause(seconds)
            ours.append(columns(studio.state.report(with_image=name in IMAGES_IN)))

        monkeypatch.setattr(studio, "pause", noting)
        ask(double, "POST", "txt2img", CAT | SEQUENCES[name])
    of_this_one = [row for row in real if row[6] == SEQUENCES[name]["steps"]]
    seen = {tuple(row[1:-2]) for row in ours}
    assert [row for row in of_this_one if tuple(row[1:-2]) not in seen] == []
    assert [type(value) for value in ours[-1]] == [type(value) for value in real[-1]]
    assert ours[-1][1:3] == [0.0, ""]
    assert max(row[1] for row in ours) < 1


def test_begins_with_the_steps_of_the_generation_before() -> None:
    first = recorded("progress_seq_single")[0]
    with WebUIDouble(Setup(step_seconds=0.001)) as double:
        ask(double, "POST", "txt2img", CAT)
        double.pause()
        asking = Asking(double, "POST", "txt2img", CAT | {"steps": 30})
        until(lambda: double.running)
        begun = columns(ask(double, "GET", "progress")[1])
        double.go_on()
        asking.answer()
    assert begun[1:-2] == first[1:-2]
