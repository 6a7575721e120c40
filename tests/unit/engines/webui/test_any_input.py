"""Whatever a WebUI answers, a job has a result that can be written, or an error of the taxonomy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import anyio
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engines.llama.test_any_input import ODD, dumped
from tests.unit.engines.webui.test_result import picture, request
from tests.unit.wire.test_jobs_any_input import VALUES
from velesio_worker.engines.decoding import decode_json
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.webui.api import WebUIApi, decode_answer, state_of
from velesio_worker.engines.webui.catalogue import Catalogue, read_catalogue
from velesio_worker.engines.webui.extras import extras
from velesio_worker.engines.webui.networks import warnings_of
from velesio_worker.engines.webui.request import check_overrides
from velesio_worker.engines.webui.result import results
from velesio_worker.engines.webui.rounds import Course
from velesio_worker.wire.errors import BadJobError, JobError
from velesio_worker.wire.image_parameters import Txt2ImgParameters

IMAGE: Final = picture(1)
MODEL: Final = {"title": "tiny.safetensors [abc]", "model_name": "tiny", "filename": "/m/tiny.safetensors", "hash": "a"}
NAMED: Final = {"name": "Euler a", "aliases": ["k_euler_a"], "label": "Euler A", "alias": "e", "model_name": "v"}
STATE: Final = {
    "job_count": 1,
    "job_no": 0,
    "sampling_step": 2,
    "sampling_steps": 4,
    "interrupted": False,
    "job_timestamp": "20260101",
}
INFO: Final = {
    "all_prompts": ["a"],
    "all_seeds": [1],
    "all_subseeds": [1],
    "infotexts": ["a"],
    "seed": 1,
    "index_of_first_image": 0,
    "sampler_name": "Euler a",
    "sd_model_name": "tiny",
    "extra_generation_params": {"Schedule type": "Karras"},
}
ROUTES: Final[dict[str, Any]] = {
    "sd-models": [MODEL],
    "options": {"sd_model_checkpoint": MODEL["title"], "CLIP_stop_at_last_layers": 1},
    "loras": [NAMED],
    "sd-vae": [NAMED],
    "samplers": [NAMED],
    "schedulers": [NAMED],
    "upscalers": [NAMED],
    "latent-upscale-modes": [NAMED],
    "prompt-styles": [NAMED],
    "hypernetworks": [NAMED],
    "face-restorers": [NAMED],
    "scripts": {"txt2img": ["refiner"], "img2img": ["refiner"]},
    "progress": {"state": STATE},
}


class Reply:
    """One answer of a WebUI."""

    status = 200

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def body(self, limit: int) -> bytes:
        assert len(self._body) <= limit
        return self._body


class WebUI:
    """A WebUI in this process, with one answer for each route."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = answers

    def _answer(self, path: str) -> bytes:
        return dumped(self._answers.get(path.rpartition("/")[2]))

    async def get_text(  # the real one's
        self,
        path: str,
        *,
        timeout: float,  # noqa: ASYNC109
        limit: int = 2**20,
    ) -> tuple[int, str]:
        assert timeout
        assert limit >= 2**20
        return 200, self._answer(path).decode(errors="replace")

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncGenerator[Reply, None]:
        assert orjson.loads(body) is not None
        yield Reply(self._answer(path))


def check_extras(name: str, catalogue: Catalogue) -> None:
    """Ask for all that a catalogue names."""
    named = {"hr_upscaler": name, "hr_sampler_name": name, "refiner_checkpoint": name, "styles": [name]}
    prompt = f"<lora:{name}> <hypernet:{name}>"
    asked = {"prompt": prompt, "enable_hr": True, "restore_faces": True} | named
    with suppress(BadJobError):
        orjson.dumps(extras(Txt2ImgParameters.model_validate(asked), catalogue, settable=True))
    warnings_of(prompt, "", catalogue)


async def look(answers: Mapping[str, Any]) -> None:
    """Ask a WebUI all that is asked of it, and do with the answers what is done with them."""
    api = WebUIApi(cast("EngineHTTP", WebUI(answers)))
    await api.abilities()
    await api.works_on("1")
    with suppress(JobError):
        catalogue = await read_catalogue(api)
        for name in ("tiny", "a", "", "Euler a"):
            catalogue.model(name)
            catalogue.sampler(name)
            catalogue.label(catalogue.scheduler(name))
            check_extras(name, catalogue)
        orjson.dumps(dict(catalogue.options))
        with suppress(BadJobError):
            check_overrides({"CLIP_stop_at_last_layers": 2, "sd_vae": "v"}, catalogue)
    position = Course(4, 1).moved(decode_json(dumped(answers.get("progress"))))
    if position is not None:
        orjson.dumps(position)
    state_of(answers.get("progress"))


def answers_with(value: Any) -> list[dict[str, Any]]:
    """The answers of a WebUI in each of which one, or a field of one, is the value."""
    with_routes = [ROUTES | {route: value} for route in (*ROUTES, "progress-task")]
    lists = [route for route, answer in ROUTES.items() if isinstance(answer, list)]
    with_entries = [ROUTES | {route: [value]} for route in lists]
    with_models = [ROUTES | {"sd-models": [MODEL | {name: value}]} for name in MODEL]
    with_names = [
        ROUTES | {route: [NAMED | {name: value}]}
        for route in ("loras", "sd-vae", "samplers", "schedulers")
        for name in NAMED
    ]
    with_options = [ROUTES | {"options": ROUTES["options"] | {name: value}} for name in ROUTES["options"]]
    with_states = [ROUTES | {"progress": {"state": STATE | {name: value}}} for name in STATE]
    return with_routes + with_entries + with_models + with_names + with_options + with_states


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_answers_are_read_or_refused(value: Any) -> None:
    for answers in answers_with(value):
        anyio.run(look, answers)


@given(VALUES, st.data())
def test_any_answer_is_read_or_refused(value: Any, data: st.DataObject) -> None:
    anyio.run(look, data.draw(st.sampled_from(answers_with(value))))


def read(body: bytes) -> None:
    """Read an answer with images, and write what comes of it."""
    try:
        done = results([request()], [decode_answer(body)], 1, "tiny")
    except JobError:
        return
    for one in done:
        orjson.dumps([[[[one.result]]], one.entry()])
        assert all(isinstance(seed, int) for seed in one.result["seeds"])


def images_with(value: Any) -> list[Any]:
    """Answers with images in each of which something is the value."""
    infos = [INFO | {name: value} for name in (*INFO, "extra")]
    return [
        value,
        {"images": value},
        {"images": [value], "info": ""},
        {"images": [IMAGE, value], "info": "{}"},
        {"images": [IMAGE], "info": value},
        {"images": [IMAGE], "parameters": value},
        *({"images": [IMAGE], "info": info} for info in infos),
        *({"images": [IMAGE], "info": dumped(info).decode()} for info in infos),
    ]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_answers_with_images_are_results_or_errors_of_the_engine(value: Any) -> None:
    for answer in images_with(value):
        read(dumped(answer))


@given(VALUES, st.data())
def test_any_answer_with_images_is_a_result_or_an_error_of_the_engine(value: Any, data: st.DataObject) -> None:
    read(orjson.dumps(data.draw(st.sampled_from(images_with(value)))))
