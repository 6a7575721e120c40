"""A WebUI that is another one than it was, or whose files are; and one that failed to load a model. All on a double."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.doubles.webui import Setup, WebUIDouble
from tests.doubles.webui.client import ask
from tests.support.waiting import until
from tests.support.webui_bench import FAST, Job, bench, cat, run, supervised
from velesio_worker.engines.base import EngineState, Spec, SpoiltError
from velesio_worker.engines.supervision import failures
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.engines.webui import engine as engine_module
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.wire.errors import (
    BadJobError,
    EngineFailedError,
    EngineRefusedError,
    EngineUnavailableError,
    ModelUnavailableError,
)

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

BROKEN = replace(FAST, models=("tinyA", "tinyB", "tinyC"), broken="tinyC")


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    def short(_low: float, _high: float) -> float:
        return 0.01

    monkeypatch.setattr(failures.random, "uniform", short)
    monkeypatch.setattr(engine_module, "_LOOK_SECONDS", 0.0)  # a double is started again sooner than a WebUI


def no_kill() -> None:
    raise AssertionError("it is as it was")


def models(*names: str, **values: Any) -> Setup:
    return replace(FAST, models=names, **values)


@asynccontextmanager
async def exchanged(first: Setup, second: Setup) -> AsyncGenerator[tuple[Supervisor[WebUIEngine], WebUIDouble], None]:
    """A WebUI elsewhere that ran a job, and was then started again as another one, which nobody has noticed."""
    double = WebUIDouble(first)
    with double:
        async with supervised(double) as supervisor:
            await run_to_its_end(supervisor)
            double.__exit__(None, None, None)
            with WebUIDouble(second, port=double.port) as again:
                yield supervisor, again
            double.__enter__()


async def run_to_its_end(supervisor: Supervisor[WebUIEngine], model: str | None = None, **values: object) -> Job:
    """Run a job as an executor and its list do: one that its engine was not there for comes again."""
    with anyio.fail_after(30):
        while True:
            job = await run(supervisor, model, **values)
            final = isinstance(job.error, EngineFailedError | ModelUnavailableError)
            if not isinstance(job.error, EngineUnavailableError) or final:
                return job
            await supervisor.lost()


async def test_a_job_without_a_model_gets_what_a_webui_has_loaded_that_was_exchanged() -> None:
    async with exchanged(models("tinyA", "tinyB"), models("tinyB", "tinyC")) as (supervisor, _):
        job = await run_to_its_end(supervisor)
        assert job.result["parameters"]["model"] == "tinyB"
        assert "warnings" not in job.result
        assert supervisor.model == "tinyB"
        assert supervisor.facts()["default_model"] == "tinyB"


async def test_a_model_that_an_exchanged_webui_has_not_is_the_jobs_error_and_names_those_that_there_are() -> None:
    async with exchanged(models("tinyA", "tinyB"), models("tinyB", "tinyC")) as (supervisor, _):
        job = await run_to_its_end(supervisor, "tinyA")
        assert isinstance(job.error, BadJobError)
        assert "there are tinyB, tinyC" in str(job.error)
        assert (await run_to_its_end(supervisor, "tinyC")).result["parameters"]["model"] == "tinyC"


async def test_a_default_that_somebody_chose_and_that_is_gone_is_the_default_no_more() -> None:
    double = WebUIDouble(models("tinyA", "tinyB"))
    with double:
        async with supervised(double) as supervisor:
            assert await supervisor.load("tinyB") == "tinyB"
            double.__exit__(None, None, None)
            with WebUIDouble(models("tinyC", "tinyD"), port=double.port):
                assert (await run_to_its_end(supervisor)).result["parameters"]["model"] == "tinyC"
                assert supervisor.facts()["default_model"] == "tinyC"
            double.__enter__()


async def test_a_webui_that_wants_another_password_by_now_is_no_jobs_fault() -> None:
    async with exchanged(models("tinyA"), models("tinyA", api_auth="me:secret")) as (supervisor, _):
        job = await run_to_its_end(supervisor)
        assert isinstance(job.error, EngineFailedError)
        assert "wants a user and a password" in str(job.error)
        assert supervisor.reason


async def test_a_webui_that_was_started_again_with_the_same_models_gets_the_same_default_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with exchanged(models("tinyA", "tinyB"), models("tinyB", "tinyA")) as (supervisor, again):
        assert (await run_to_its_end(supervisor)).result["parameters"]["model"] == "tinyA"
        assert again.loads == ["tinyB", "tinyA"]
        assert "somebody else" not in caplog.text


async def test_loras_of_a_webui_that_had_no_route_for_them_are_known_after_its_exchange() -> None:
    first = models("tinyA", missing=frozenset({"loras"}))
    async with exchanged(first, models("tinyA", loras=("known",))) as (supervisor, _):
        job = await run_to_its_end(supervisor, prompt="a cat <lora:none:1> <lora:known:1>")
        assert "'none'" in job.result["warnings"][0]
        assert len(job.result["warnings"]) == 1


async def test_a_webui_that_was_started_again_with_the_same_models_is_met_anew() -> None:
    async with exchanged(models("tinyA"), models("tinyA")) as (supervisor, again):
        serving = supervisor.serving
        assert (await run_to_its_end(supervisor)).result["images"]
        assert supervisor.serving is not serving
        assert {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"} in again.asked("options")


async def test_a_webui_that_does_not_tell_of_its_progress_for_a_moment_is_the_same_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def untold(_: object) -> dict[str, Any]:
        return {}

    with WebUIDouble(FAST) as double:
        async with supervised(double) as supervisor:
            await run_to_its_end(supervisor)
            monkeypatch.setattr("velesio_worker.engines.webui.api.WebUIApi.state", untold)
            assert (await run(supervisor)).result["images"]


async def test_an_exchange_is_noticed_by_a_probe() -> None:
    async with exchanged(models("tinyA"), models("tinyB")) as (supervisor, _):
        serving = supervisor.serving
        assert serving is not None
        with pytest.raises(EngineUnavailableError, match="there are tinyB"):
            await serving.probe()
        serving.report()
        await until(lambda: supervisor.serving is not None and supervisor.serving is not serving)
        assert supervisor.model == "tinyB"


async def test_what_a_webui_has_is_not_asked_for_each_of_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_LOOK_SECONDS", 600.0)
    asked: list[float] = []
    read = engine_module.read_catalogue

    async def count(api: Any) -> Any:
        asked.append(anyio.current_time())
        return await read(api)

    monkeypatch.setattr(engine_module, "read_catalogue", count)
    with WebUIDouble(FAST) as double:
        async with supervised(double) as supervisor:
            for _ in range(5):
                await run_to_its_end(supervisor)
            assert asked == []


async def test_a_model_whose_file_was_replaced_is_loaded_by_its_new_title(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    async with bench(replace(FAST, ckpt_dir=tmp_path, hashing=True)) as bed:
        for name in ("second", "first"):
            await bed.engine.exchange(Spec(name=name))
        (tmp_path / "second.safetensors").write_bytes(b"another")
        ask(bed.double, "POST", "refresh-checkpoints")  # somebody pressed the button
        await bed.engine.exchange(Spec(name="second"))
        assert bed.engine.model == "second"
        assert (await bed.start(cat()).ended())["parameters"]["model"] == "second"


async def test_a_model_whose_file_is_gone_is_the_jobs_error(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"1")
    async with bench(replace(FAST, ckpt_dir=tmp_path)) as bed:
        (tmp_path / "second.safetensors").unlink()
        ask(bed.double, "POST", "refresh-checkpoints")
        with pytest.raises(BadJobError, match="second is not there any more; there are first"):
            await bed.engine.exchange(Spec(name="second"))


async def test_a_default_model_whose_file_is_gone_gives_way_to_the_loaded_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"1")
    async with bench(replace(FAST, ckpt_dir=tmp_path)) as bed:
        await bed.engine.exchange(Spec(name="second"))
        (tmp_path / "first.safetensors").unlink()
        ask(bed.double, "POST", "refresh-checkpoints")
        await bed.engine.exchange(Spec())
        assert bed.engine.model == "second"
        assert "the default image model first is not there any more; there are second" in caplog.text


async def images_after_a_failed_load(bed_setup: Setup) -> tuple[Any, Any, list[str]]:
    """Make the same image before and after a load that failed in a WebUI elsewhere."""
    async with bench(bed_setup, shared=True) as bed:
        before = (await bed.start(cat(seed=1)).ended())["images"]
        with pytest.raises(ModelUnavailableError, match="was to load 'tinyC' and has 'tinyA' loaded"):
            await bed.engine.exchange(Spec(name="tinyC"))
        after = (await bed.start(cat(seed=1)).ended())["images"]
        assert bed.double.studio.shelf.value("cross_attention_optimization") == "Automatic"
        return before, after, bed.double.loads


async def test_a_webui_elsewhere_that_failed_to_load_a_model_makes_the_same_images_as_before() -> None:
    before, after, loads = await images_after_a_failed_load(BROKEN)
    assert after == before
    assert loads == ["tinyA"]


async def test_the_same_where_its_attention_code_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_choice(*_: object) -> bool:
        return False

    monkeypatch.setattr("velesio_worker.engines.webui.loading.Loader._choose_anew", no_choice)
    before, after, loads = await images_after_a_failed_load(BROKEN)
    assert after == before
    assert loads == ["tinyA", "tinyB", "tinyA"]


async def test_a_webui_of_ones_own_that_failed_to_load_a_model_is_to_be_replaced() -> None:
    async with bench(BROKEN) as bed:
        with pytest.raises(SpoiltError, match="has 'tinyA' loaded"):
            await bed.engine.exchange(Spec(name="tinyC"))
        assert not bed.double.studio.shelf.hooked


WITHIN: tuple[dict[str, Any], ...] = (
    {"refiner_checkpoint": "tinyC"},
    {"enable_hr": True, "hr_checkpoint_name": "tinyC"},
)
"""How a request has the WebUI load a model in the midst of it."""


@pytest.mark.parametrize("more", WITHIN, ids=["refiner", "hires fix"])
async def test_a_model_that_cannot_be_loaded_in_the_midst_of_an_image_spoils_no_other(more: dict[str, Any]) -> None:
    with WebUIDouble(BROKEN) as double:
        async with supervised(double) as supervisor:
            before = (await run(supervisor, seed=5)).result["images"]
            assert "SafetensorError" in str((await run(supervisor, seed=5, **more)).error)
            assert (await run(supervisor, seed=5)).result["images"] == before
            assert double.studio.shelf.hooked
            assert double.loads == ["tinyA"], "somebody else's is made to load nothing for that"


async def test_an_image_that_fails_for_another_reason_has_its_models_tried_and_all_stays_as_it_was() -> None:
    async with bench(BROKEN, kill=no_kill) as bed:
        before = (await bed.start(cat(seed=5)).ended())["images"]
        bed.double.fail_next("nan")
        await bed.start(cat(seed=5, refiner_checkpoint="tinyB")).failed()
        assert (await bed.start(cat(seed=5)).ended())["images"] == before
        assert (bed.double.loads, bed.engine.model) == (["tinyA", "tinyB", "tinyA"], "tinyA")
        assert (await bed.start(cat(seed=5, refiner_checkpoint="tinyB")).ended())["images"]


@pytest.mark.parametrize("more", [{}, {"refiner_checkpoint": "tinyA"}])
async def test_an_image_that_fails_and_names_no_other_model_has_none_tried(more: dict[str, object]) -> None:
    async with bench(BROKEN, kill=no_kill) as bed:
        bed.double.fail_next("nan")
        await bed.start(cat(**more)).failed()
        assert (await bed.start(cat()).ended())["images"]
        assert bed.double.loads == ["tinyA"]


async def test_those_who_wait_behind_an_image_that_spoils_the_webui_are_not_made_by_it() -> None:
    kills: list[bool] = []
    async with bench(BROKEN, kill=lambda: kills.append(True)) as bed:
        first = await bed.held(cat(refiner_checkpoint="tinyC"))
        (waiting,) = await bed.start_in_line(cat(prompt="another"))
        bed.double.go_on()
        assert isinstance(await first.failed(), EngineRefusedError)
        assert isinstance(await waiting.failed(), EngineUnavailableError), "which costs it no attempt"
        assert bed.prompts == ["a cat"]
        await until(lambda: kills)
        assert bed.engine.line.ended
        with pytest.raises(ModelUnavailableError, match="tried again once its file has changed"):
            raise await bed.start(cat(refiner_checkpoint="tinyC")).failed()


async def test_a_webui_elsewhere_that_hangs_gets_no_job_before_it_makes_an_image_again() -> None:
    with WebUIDouble(FAST) as double:
        async with supervised(double) as supervisor, anyio.create_task_group() as tasks:
            double.pause()
            tasks.start_soon(run, supervisor)
            await until(lambda: double.running)
            await supervisor.stalled("sent nothing for 60 s")
            tasks.cancel_scope.cancel()
            await until(lambda: double.waiting == 1)
            assert supervisor.state is EngineState.STARTING
            double.go_on()
            assert (await run_to_its_end(supervisor)).result["images"]


async def test_the_state_says_that_a_model_was_unloaded_and_which_is_the_default() -> None:
    with WebUIDouble(FAST) as double:
        async with supervised(double) as supervisor:
            assert supervisor.facts()["model"] == "tinyA"
            assert supervisor.facts()["default_model"] == "tinyA"
            await supervisor.unload()
            assert supervisor.state is EngineState.READY
            assert supervisor.facts()["model"] is None
            assert supervisor.facts()["default_model"] == "tinyA"
            await run_to_its_end(supervisor)
            assert supervisor.facts()["model"] == "tinyA"
