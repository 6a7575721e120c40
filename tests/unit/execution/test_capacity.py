"""What a worker runs, and what it says of the settings that leave something undone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.doubles.engine import EngineDouble, document, healthy
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.gpu import Gpus
from velesio_worker.engines.supervision.gpu_turns import GpuTurns
from velesio_worker.engines.webui.command import FOLDER, LAUNCH
from velesio_worker.execution import capacity
from velesio_worker.execution.capacity import EngineSet, check_engine_set, make_engine_set
from velesio_worker.queue.fleet import Fleet
from velesio_worker.wire.errors import SettingsError
from velesio_worker.wire.jobs import Kind

URL = "http://127.0.0.1:7860"
FLEET: Fleet = None  # pyright: ignore[reportAssignmentType] (nobody asks it before the sides run)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.chdir(tmp_path)


def sides(settings: Settings) -> EngineSet:
    return make_engine_set(settings, FLEET, Gpus("0"), lambda: None)


def settings(**more: Any) -> Settings:
    return Settings(_env_file=None, **more)  # pyright: ignore[reportCallIssue] (pydantic-settings' own)


def install() -> None:
    FOLDER.mkdir(parents=True)
    (FOLDER / LAUNCH).touch()


def warnings_of(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ({"sd_server_url": URL}, [Kind.TEXT, Kind.IMAGE]),
        ({"sd_startup_command": "sd-server"}, [Kind.TEXT, Kind.IMAGE]),
        ({"sd_server_url": URL, "run_llm": False}, [Kind.IMAGE]),
        ({"sd_server_url": URL, "run_sd": False}, [Kind.TEXT]),
        ({}, [Kind.TEXT]),
        ({"run_llm": False, "run_sd": False}, []),
    ],
)
def test_a_worker_runs_what_the_settings_ask_for_and_there_is(more: dict[str, Any], kinds: list[Kind]) -> None:
    made = sides(settings(**more))
    assert made.kinds == kinds
    assert [gate.kind for gate in made.gates] == kinds


@pytest.mark.anyio
async def test_a_server_elsewhere_that_answered_oddly_for_a_moment_is_used_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capacity, "_RETRY_ELSEWHERE", 0.1)  # for others it is five minutes
    async with EngineDouble(healthy()).serving() as double:
        double.answers["/props"].insert(0, document(7))
        made = sides(settings(llama_server_url=double.url, run_sd=False))
        assert made.text is not None
        supervisor = made.text.supervisor
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.run)
            with anyio.fail_after(60):
                while not supervisor.told:
                    await anyio.sleep(0.01)
                assert double.url not in supervisor.told
                while supervisor.state is not EngineState.READY:
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()


def test_a_webui_in_its_folder_is_enough() -> None:
    install()
    assert sides(settings()).kinds == [Kind.TEXT, Kind.IMAGE]


@pytest.mark.parametrize("sharing", ["shared", "exclusive"])
def test_engines_take_turns_only_where_the_gpu_is_not_shared(sharing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[GpuTurns] = []

    class Counted(GpuTurns):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr("velesio_worker.execution.capacity.GpuTurns", Counted)
    sides(settings(sd_server_url=URL, gpu_sharing=sharing))
    assert len(made) == (1 if sharing == "exclusive" else 0), "both sides share them"


def test_a_worker_with_everything_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    chosen = settings(sd_server_url=URL)
    check_engine_set(chosen, sides(chosen))
    chosen = settings(run_sd=False)
    check_engine_set(chosen, sides(chosen))
    assert not warnings_of(caplog)


def test_a_missing_webui_is_told_with_what_to_do_and_where_its_jobs_stay(caplog: pytest.LogCaptureFixture) -> None:
    chosen = settings(queue_name="my_queue")
    check_engine_set(chosen, sides(chosen))
    said = warnings_of(caplog)
    for word in ("data/sd/launch.py", "SD_STARTUP_COMMAND", "SD_SERVER_URL", "RUN_SD=false", "{my_queue}:image"):
        assert word in said


def test_a_worker_with_nothing_to_run_does_not_start_and_says_why() -> None:
    nothing = settings(run_llm=False, run_sd=False)
    with pytest.raises(SettingsError, match=r"RUN_LLM=false and RUN_SD=false .* set one of them to true"):
        check_engine_set(nothing, sides(nothing))
    no_webui = settings(run_llm=False)
    with pytest.raises(SettingsError, match=r"RUN_LLM=false, and .*launch.py is missing.* SD_SERVER_URL"):
        check_engine_set(no_webui, sides(no_webui))
