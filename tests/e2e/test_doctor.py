"""``velesio-worker doctor`` as an operator runs it, with the real server, model and Redis."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import base_environment
from tests.support.forks import run_forked
from tests.support.processes import MakeWorker
from tests.support.servers import free_port

COMMAND = [sys.executable, "-m", "velesio_worker", "doctor"]
SLOW = "each job waits for it several times"
"""What it says of a Redis that is slow; one on a machine that is held up is."""

LIMIT = 10.0
"""How long the checks may take, in seconds, beyond the start of the program."""


@pytest.fixture
def environment(redis_url: str, model_path: Path) -> dict[str, str]:
    """That of a worker that can work, on the CPU."""
    return {
        **base_environment(),
        "REDIS_URL": redis_url,
        "MODEL_PATH": str(model_path),
        "LLAMA_PORT": str(free_port()),
        "HEALTH_PORT": str(free_port()),
        "GPU_LAYERS": "0",
        "RUN_SD": "false",
    }


def doctor(environment: dict[str, str], **settings: str) -> tuple[int, list[dict[str, Any]], float]:
    """Run it; returns its exit code, what it found and how long it took."""
    began = time.monotonic()
    code, output, error = run_forked(environment | settings, "doctor", "--json")
    assert error == ""
    return code, json.loads(output), time.monotonic() - began


def start_seconds(environment: dict[str, str]) -> float:
    """How long this machine takes to start the program now."""
    began = time.monotonic()
    assert run_forked(environment, "doctor", "--help")[0] == 0
    return time.monotonic() - began


def errors(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["check"], row["message"]) for row in rows if row["status"] == "error"]


@pytest.mark.engine
@pytest.mark.parametrize("sizing", ["caps", "fit"])
def test_a_worker_that_can_work_is_told_so(environment: dict[str, str], sizing: str) -> None:
    code, rows, seconds = doctor(environment, GPU_SIZING=sizing)
    assert (code, [row for row in rows if row["status"] != "ok" and SLOW not in row["message"]]) == (0, [])
    assert seconds < LIMIT + start_seconds(environment)
    server = next(row for row in rows if row["check"] == "llama-server")
    assert (server["source"], server["program"]) == ("the xllamacpp wheel", sys.executable)
    assert server["version"].startswith("xllamacpp ")
    model = next(row for row in rows if row["check"] == "model")
    assert (model["architecture"], model["training_context_length"]) == ("llama", 8192)


@pytest.mark.engine
def test_flags_of_a_command_are_held_against_the_real_help(environment: dict[str, str], model_path: Path) -> None:
    embedded = f"{sys.executable} -m velesio_worker.engines.llama.embedded --model {model_path} --port 0"
    code, rows, _ = doctor(environment, STARTUP_COMMAND=f"{embedded} -c 512 --no-such-flag 3")
    assert (code, errors(rows)) == (
        1,
        [("llama-server", "llama-server does not know the flag --no-such-flag, and would not start")],
    )
    assert doctor(environment, STARTUP_COMMAND=f"{embedded} -c 512 -np 2")[0] == 0


@pytest.mark.engine
def test_beside_a_worker_that_runs_it_finds_its_port_taken(
    environment: dict[str, str], make_worker: MakeWorker
) -> None:
    worker = make_worker()
    worker.wait_for("worker_ready")
    port = worker.environment["LLAMA_PORT"]
    code, rows, _ = doctor(environment, LLAMA_PORT=port)
    assert (code, [check for check, _ in errors(rows)]) == (1, ["port"])
    queue = next(row for row in rows if "workers" in row)
    assert len(queue["workers"]) == 1
    code, rows, _ = doctor(environment, LLAMA_SERVER_URL=f"http://127.0.0.1:{port}")
    assert (code, errors(rows)) == (0, [])
    assert next(row for row in rows if row["check"] == "llama-server")["slots"] == 2


def test_whatever_never_answers_is_given_up_in_time(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        code, rows, seconds = doctor(
            environment,
            REDIS_URL=f"redis://{address}",
            LLAMA_SERVER_URL=f"http://{address}",
            SD_SERVER_URL=f"http://{address}",
            RUN_SD="true",
        )
    assert (code, [check for check, _ in errors(rows)]) == (1, ["Redis", "llama-server", "WebUI"])
    assert seconds < LIMIT + start_seconds(environment)


@pytest.mark.engine
def test_a_model_that_was_cut_off_is_told_with_its_cure(
    environment: dict[str, str], model_path: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part.gguf"
    with model_path.open("rb") as whole:
        part.write_bytes(whole.read(20_000_000))
    code, rows, _ = doctor(environment, MODEL_PATH=str(part))
    assert (code, [check for check, _ in errors(rows)]) == (1, ["model"])
    assert next(row for row in rows if row["check"] == "model")["remedy"] == "download it again"


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colours(environment: dict[str, str], variables: dict[str, str], coloured: bool) -> None:  # noqa: FBT001
    ours, its = pty.openpty()
    environment |= {"TERM": "xterm", "MODEL_PATH": "none.gguf", **variables}
    with subprocess.Popen(COMMAND, env=environment, stdout=its, stderr=its) as process:
        os.close(its)
        shown = b""
        while b"The worker cannot work: 1 error." not in shown:
            shown += os.read(ours, 65536)
        assert process.wait(100) == 1
    os.close(ours)
    assert (b"\x1b[31merror" in shown) == coloured
    assert (b"\x1b" in shown) == coloured
