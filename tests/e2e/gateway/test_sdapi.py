"""The WebUI's own routes through gateway, queue and worker, on a WebUI that the worker starts (the double)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import anyio
import httpx
import orjson
import pytest

from tests.doubles.webui import sample_image
from tests.support.gateway_thread import gateway_client
from tests.support.painters import journal, opened, webui
from tests.support.processes import MakeWorker

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

CAT: dict[str, Any] = {
    "prompt": "a cat",
    "width": 64,
    "height": 64,
    "steps": 4,
    "save_images": True,
    "sampler_index": "Euler",
}


async def test_what_a_client_of_the_webui_does(redis_url: str, make_worker: MakeWorker, tmp_path: Path) -> None:
    notes = tmp_path / "journal"
    make_worker(**webui(notes, models="tinyA,tinyB"), RUN_LLM="false")
    async with gateway_client(redis_url, "image") as client:
        models = (await client.get("/sdapi/v1/sd-models")).json()
        assert [model["title"] for model in models] == ["tinyA", "tinyB"]
        assert "/" not in models[0]["filename"]
        for name in ("samplers", "schedulers", "upscalers", "latent-upscale-modes"):
            assert (await client.get(f"/sdapi/v1/{name}")).json()[0]["name"]
        made = (await client.post("/sdapi/v1/txt2img", json=CAT)).json()
        image = opened(made["images"][0])
        assert (image.format, image.size) == ("PNG", (64, 64))
        info = orjson.loads(made["info"])
        assert info["all_seeds"] == [info["seed"]]
        assert (info["sd_model_name"], made["parameters"]["seed"]) == ("tinyA", -1)

        again = (await client.post("/sdapi/v1/txt2img", json=CAT | {"seed": info["seed"]})).json()
        assert again["images"] == made["images"]
        from_image = await client.post("/sdapi/v1/img2img", json=CAT | {"init_images": [sample_image()]})
        assert opened(from_image.json()["images"][0]).size == (64, 64)

        other = CAT | {"override_settings": {"sd_model_checkpoint": "tinyB"}}
        info = orjson.loads((await client.post("/sdapi/v1/txt2img", json=other)).json()["info"])
        assert info["sd_model_name"] == "tinyB"
        settings = (await client.get("/sdapi/v1/options")).json()
        assert (await client.post("/sdapi/v1/options", json=settings)).status_code == 200
        for body, said in (
            ({"sampler_name": "NoSuch"}, "no sampler"),
            ({"width": 100}, "width"),
            ({"steps": 0}, "steps"),
        ):
            wrong = await client.post("/sdapi/v1/txt2img", json=CAT | body)
            assert (wrong.status_code, said in wrong.json()["detail"]) == (400, True), wrong.text


async def test_progress_a_picture_and_an_interrupt(redis_url: str, make_worker: MakeWorker, tmp_path: Path) -> None:
    notes = tmp_path / "journal"
    make_worker(**webui(notes, step_seconds=0.05), RUN_LLM="false")
    answers: list[httpx.Response] = []
    async with gateway_client(redis_url, "image") as client, anyio.create_task_group() as group:

        async def paint() -> None:
            answers.append(await client.post("/sdapi/v1/txt2img", json=CAT | {"steps": 150, "n_iter": 4}))

        group.start_soon(paint)
        told: Any = {"current_image": None}
        with anyio.fail_after(100):
            while told["current_image"] is None:
                told = (await client.get("/sdapi/v1/progress")).json()
                await anyio.sleep(0.02)
        assert base64.b64decode(told["current_image"]).startswith(b"\xff\xd8")
        assert 0 < told["progress"] < 1
        assert told["state"]["job_count"] == 1
        assert 0 < told["state"]["sampling_step"] <= told["state"]["sampling_steps"]
        assert (await client.post("/sdapi/v1/interrupt")).json() == {}
    assert (answers[0].status_code, answers[0].json()["images"]) == (200, [])
    assert [note["event"] for note in journal(notes, "interrupt")] == ["interrupt"]
