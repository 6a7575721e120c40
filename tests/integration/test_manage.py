"""Jobs that look after models, and jobs whose engine cannot be had: how they end, and what their streams tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.support.text_bench import DEAD, Bench, Manager
from tests.support.waiting import until
from velesio_worker.core.settings import CacheMode
from velesio_worker.engines.base import EngineState
from velesio_worker.wire.errors import (
    BadJobError,
    EngineCrashedError,
    EngineFailedError,
    EngineUnavailableError,
    JobError,
    ModelUnavailableError,
    NoCapacityError,
    OutOfMemoryError,
)
from velesio_worker.wire.jobs import Job, JobType

pytestmark = pytest.mark.anyio


@pytest.mark.topologies
async def test_a_management_job_has_a_start_an_end_and_a_result(bench: Bench) -> None:
    bench.manager.answer = {"success": True, "model": "b"}
    await bench.push("load_model", {"model": "b.gguf"})
    await bench.run()
    (_, begun), (waits, progress), (last, end) = await bench.entries(1)
    assert (begun["type"], begun["mode"], begun["model"]) == ("load_model", "fresh", None)
    assert (waits, progress["stage"], progress["state"], progress["total"]) == ("progress", "loading", "starting", None)
    assert (last, end) == ("done", {"finish_reason": "stop", "usage": None, "timings": None})
    assert await bench.result() == {"success": True, "model": "b"}
    assert [job.type for job in bench.manager.jobs] == [JobType.LOAD_MODEL]
    assert bench.source.leased == [], "whoever looks after models leases engines himself"


@pytest.mark.parametrize(
    "error",
    [
        BadJobError("data.model: there is no model 'x'"),
        NoCapacityError("It runs elsewhere."),
        EngineFailedError("llama-server cannot be started: no file"),
        ModelUnavailableError("The model b cannot be loaded."),
        OutOfMemoryError("Too little."),
    ],
)
async def test_a_management_job_that_fails_says_so_and_ends(bench: Bench, error: JobError) -> None:
    bench.manager.answer = error
    await bench.push("load_model", {"model": "b.gguf"})
    await bench.run()
    *_, (event, data) = await bench.entries(1)
    assert (event, data["code"], data["error"], data["partial"]) == ("error", error.code, str(error), False)
    assert await bench.result() == {"error": str(error), "code": error.code}
    assert not await bench.waits()
    assert bench.source.complaints == [], "no text engine is to blame"


async def test_an_engine_lost_while_it_was_asked_is_asked_again(bench: Bench) -> None:
    bench.manager.answer = EngineCrashedError("gone")
    await bench.push("model_info", {}, max_attempts=2)
    await bench.run()
    assert (await bench.waits(), await bench.result()) == (True, {})
    bench.manager.answer = {"name": "tiny"}
    await bench.run()
    assert await bench.result() == {"name": "tiny"}
    assert await bench.modes() == ["fresh", "restart"]


async def test_a_management_job_is_never_cached(bench: Bench, commands: Any) -> None:
    bench.cache_mode = CacheMode.ALL
    for _ in range(2):
        await commands.delete("result:a", "stream:a", "{result:a}:job")
        await bench.push("health_check", None, cache=True)
        await bench.run()
    assert len(bench.manager.jobs) == 2
    assert not await commands.keys("prompt_cache:*")


class Slow(Manager):
    """A manager that never gets done."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = anyio.Event()

    async def run(self, job: Job, on_wait: Callable[[EngineState], None]) -> dict[str, Any]:
        on_wait(EngineState.DRAINING)
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError(job)


async def test_a_management_job_ends_with_its_time(bench: Bench) -> None:
    bench.manager = Slow()
    await bench.push("unload_models", {}, timeout=0.2)
    await bench.run()
    assert (await bench.result())["code"] == "timeout"


@pytest.mark.parametrize("stop", ["cancel", "hand back"])
async def test_a_management_job_can_be_stopped(bench: Bench, stop: str) -> None:
    slow = bench.manager = Slow()
    executor = bench.executor()
    await bench.push("unload_models", {})
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run, executor)
        await until(slow.asked.is_set)
        if stop == "cancel":
            executor.cancel("a")
        else:
            executor.stop(within=5)
    if stop == "cancel":
        assert (await bench.result())["finish_reason"] == "cancelled"
    else:
        assert (await bench.result(), await bench.waits()) == ({}, True)


async def test_a_job_of_a_kind_that_the_worker_does_not_run_is_told(bench: Bench) -> None:
    await bench.push("txt2img", {"prompt": "a cat"})
    await bench.run()
    result = await bench.result()
    assert (result["code"], "image jobs" in result["error"]) == ("no_capacity", True)


async def test_a_job_asks_for_the_model_that_it_names(bench: Bench) -> None:
    bench.source.unavailable = ModelUnavailableError("The model b cannot be loaded: no tensor")
    await bench.submit(data={"model": "b.gguf"})
    await bench.run()
    assert bench.source.leased == ["b.gguf"]
    *_, (event, data) = await bench.entries(1)
    assert (event, data["code"]) == ("error", "engine_unavailable")
    assert "no tensor" in (await bench.result())["error"]
    assert (await bench.waits(), await bench.letters()) == (False, [])


@pytest.mark.topologies
async def test_a_job_whose_engine_cannot_be_started_is_another_workers(bench: Bench) -> None:
    bench.source.unavailable = EngineFailedError("llama-server cannot be started: MODEL_PATH=x does not exist")
    bench.served_elsewhere = True
    await bench.submit(max_attempts=1)
    await bench.run()
    assert (await bench.waits(), await bench.result()) == (True, {})
    bench.source.unavailable = None
    claim = await bench.claim()
    assert (claim.last, claim.held.attempt) == (True, 2), "it has cost no attempt"


@pytest.mark.parametrize(("elsewhere", "fields"), [(False, {}), (True, {"worker": "w1"}), (False, {"worker": "w1"})])
async def test_a_job_that_no_other_worker_can_run_is_told_why_its_engine_cannot_be_started(
    bench: Bench, commands: Any, *, elsewhere: bool, fields: dict[str, Any]
) -> None:
    bench.source.unavailable = EngineFailedError("llama-server cannot be started: MODEL_PATH=x does not exist")
    bench.served_elsewhere = elsewhere
    await bench.submit(**fields)
    await bench.run()
    *_, (waits, progress), (event, data) = await bench.entries(1)
    assert (waits, progress["state"]) == ("progress", "backoff")
    assert (event, data["code"], data["retryable"]) == ("error", "engine_unavailable", True)
    assert "MODEL_PATH=x" in (await bench.result())["error"]
    assert not await bench.waits()
    assert not await commands.exists(DEAD)
    assert bench.source.complaints == [], "the supervisor knows it already"


async def test_a_job_whose_engine_was_replaced_goes_back_and_the_supervisor_is_told(bench: Bench) -> None:
    bench.source.unavailable = EngineUnavailableError("llama-server was replaced while the job ran.")
    await bench.submit()
    await bench.run()
    assert (await bench.waits(), bench.source.complaints) == (True, ["lost"])
