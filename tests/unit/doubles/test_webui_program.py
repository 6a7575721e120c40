"""The WebUI's double as a program, started with the flags of the real one."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.doubles.webui import WebUIDouble
from tests.doubles.webui.client import LIMIT, Asking, ask, until
from tests.support.ports import free_port

pytestmark = pytest.mark.processes

CAT: Final = {"prompt": "a cat", "seed": 7, "steps": 4, "width": 64, "height": 64}
ROOT: Final = Path(__file__).parents[3]


@dataclass
class Program:
    process: subprocess.Popen[str]
    journal: Path
    client: WebUIDouble
    """Not entered: only its address is used."""
    output: str = ""
    bars: str = ""

    def events(self, name: str) -> list[dict[str, Any]]:
        text = self.journal.read_text() if self.journal.exists() else ""
        return [event for event in map(json.loads, text.splitlines()) if event["event"] == name]


@contextmanager
def started(folder: Path, *flags: str) -> Generator[Program, None, None]:
    journal, port = folder / "journal", free_port()
    command = [
        sys.executable,
        "-m",
        "tests.doubles.webui",
        "--port",
        str(port),
        "--server-name",
        "127.0.0.1",
        "--xformers",
    ]
    pace = ("--step-seconds", "0.001", "--journal", str(journal))
    process = subprocess.Popen(
        [*command, *pace, *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    program = Program(process, journal, WebUIDouble(port=port))
    try:
        until(lambda: program.events("serving"))
        yield program
    finally:
        process.send_signal(signal.SIGTERM)
        program.output, program.bars = process.communicate(timeout=LIMIT)


def test_serves_until_it_is_told_to_end_and_shows_each_step(tmp_path: Path) -> None:
    with started(tmp_path, "--api", "--models", "a,b") as program:
        assert [one["model_name"] for one in ask(program.client, "GET", "sd-models")[1]] == ["a", "b"]
        assert ask(program.client, "POST", "txt2img", CAT)[0] == 200
    assert program.process.returncode == 0
    assert f"Running on local URL:  {program.client.url}" in program.output
    assert "4/4" in program.bars
    names = [json.loads(line)["event"] for line in program.journal.read_text().splitlines()]
    assert names == ["load", "serving", "arrived", "begun", "ended"]


def test_ends_at_once_in_the_middle_of_a_generation(tmp_path: Path) -> None:
    with started(tmp_path, "--nowebui") as program:
        content = json.dumps(CAT | {"steps": 10**6})
        connection = http.client.HTTPConnection("127.0.0.1", program.client.port)
        connection.request("POST", "/sdapi/v1/txt2img", content)
        until(lambda: program.events("begun"))
        connection.close()
    assert program.process.returncode == 0
    assert program.events("ended")[0]["error"] == "ClosingError"


def test_without_the_flag_there_is_no_api(tmp_path: Path) -> None:
    with started(tmp_path) as program:
        assert ask(program.client, "GET", "sd-models") == (404, {"detail": "Not Found"})
        assert ask(program.client, "GET", "/internal/ping") == (200, {})


def test_crashes_once_and_no_more_after_a_restart(tmp_path: Path) -> None:
    flags = ("--api", "--fail-with", "crash", "--fail-note", str(tmp_path / "note"))
    with started(tmp_path, *flags) as program:
        with pytest.raises(http.client.RemoteDisconnected):
            ask(program.client, "POST", "txt2img", CAT)
        program.process.wait(LIMIT)
    assert program.process.returncode == 1
    program.journal.unlink()
    with started(tmp_path, *flags) as program:
        assert ask(program.client, "POST", "txt2img", CAT)[0] == 200


def test_the_port_is_open_while_the_first_model_is_being_loaded(tmp_path: Path) -> None:
    with started(tmp_path, "--api", "--load-seconds", "0.3") as program:
        asking = Asking(program.client, "POST", "txt2img", CAT)
        assert ask(program.client, "GET", "sd-models")[0] == 200
        assert asking.answer()[0] == 200
    load, begun, ended = (program.events(name)[0]["at"] for name in ("load", "begun", "ended"))
    assert ended - load >= 0.3
    assert begun < ended
