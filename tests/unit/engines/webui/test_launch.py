"""How image engines come to be: the double as a program of the worker's own, and one that runs elsewhere."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from tests.doubles.launcher import PATIENT
from tests.doubles.webui import WebUIDouble
from tests.doubles.webui.routes import Routes
from tests.doubles.webui.setup import RefusedError
from tests.support.servers import free_port
from tests.support.waiting import until
from tests.support.webui_bench import FAST, OFTEN, ROOT, SLOW, GpusDouble, Job, cat, elsewhere
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import EngineState, Serving, Spec
from velesio_worker.engines.supervision import failures
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.engines.webui.launch import SPARE_SLOTS, WebUILauncher
from velesio_worker.engines.webui.line_options import Pace
from velesio_worker.wire.errors import (
    BadJobError,
    EngineCrashedError,
    EngineStartError,
    EngineUnavailableError,
    JobError,
    ModelUnavailableError,
)
from velesio_worker.wire.events import Begun

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

SILENT = "import time; print('loading', flush=True); time.sleep(60)"


class Bench:
    """A folder to run programs in, and what they wrote into their journal."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._journal = folder / "journal"

    def command(self, *flags: str, api: bool = True) -> str:
        """The command that starts the double."""
        words = [sys.executable, "-m", "tests.doubles.webui", "--port", str(self.port), "--server-name", "127.0.0.1"]
        words += [*(["--api"] if api else []), "--step-seconds", "0.005", "--journal", str(self._journal), *flags]
        return shlex.join(words)

    def launcher(self, command: str | None = None, *, pace: Pace = OFTEN, **values: Any) -> WebUILauncher:
        whole = {"sd_startup_command": command or self.command(), "sd_start_seconds": 20, **values}
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        return WebUILauncher(Settings.model_validate(whole), GpusDouble(), environ, pace=pace)

    def events(self, name: str) -> list[dict[str, Any]]:
        text = self._journal.read_text() if self._journal.exists() else ""
        return [event for event in map(json.loads, text.splitlines()) if event["event"] == name]


@pytest.fixture(autouse=True)
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)
    before = set(psutil.Process().children(recursive=True))
    yield Bench(tmp_path)
    assert set(psutil.Process().children(recursive=True)) <= before, "no test leaves a process"


@asynccontextmanager
async def serving(launcher: WebUILauncher) -> AsyncGenerator[Serving[WebUIEngine], None]:
    async with launcher.serve(launcher.default()) as serving:
        yield serving


async def fails(launcher: WebUILauncher) -> EngineStartError:
    with pytest.raises(EngineStartError) as caught:
        async with serving(launcher):
            pass
    return caught.value


async def run(engine: WebUIEngine, **values: object) -> Job:
    job = Job(cat(**values))
    with anyio.fail_after(60):
        await job.run(engine)
    return job


async def test_a_program_of_ones_own_is_started_made_ready_used_and_ended(bed: Bench) -> None:
    launcher = bed.launcher(sd_concurrency=2, sd_max_batch=3)
    assert launcher.owned
    async with serving(launcher) as ready:
        assert ready.engine.model == "tinyA"
        assert (ready.slots, ready.spare) == (2, 2 * 2 + SPARE_SLOTS)
        assert ready.kill is not None
        assert len(bed.events("ended")) == 1, "the warm-up"
        result = (await run(ready.engine, prompt="mine", seed=4)).result
        assert result["seeds"] == [4]
        assert (await launcher.resolve("tinyB")).name == "tinyB"
        assert await launcher.resolve("tinyA") == launcher.default()
    assert [event["prompt"] for event in bed.events("ended")] == ["a", "mine"]


async def test_a_program_that_ends_in_the_middle_of_an_image_is_gone_with_its_last_lines(bed: Bench) -> None:
    async with serving(bed.launcher()) as ready, anyio.create_task_group() as tasks:
        job = Job(cat(steps=150))
        tasks.start_soon(job.run, ready.engine)
        await until(lambda: len(bed.events("begun")) == 2)
        assert ready.kill is not None
        ready.kill()
        assert isinstance(await job.failed(), EngineCrashedError)
        with anyio.fail_after(60):
            assert "SIGKILL" in await ready.gone()


async def test_leaving_in_the_middle_of_an_image_leaves_no_process(bed: Bench) -> None:
    async with anyio.create_task_group() as tasks:
        job = Job(cat(steps=150))
        async with serving(bed.launcher()) as ready:
            tasks.start_soon(job.run, ready.engine)
            await until(lambda: len(bed.events("begun")) == 2)
        tasks.cancel_scope.cancel()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", bed.port)) != 0


async def test_a_start_that_is_given_up_leaves_no_process(bed: Bench) -> None:
    launcher = bed.launcher(bed.command("--start-seconds", "60"))
    with anyio.move_on_after(1):
        async with launcher.serve(Spec()):
            raise AssertionError


async def test_a_program_that_writes_nothing_for_long_is_given_up_and_the_setting_is_named(bed: Bench) -> None:
    command = shlex.join([sys.executable, "-c", SILENT])
    error = await fails(bed.launcher(command, sd_port=bed.port, sd_start_seconds=1.2))
    assert "SD_START_SECONDS" in str(error)
    assert "loading" in str(error)


async def test_a_program_that_ends_at_once_is_told_with_its_last_lines(bed: Bench) -> None:
    command = shlex.join([sys.executable, "-c", "print('No module named torch'); raise SystemExit(3)"])
    error = await fails(bed.launcher(command, sd_port=bed.port))
    for said in ("exit code 3", "No module named torch", "not installed whole"):
        assert said in str(error)


async def test_a_program_that_cannot_be_run_is_told(bed: Bench) -> None:
    error = await fails(bed.launcher("no-such-program", sd_port=bed.port))
    assert "SD_STARTUP_COMMAND" in str(error)
    assert error.final


async def test_a_program_that_crashes_in_its_first_image_is_told_with_its_end(bed: Bench) -> None:
    error = await fails(bed.launcher(bed.command("--fail-with", "crash")))
    assert "exit code 1" in str(error)


async def test_a_program_whose_first_image_needs_too_much_memory_is_told_what_to_change(bed: Bench) -> None:
    error = await fails(bed.launcher(bed.command("--fail-with", "oom")))
    assert error.out_of_memory
    assert "--medvram" in str(error)


async def test_a_program_without_the_api_is_told_what_is_missing(bed: Bench) -> None:
    error = await fails(bed.launcher(bed.command(api=False), sd_start_seconds=2))
    assert "--api" in str(error)


async def test_a_port_that_is_taken_is_told_with_the_setting(bed: Bench) -> None:
    with WebUIDouble(FAST) as double:
        bed.port = double.port
        error = await fails(bed.launcher())
        assert "SD_PORT" in str(error)
        assert "SD_SERVER_URL" in str(error)


async def test_a_password_in_the_command_is_used(bed: Bench) -> None:
    async with serving(bed.launcher(bed.command("--api-auth", "me:it's 1@here"))) as ready:
        assert (await run(ready.engine)).result["images"]


async def test_the_model_is_loaded_behind_the_open_port(bed: Bench) -> None:
    async with serving(bed.launcher(bed.command("--load-seconds", "0.3"))):
        load, warm = (bed.events(name)[0]["at"] for name in ("load", "ended"))
        assert warm - load >= 0.3


def short(_low: float, _high: float) -> float:
    return 0.01


async def test_a_program_that_goes_on_with_what_nobody_wants_is_replaced(
    bed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures.random, "uniform", short)
    launcher = bed.launcher(bed.command("--missing", "interrupt"), pace=replace(OFTEN, replace=0.1))
    supervisor = Supervisor(launcher, PATIENT)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        async with supervisor.ensure() as engine:
            job = Job(cat(steps=150, n_iter=4))
            tasks.start_soon(job.run, engine)
            await until(lambda: len(bed.events("begun")) == 2)
            await job.close()
        await until(lambda: len(bed.events("serving")) == 2)
        async with supervisor.ensure() as engine:
            assert (await run(engine)).result["images"]
        tasks.cancel_scope.cancel()


async def test_a_program_that_is_killed_costs_those_who_stood_in_its_line_no_attempt(
    bed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures.random, "uniform", short)
    supervisor = Supervisor(bed.launcher(sd_concurrency=3, sd_max_batch=1), PATIENT)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        for kills in range(3):
            await until(lambda: supervisor.state is EngineState.READY)
            jobs = [Job(cat(steps=150, prompt=f"{kills} {number}")) for number in range(3)]
            for job in jobs:
                tasks.start_soon(lease_and_run, supervisor, job)
            await until(lambda kills=kills: len(bed.events("begun")) == 2 * (kills + 1))
            serving = supervisor.serving
            assert serving is not None
            assert serving.kill is not None
            serving.kill()
            await until(lambda jobs=jobs: all(job.over and job.error for job in jobs))
            assert [Begun() in job.events for job in jobs] == [True, False, False]
            await until(lambda serving=serving: supervisor.serving is not serving)
        tasks.cancel_scope.cancel()


async def lease_and_run(supervisor: Supervisor[WebUIEngine], job: Job) -> None:
    try:
        async with supervisor.ensure() as engine:
            await job.run(engine)
    except JobError as error:
        job.error = error


async def test_a_program_that_fails_to_load_a_model_is_started_again_and_makes_the_same_images(bed: Bench) -> None:
    supervisor = Supervisor(bed.launcher(bed.command("--models", "tinyA,tinyB", "--broken", "tinyB")), PATIENT)

    async def image() -> list[str]:
        async with supervisor.ensure() as engine:
            return (await run(engine, seed=1)).result["images"]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        before = await image()
        with pytest.raises(ModelUnavailableError, match=r"The model tinyB cannot be loaded: .* has 'tinyA' loaded"):
            async with supervisor.ensure("tinyB"):
                pass
        assert await image() == before
        assert len(bed.events("serving")) == 2
        with pytest.raises(ModelUnavailableError, match="it is tried again once its file has changed"):
            async with supervisor.ensure("tinyB"):
                pass
        assert await image() == before
        assert len(bed.events("serving")) == 2, "one start for all jobs that want it"
        assert (supervisor.facts()["restarts"], supervisor.facts()["last_error"]) == (0, None)
        tasks.cancel_scope.cancel()


async def test_a_program_that_fails_to_load_a_refiner_is_started_again_and_makes_the_same_images(bed: Bench) -> None:
    supervisor = Supervisor(bed.launcher(bed.command("--models", "tinyA,tinyB", "--broken", "tinyB")), PATIENT)

    async def image(**more: object) -> Job:
        async with supervisor.ensure() as engine:
            return await run(engine, seed=1, **more)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        before = (await image()).result["images"]
        failed = await image(refiner_checkpoint="tinyB")
        assert "SafetensorError" in str(failed.error)
        await until(lambda: len(bed.events("serving")) == 2)
        assert (await image()).result["images"] == before
        again = await image(refiner_checkpoint="tinyB")
        assert "it is tried again once its file has changed" in str(again.error)
        assert (await image()).result["images"] == before
        assert len(bed.events("serving")) == 2, "one start for all jobs that want it"
        assert supervisor.facts()["last_error"] is None, "it was wished for"
        tasks.cancel_scope.cancel()


async def test_a_webui_elsewhere_is_used_and_not_ended() -> None:
    with WebUIDouble(FAST) as double:
        launcher = elsewhere(double.url)
        assert not launcher.owned
        async with serving(launcher) as ready:
            assert ready.kill is None
            assert double.asked("txt2img") == [], "no warm-up"
            await run(ready.engine)
        assert not double.studio.shelf.unloaded
        async with serving(launcher) as ready:
            await run(ready.engine)
        assert double.inside == 0


async def test_a_webui_elsewhere_takes_user_and_password() -> None:
    with WebUIDouble(replace(FAST, api_auth="me:secret")) as double:
        async with serving(elsewhere(f"http://me:secret@127.0.0.1:{double.port}")) as ready:
            assert (await run(ready.engine)).result["images"]


@pytest.mark.parametrize("user", ["", "me:wrong@"], ids=["none", "wrong"])
async def test_a_wrong_password_is_told_with_what_to_change_and_without_the_password(user: str) -> None:
    with WebUIDouble(replace(FAST, api_auth="me:secret")) as double:
        error = await fails(elsewhere(f"http://{user}127.0.0.1:{double.port}"))
        assert "http://user:password@host:port" in str(error)
        assert "wrong" not in str(error)
        assert error.final


async def test_a_server_that_is_no_webui_is_told(tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the parent's)
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            error = await fails(elsewhere(f"http://127.0.0.1:{server.server_port}"))
        finally:
            await anyio.to_thread.run_sync(server.shutdown)
            thread.join()
    assert "no Stable Diffusion WebUI (start it with --api)" in str(error)


async def test_a_webui_elsewhere_that_is_not_there_yet_is_waited_for() -> None:
    port = free_port()
    double = WebUIDouble(FAST, port=port)
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:

        async def use() -> None:
            async with serving(elsewhere(f"http://127.0.0.1:{port}")) as ready:
                assert (await run(ready.engine)).result["images"]

        tasks.start_soon(use)
        await anyio.sleep(0.2)  # it asks, and nobody is there
        stack.enter_context(double)


async def test_a_proxy_whose_webui_is_not_there_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find, asked = Routes.find, 0

    def not_yet(self: Routes, method: str, path: str) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RefusedError(502, {"detail": "Bad Gateway"})
        return find(self, method, path)

    monkeypatch.setattr(Routes, "find", not_yet)
    with WebUIDouble(FAST) as double:
        async with serving(elsewhere(double.url)) as ready:
            assert ready.engine.model == "tinyA"
        assert asked > 1
    assert any("correct SD_SERVER_URL; trying again" in record.getMessage() for record in caplog.records)


async def test_a_webui_elsewhere_that_goes_away_is_gone() -> None:
    double = WebUIDouble(FAST)
    with double:
        async with serving(elsewhere(double.url)) as ready:
            double.__exit__(None, None, None)
            job = await run(ready.engine)
            assert isinstance(job.error, EngineUnavailableError)
            ready.report()
            with anyio.fail_after(60):
                assert "does not answer" in await ready.gone()
        double.__enter__()


async def test_leaving_a_webui_elsewhere_in_the_middle_of_a_request_interrupts_it() -> None:
    with WebUIDouble(SLOW) as double:
        async with anyio.create_task_group() as tasks:
            job = Job(cat(steps=150, n_iter=4))
            async with serving(elsewhere(double.url)) as ready:
                tasks.start_soon(job.run, ready.engine)
                await until(lambda: double.step > 2)
            await until(lambda: double.made)
            tasks.cancel_scope.cancel()
        assert double.interrupts == [True]
        await until(lambda: double.inside == 0)


async def test_a_webui_elsewhere_lets_go_of_the_gpu_on_leaving_where_engines_take_turns() -> None:
    with WebUIDouble(FAST) as double:
        launcher = elsewhere(double.url, gpu_sharing="exclusive")
        for _ in range(2):
            async with serving(launcher) as ready:
                await run(ready.engine)
            assert double.studio.shelf.unloaded


async def test_what_jobs_may_override_is_set_once_so_that_the_webui_restores_it() -> None:
    with WebUIDouble(FAST) as double:
        assert "CLIP_stop_at_last_layers" not in double.studio.shelf.data
        async with serving(elsewhere(double.url)) as ready:
            values = {"override_settings": {"CLIP_stop_at_last_layers": 2}}
            changed = (await run(ready.engine, seed=1, **values)).result
            plain = (await run(ready.engine, seed=1)).result
            assert changed["info"]["clip_skip"] == 2
            assert plain["info"]["clip_skip"] == 1
        asked = [body for body in double.asked("options") if body]
        assert asked == [{"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"}]


async def test_images_are_png_whatever_the_webui_elsewhere_writes() -> None:
    with WebUIDouble(FAST) as double:
        double.studio.shelf.data["samples_format"] = "jpg"
        async with serving(elsewhere(double.url)) as ready:
            result = (await run(ready.engine)).result
            assert result["images"][0].startswith("iVBORw0KGgo")
            assert any("samples_format" in warning for warning in result["warnings"])
        assert double.studio.shelf.data["samples_format"] == "jpg", "others use it, too"


async def test_a_server_of_fewer_routes_still_makes_images() -> None:
    missing = frozenset({"progress", "interrupt", "options", "memory", "unload-checkpoint", "info"})
    with WebUIDouble(replace(FAST, missing=missing, nowebui=True)) as double:
        async with serving(elsewhere(double.url)) as ready:
            assert ready.rest is None
            assert (await run(ready.engine, seed=5)).result["seeds"] == [5]


async def test_a_model_of_a_webui_that_does_not_serve_yet_is_taken_at_its_word(bed: Bench) -> None:
    launcher = bed.launcher()
    assert await launcher.resolve("anything") == Spec(name="anything")
    assert launcher.known_as(None) == Spec()
    with WebUIDouble(FAST) as double:
        supervisor = Supervisor(elsewhere(double.url), PATIENT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.run)
            with pytest.raises(JobError, match="there are tinyA, tinyB"):
                async with supervisor.ensure("anything"):
                    pass
            await until(lambda: supervisor.state is EngineState.READY)
            tasks.cancel_scope.cancel()


async def test_a_model_of_a_webui_that_was_stopped_is_looked_for_when_it_serves_again() -> None:
    with WebUIDouble(replace(FAST, missing=frozenset({"memory", "unload-checkpoint"}))) as double:
        launcher = elsewhere(double.url)
        async with serving(launcher):
            assert await launcher.resolve("tinyA") == launcher.default()
        assert await launcher.resolve("tinyA") == Spec(name="tinyA"), "the default may be another one then"
        assert await launcher.resolve("tinyB") == Spec(name="tinyB")
        assert await launcher.resolve("nope") == Spec(name="nope")
        supervisor = Supervisor(launcher, PATIENT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.run)
            with pytest.raises(BadJobError, match="there are tinyA, tinyB"):
                await supervisor.load("nope")
            tasks.cancel_scope.cancel()
