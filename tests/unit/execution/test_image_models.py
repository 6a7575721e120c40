"""What management jobs say of a WebUI's models, on a double."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import cast

import anyio
import pytest

from tests.doubles.launcher import PATIENT
from tests.doubles.webui import Setup, WebUIDouble
from tests.support.waiting import until
from tests.support.webui_bench import FAST, elsewhere, run
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.supervision import failures
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.execution.gate import EngineGate
from velesio_worker.execution.management import ImageModels
from velesio_worker.queue.fleet import Fleet
from velesio_worker.wire.jobs import Kind

pytestmark = pytest.mark.anyio


def untold(_: EngineState) -> None:
    """Nobody waits for the stream."""


@asynccontextmanager
async def looked_after(double: WebUIDouble) -> AsyncGenerator[ImageModels, None]:
    launcher = elsewhere(double.url)
    nobody = cast("Fleet", None)  # no gate is tended here
    models = ImageModels(EngineGate(Kind.IMAGE, partial(Supervisor, launcher, PATIENT), nobody, lambda: None), launcher)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(models.supervisor.run)
        await until(lambda: models.supervisor.state is EngineState.READY)
        yield models
        tasks.cancel_scope.cancel()


async def loaded(models: ImageModels) -> list[str]:
    return [model["name"] for model in await models.listing(untold) if model["loaded"]]


async def test_after_an_unload_no_model_is_told_as_loaded_until_the_next_job() -> None:
    with WebUIDouble(FAST) as double:
        async with looked_after(double) as models:
            assert await loaded(models) == ["tinyA"]
            await models.supervisor.unload()
            assert await loaded(models) == []
            info = await models.info(untold)
            assert (info["name"], info["loaded"]) == ("tinyA", False)
            assert (await run(models.supervisor)).result["images"]
            assert await loaded(models) == ["tinyA"]


async def test_a_listing_is_of_the_webui_that_is_there_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(_low: float, _high: float) -> float:
        return 0.01

    monkeypatch.setattr(failures.random, "uniform", short)
    double = WebUIDouble(FAST)
    with double:
        async with looked_after(double) as models:
            double.__exit__(None, None, None)
            with WebUIDouble(Setup(models=("tinyB", "tinyC")), port=double.port), anyio.fail_after(30):
                assert [model["name"] for model in await models.listing(untold)] == ["tinyB", "tinyC"]
                assert await loaded(models) == ["tinyB"]
            double.__enter__()


async def test_the_models_that_the_webui_has_are_offered_the_default_one_first() -> None:
    with WebUIDouble(replace(FAST, models=("tinyB", "tinyA", "tinyC"))) as double:
        async with looked_after(double) as models:
            facts = models.facts()
            assert (facts["image_models"], facts["image_models_more"]) == ('["tinyB","tinyA","tinyC"]', 0)
            assert (facts["image_default"], facts["image_exchanges"]) == ("tinyB", 1)
            await models.supervisor.load("tinyC")
            facts = models.facts()
            assert (facts["image_models"], facts["image_default"]) == ('["tinyC","tinyB","tinyA"]', "tinyC")
            await models.supervisor.unload()
            assert models.facts()["image_models"] == facts["image_models"], "what the next job may name"


async def test_a_server_that_cannot_load_another_model_offers_the_one_that_it_has() -> None:
    with WebUIDouble(replace(FAST, models=("tinyA",), missing=frozenset({"options"}))) as double:
        async with looked_after(double) as models:
            facts = models.facts()
            assert (facts["image_models"], facts["image_default"]) == ('["tinyA"]', "tinyA")
            assert facts["image_exchanges"] == 0


async def test_before_a_webui_has_answered_nothing_is_offered() -> None:
    launcher = elsewhere("http://127.0.0.1:1")
    nobody = cast("Fleet", None)
    models = ImageModels(EngineGate(Kind.IMAGE, partial(Supervisor, launcher, PATIENT), nobody, lambda: None), launcher)
    facts = models.facts()
    assert (facts["image_models"], facts["image_default"], facts["image_exchanges"]) == ("[]", "", 0)
