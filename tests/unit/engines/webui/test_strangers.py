"""A WebUI that is not what it says: how much of it is read, and what is believed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.doubles.engine import Answer, EngineDouble, document
from velesio_worker.core.settings import Settings
from velesio_worker.engines.http import LIST_BYTES, SMALL_BYTES, EngineHTTP
from velesio_worker.engines.webui.api import WebUIApi, largest_answer
from velesio_worker.engines.webui.catalogue import read_catalogue
from velesio_worker.wire.errors import EngineRefusedError, ResultTooLargeError

pytestmark = pytest.mark.anyio

PREFIX = "/sdapi/v1/"


async def test_images_beyond_what_jobs_may_ask_for_end_the_job(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[f"{PREFIX}txt2img"] = [document({"images": ["A" * 2000], "info": ""})]
    assert await WebUIApi(http, 3000).post("txt2img", {})
    with pytest.raises(ResultTooLargeError, match="txt2img is too large"):
        await WebUIApi(http, 1000).post("txt2img", {})


def test_the_largest_answer_has_room_for_all_images_that_jobs_may_ask_for() -> None:
    small = Settings.model_validate({"sd_max_pixels": 100, "sd_max_images": 1, "sd_max_batch": 1})
    assert largest_answer(small) == 100 * 6 * 2 + LIST_BYTES
    more = Settings.model_validate({"sd_max_pixels": 100, "sd_max_images": 2, "sd_max_batch": 3})
    assert largest_answer(more) == 3 * 100 * 6 * 2 + LIST_BYTES


async def test_an_error_that_is_too_large_is_one_all_the_same(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[f"{PREFIX}txt2img"] = [document({"error": "A" * 2 * SMALL_BYTES}, 500)]
    with pytest.raises(EngineRefusedError, match="status 500"):
        await WebUIApi(http).post("txt2img", {})


async def test_what_is_packed_is_refused(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[f"{PREFIX}samplers"] = [Answer(document=b"[]", headers=b"Content-Encoding: gzip\r\n")]
    with pytest.raises(EngineRefusedError, match="Content-Encoding"):
        await WebUIApi(http).get("samplers")


ODD: list[Any] = ["a\x1b[31m\nforged", "A" * 5000, 5, None, ["a"], "\u202eb"]


async def test_names_that_cannot_be_are_left_out(double: EngineDouble, http: EngineHTTP) -> None:
    good = {"title": "a.safetensors [12]", "model_name": "a", "filename": "/m/a.safetensors", "hash": "12"}
    lists = {
        "sd-models": [good, good | {"model_name": "B" * 500}, *(good | {"model_name": name} for name in ODD)],
        "samplers": [{"name": name, "aliases": ODD} for name in ("Euler a", *ODD)],
        "loras": [{"name": name, "alias": name} for name in ("fine", *ODD)],
        "sd-vae": [{"model_name": name} for name in ("fine", *ODD)],
        "schedulers": [{"name": name, "label": name} for name in ("karras", *ODD)],
        "upscalers": [{"name": name} for name in ("Latent", *ODD)],
        "hypernetworks": [{"name": f"n{number}"} for number in range(20_000)],
    }
    for name, entries in lists.items():
        double.answers[PREFIX + name] = [document(entries)]
    found = await read_catalogue(WebUIApi(http))
    assert [model.name for model in found.models] == ["a", "B" * 200]
    assert set(found.samplers.values()) == {"Euler a"}
    assert (found.loras, found.lora_aliases, found.vaes) == ({"fine"}, {"fine"}, {"fine"})
    assert (found.labels, set((found.upscalers or {}).values())) == ({"karras": "karras"}, {"Latent"})
    assert len(found.hypernetworks or ()) == 10_000
