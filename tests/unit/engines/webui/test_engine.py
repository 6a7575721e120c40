"""A WebUI as an engine: its models, its rest, and what jobs are told, on a double."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.doubles.webui import Setup, WebUIDouble
from tests.doubles.webui.client import ask
from tests.doubles.webui.setup import crash
from tests.support.waiting import until
from tests.support.webui_bench import FAST, MEMORY, SLOW, bench, cat, run, supervised
from velesio_worker.engines.base import EngineState, Spec
from velesio_worker.engines.http import ConnectionLostError
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.engines.webui.api import WebUIApi
from velesio_worker.wire.errors import (
    BadJobError,
    EngineRefusedError,
    EngineUnavailableError,
    ModelUnavailableError,
    OutOfMemoryError,
)
from velesio_worker.wire.jobs import CompletionParameters

pytestmark = pytest.mark.anyio

OTHER = Spec(name="tinyB")


async def test_out_of_memory_is_told_with_the_numbers() -> None:
    async with bench() as bed:
        bed.double.fail_next("oom")
        error = await bed.start(cat(width=512, height=256, batch_size=2)).failed()
        assert isinstance(error, OutOfMemoryError)
        assert error.code == "out_of_memory"
        for said in ("512x256", "2 at once", MEMORY, "SD_ARGS", "Tried to allocate 9.00 GiB"):
            assert said in str(error)


async def test_a_model_that_is_too_large_is_told_with_the_numbers() -> None:
    async with bench(replace(FAST, too_large="tinyB")) as bed:
        with pytest.raises(OutOfMemoryError) as caught:
            await bed.engine.exchange(Spec(name="tinyB"))
        for said in ("when it was to load tinyB", MEMORY, "SD_ARGS", "Tried to allocate 5.00 GiB"):
            assert said in str(caught.value)
        await bed.start(cat()).ended()


async def test_another_error_of_the_webui_is_passed_on() -> None:
    async with bench() as bed:
        bed.double.fail_next("nan")
        error = await bed.start(cat()).failed()
        assert isinstance(error, EngineRefusedError)
        assert "NaNs" in str(error)


async def test_a_job_that_cannot_be_run_never_stands_in_line() -> None:
    async with bench() as bed:
        error = await bed.start(cat(width=1024, height=1024)).failed()
        assert isinstance(error, BadJobError)
        assert bed.sent == []


async def test_a_text_job_is_refused() -> None:
    async with bench() as bed:
        with pytest.raises(BadJobError):
            bed.engine.generate(CompletionParameters.model_validate({"prompt": "a"}))


async def test_a_job_that_is_cut_short_has_no_image() -> None:
    async with bench() as bed:
        done = bed.engine.generate(cat(seed=3)).cut_short()
        assert done.finish_reason == "cancelled"
        assert done.result["images"] == []
        assert done.result["parameters"]["seed"] == 3
        assert bed.engine.generate(cat()).cut_short().result["parameters"]["seed"] is None


async def test_another_model_is_loaded_and_used() -> None:
    async with bench(replace(FAST, hashing=True)) as bed:
        assert bed.engine.model == "tinyA"
        await bed.engine.exchange(OTHER)
        assert bed.engine.model == "tinyB"
        result = await bed.start(cat(seed=1)).ended()
        assert result["parameters"]["model"] == "tinyB"
        assert "warnings" not in result
        await bed.engine.exchange(Spec())
        assert bed.engine.model == "tinyA"
        assert bed.double.loads == ["tinyA", "tinyB", "tinyA"]


async def test_the_model_that_is_loaded_is_not_loaded_again() -> None:
    async with bench(replace(FAST, hashing=True)) as bed:
        for name in ("tinyB", "tinyB", "", "tinyA", "tinyA.safetensors"):
            await bed.engine.exchange(Spec(name=name))
        assert [body["sd_model_checkpoint"] for body in bed.double.asked("options")] == [
            bed.engine.catalogue.models[1].name + ".safetensors",
            bed.engine.default.title if bed.engine.default else "",
        ]


async def test_an_exchange_waits_for_the_end_of_what_nobody_wants() -> None:
    async with bench(replace(SLOW, missing=frozenset({"interrupt"}))) as bed:
        job = await bed.held(cat(steps=20), at=2)
        await job.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bed.engine.exchange, OTHER)
            polls = bed.double.polls
            await until(lambda: bed.double.polls > polls + 3)
            assert bed.double.asked("options") == []
            bed.double.go_on()
        assert bed.engine.model == "tinyB"


async def test_a_model_whose_file_came_later_is_found(tmp_path: Path) -> None:
    (tmp_path / "first.safetensors").write_bytes(b"1")
    async with bench(replace(FAST, ckpt_dir=tmp_path)) as bed:
        (tmp_path / "second.safetensors").write_bytes(b"2")
        assert (await bed.engine.find("second")).name == "second"
        with pytest.raises(BadJobError, match="there are first, second"):
            await bed.engine.find("third")


async def test_a_model_that_is_not_known_is_said_also_while_an_image_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WebUIApi.post.__kwdefaults__ or {}, "timeout", 0.05)
    async with bench(SLOW) as bed:
        running = await bed.held()
        with pytest.raises(BadJobError, match="there are tinyA, tinyB"):
            await bed.engine.find("nonsense")
        (waiting,) = await bed.start_in_line(cat(prompt="a cat <lora:none:1>"))
        bed.double.go_on()
        await running.ended()
        assert "'none'" in (await waiting.ended())["warnings"][0]


async def test_a_webui_without_memory_to_look_again_has_what_it_had() -> None:
    async with bench() as bed:

        def fail() -> None:
            raise crash("OutOfMemoryError", "CUDA out of memory.")

        bed.double.studio.shelf.refresh = fail
        with pytest.raises(BadJobError, match="there are tinyA, tinyB"):
            await bed.engine.find("nonsense")


async def test_many_who_miss_something_have_it_looked_up_together() -> None:
    async with bench() as bed:
        jobs = [bed.start(cat(prompt=f"a cat <lora:none:1> {number}")) for number in range(9)]
        looked = 0
        refresh = bed.double.studio.shelf.refresh

        def count() -> None:
            nonlocal looked
            looked += 1
            refresh()

        bed.double.studio.shelf.refresh = count
        for job in jobs:
            await job.ended()
        assert looked <= 2


async def test_a_server_with_one_model_refuses_others_by_name() -> None:
    async with bench(replace(FAST, missing=frozenset({"options"}))) as bed:
        assert (await bed.engine.find("tinyA")).name == "tinyA"
        with pytest.raises(BadJobError, match="cannot load another"):
            await bed.engine.find("tinyB")


async def test_a_rest_lets_go_of_the_model_until_the_next_job() -> None:
    async with bench() as bed:
        await bed.engine.rest()
        await bed.engine.rest()
        assert bed.double.studio.shelf.unloaded
        await bed.start(cat()).ended()
        assert not bed.double.studio.shelf.unloaded
        await bed.start(cat()).ended()


async def test_a_job_that_leaves_while_the_model_is_loaded_again_is_never_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench() as bed:
        await bed.engine.rest()
        may_load = anyio.Event()
        post = bed.engine.line._api.post  # pyright: ignore[reportPrivateUsage]

        async def slow(route: str, body: dict[str, object], **values: float | None) -> object:
            if route == "reload-checkpoint":
                await may_load.wait()
            return await post(route, body, **values)

        monkeypatch.setattr(bed.engine.line._api, "post", slow)  # pyright: ignore[reportPrivateUsage]
        job = bed.start(cat(prompt="nobody"))
        (waiting,) = await bed.start_in_line(cat(prompt="somebody"))
        await job.close()
        may_load.set()
        await waiting.ended()
        assert bed.prompts == ["somebody"]
        assert bed.double.interrupts == []


async def test_a_webui_elsewhere_that_an_earlier_worker_left_without_its_model_serves() -> None:
    async with bench(shared=True) as bed:
        ask(bed.double, "POST", "unload-checkpoint")
        await bed.start(cat()).ended()


async def test_a_model_that_somebody_else_loaded_in_a_webui_elsewhere_is_exchanged_back() -> None:
    async with bench(shared=True) as bed:
        ask(bed.double, "POST", "options", {"sd_model_checkpoint": "tinyB"})
        result = await bed.start(cat()).ended()
        assert result["parameters"]["model"] == "tinyA"
        assert "warnings" not in result
        await bed.start(cat()).ended()
        assert bed.double.loads == ["tinyA", "tinyB", "tinyA"]


async def test_a_job_whose_model_is_loaded_again_for_long_is_shown_signs_of_life() -> None:
    async with bench(shared=True) as bed:
        ask(bed.double, "POST", "options", {"sd_model_checkpoint": "tinyB"})
        with bed.double.studio.turns.turn():  # so that its model cannot be loaded yet
            job = bed.start(cat())
            await until(lambda: len(job.batches) > 3)
            assert bed.sent == []
        await job.ended()


async def test_a_webui_that_goes_away_while_it_gets_the_model_back_costs_the_job_no_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench() as bed:
        await bed.engine.rest()

        async def cut(route: str, _body: dict[str, object], **_values: float | None) -> object:
            raise ConnectionLostError(f"{route} was cut off")

        monkeypatch.setattr(bed.engine.line._api, "post", cut)  # pyright: ignore[reportPrivateUsage]
        assert isinstance(await bed.start(cat()).failed(), EngineUnavailableError)


async def test_a_webui_that_went_away_is_no_mistake_of_the_workers() -> None:
    async with bench() as bed:
        bed.double.__exit__(None, None, None)
        try:
            for work in (bed.engine.rest(), bed.engine.exchange(OTHER), bed.engine.probe()):
                with pytest.raises(EngineUnavailableError):
                    await work
        finally:
            bed.double.__enter__()


async def test_jobs_get_the_model_that_they_ask_for_in_the_webui_that_runs() -> None:
    with WebUIDouble(FAST) as double:
        async with supervised(double) as supervisor:
            models = [None, "tinyB", "tinyB.safetensors", "tinyA", None]
            used = [(await run(supervisor, model)).result["parameters"]["model"] for model in models]
            assert used == ["tinyA", "tinyB", "tinyB", "tinyA", "tinyA"]
            assert double.loads == ["tinyA", "tinyB", "tinyA"]


async def test_a_model_that_does_not_exist_is_the_jobs_error_and_names_those_that_do() -> None:
    with WebUIDouble(FAST) as double:
        async with supervised(double) as supervisor:
            job = await run(supervisor, "nonsense")
            assert isinstance(job.error, BadJobError)
            assert "there are tinyA, tinyB" in str(job.error)
            assert (await run(supervisor)).result["parameters"]["model"] == "tinyA"


async def test_a_model_that_cannot_be_loaded_is_the_jobs_error_and_the_old_one_serves_on(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"1")
    with WebUIDouble(replace(FAST, ckpt_dir=tmp_path, hashing=True)) as double:
        async with supervised(double) as supervisor:
            (tmp_path / "second.safetensors").unlink()  # which the double notices when it loads it
            job = await run(supervisor, "second")
            assert isinstance(job.error, ModelUnavailableError | EngineUnavailableError)
            double.studio.shelf.data["sd_model_checkpoint"] = "first.safetensors"
            assert (await run(supervisor)).result["parameters"]["model"] == "first"


async def test_a_switch_makes_the_model_the_default() -> None:
    with WebUIDouble(FAST) as double:
        async with supervised(double) as supervisor:
            assert await supervisor.load("tinyB") == "tinyB"
            assert supervisor.model == "tinyB"
            assert (await run(supervisor)).result["parameters"]["model"] == "tinyB"
            assert (await run(supervisor, "tinyA")).result["parameters"]["model"] == "tinyA"
            assert (await run(supervisor)).result["parameters"]["model"] == "tinyB"


async def test_the_same_models_serve_after_the_webui_was_started_again() -> None:
    double = WebUIDouble(FAST)
    with double:
        port = double.port
        async with supervised(double) as supervisor:
            assert (await run(supervisor, "tinyB")).result["parameters"]["model"] == "tinyB"
            double.__exit__(None, None, None)
            await supervisor.lost()
            await until(lambda: supervisor.state is not EngineState.READY)
            again = WebUIDouble(Setup(step_seconds=0.002, models=("tinyB", "tinyA")), port=port)  # its last model first
            with again:
                await until(lambda: supervisor.state is EngineState.READY)
                assert (await run(supervisor)).result["parameters"]["model"] == "tinyA"
                assert (await run(supervisor, "tinyB")).result["parameters"]["model"] == "tinyB"
            double.__enter__()


async def test_a_webui_without_jobs_rests_and_serves_the_next() -> None:
    with WebUIDouble(FAST) as double:
        async with supervised(double, Patience(stall=600, idle=0.05)) as supervisor:
            for _ in range(2):
                await until(lambda: double.studio.shelf.unloaded)
                (await run(supervisor)).result  # noqa: B018 (which fails if there is none)


async def test_unloading_is_for_the_moment() -> None:
    with WebUIDouble(FAST) as double:
        async with supervised(double) as supervisor:
            await supervisor.unload()
            assert double.studio.shelf.unloaded
            assert (await run(supervisor, "tinyB")).result["parameters"]["model"] == "tinyB"
