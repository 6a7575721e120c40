"""Engines in trouble: what becomes of the jobs, what the worker says, and that no process is left behind."""

from __future__ import annotations

import random
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import MakeWorker, WorkerProcess, wait_until_gone
from tests.support.servers import free_port
from tests.support.streams import entries, joined, push, read, result
from tests.support.tiny import model_path
from velesio_worker.engines.supervision.orphans import MARK

__all__ = ["model_path"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

SWITCHES = 5

TROUBLED = str(Path(__file__).parents[1] / "doubles" / "troubled_server.py")


def wait_for(condition: Callable[[], object], what: str, limit: float = 100) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def engine_processes(worker: WorkerProcess) -> list[psutil.Process]:
    """Every process that this worker's engines are, or have started, wherever it hangs in the tree."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
        except psutil.Error:
            continue
        if MARK in environ and environ.get("LLAMA_ARG_PORT") == worker.environment["LLAMA_PORT"]:
            found.append(process)
    return found


@pytest.fixture
def no_orphans(make_worker: MakeWorker) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers; at the end, all of them being stopped, nothing of their engines may be left."""
    made: list[WorkerProcess] = []

    def make(**settings: str) -> WorkerProcess:
        made.append(make_worker(**settings))
        return made[-1]

    yield make
    for worker in made:
        if worker.process is not None and worker.process.poll() is None:
            assert worker.stop() == 0, worker.log_text()
    for worker in made:
        wait_for(lambda worker=worker: not engine_processes(worker), f"{engine_processes(worker)} are left")


def state_of(redis: Any) -> str:
    """What the only worker says of its text engine."""
    (name,) = redis.zrange("{llama_queue}:workers", 0, -1)
    return redis.hget(f"{{llama_queue}}:worker:{name}", "text_state")


def troubled(trouble: str, note: Path, model: Path) -> str:
    """A STARTUP_COMMAND that is in trouble until ``note`` is there, and the real server then."""
    real = ["--model", str(model), "--ctx-size", "1024", "--parallel", "2", "--metrics"]
    return shlex.join([sys.executable, TROUBLED, trouble, str(note), *real])


def test_four_streams_survive_the_kill_of_their_only_engine(
    plain: Any, no_orphans: MakeWorker, small_model_path: Path
) -> None:
    worker = no_orphans(LLM_CONCURRENCY="4", MODEL_PATH=str(small_model_path))
    worker.wait_for("worker_ready")
    for number in range(4):
        push(plain, f"s{number}", max_tokens=40, stream=True, endless=True)
    for number in range(4):
        read(plain, f"s{number}", until="token")
    worker.engine().send_signal(signal.SIGKILL)
    for number in range(4):
        got = read(plain, f"s{number}", until="done")
        starts = [data["mode"] for _, event, data in got if event == "start"]
        assert starts == ["fresh", "continue"]
        assert result(plain, f"s{number}")["text"] == joined(got)
        assert result(plain, f"s{number}")["usage"]["completion_tokens"] == 40


def test_an_engine_that_ends_at_once_fails_with_its_reason_and_is_tried_again_when_asked(
    plain: Any, no_orphans: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    note = tmp_path / "well"
    worker = no_orphans(STARTUP_COMMAND=troubled("exit", note, model_path))
    push(plain, "waits", max_tokens=4, stream=True)
    assert "exit code 3" in worker.wait_for("engine_failed")["message"]
    delays = [line["retry_seconds"] for line in worker.lines() if line.get("action") == "engine_lost"]
    assert len(delays) == 4, delays
    assert all(0.75 * 2**n <= delay <= 1.25 * 2**n + 0.05 for n, delay in enumerate(delays)), delays
    error = read(plain, "waits", until="error")[-1][2]
    assert error["code"] == "engine_unavailable"
    assert "exit code 3" in error["error"]
    push(plain, "how", job_type="health_check")
    read(plain, "how", until="done")
    text = result(plain, "how")["engines"]["text"]
    assert text["state"] == "failed"
    assert "exit code 3" in text["last_error"]
    note.touch()
    push(plain, "load", job_type="load_model", model=model_path.name)
    read(plain, "load", until="done")
    push(plain, "after", max_tokens=4, stream=True)
    read(plain, "after", until="done")


def test_an_engine_that_never_gets_ready_is_given_up_and_started_again(
    plain: Any, no_orphans: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    note = tmp_path / "well"
    worker = no_orphans(STARTUP_COMMAND=troubled("never", note, model_path), START_SECONDS="3")
    push(plain, "patient", max_tokens=4, stream=True)
    line = worker.wait_for("engine_lost")
    assert "no progress for 3 s (START_SECONDS)" in line["message"]
    note.touch()
    read(plain, "patient", until="done")
    assert worker.wait_for("worker_ready")


@pytest.mark.parametrize("job_type", ["completion", "tokenize"])
def test_an_engine_that_hangs_behind_a_healthy_face_is_replaced_and_its_jobs_go_on(
    plain: Any, no_orphans: MakeWorker, model_path: Path, tmp_path: Path, job_type: str
) -> None:
    worker = no_orphans(STARTUP_COMMAND=troubled("hang", tmp_path / "well", model_path), STALL_SECONDS="4")
    worker.wait_for("worker_ready")
    first = worker.engine()
    if job_type == "completion":
        push(plain, "stuck", max_tokens=12, stream=True)
    else:
        push(plain, "stuck", job_type="tokenize", content="hello")
    got = read(plain, "stuck", until="done")
    wait_until_gone(first)
    assert "STALL_SECONDS" in worker.wait_for("job_handed_back")["message"]
    if job_type == "completion":
        assert joined(got).startswith(" one,")
        assert result(plain, "stuck")["text"] == joined(got)
    else:
        assert result(plain, "stuck")["tokens"] == [255, 764, 95]


def test_an_idle_engine_that_hangs_is_found_by_a_probe(
    plain: Any, no_orphans: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    worker = no_orphans(
        STARTUP_COMMAND=troubled("hang", tmp_path / "well", model_path), PROBE_SECONDS="1", STALL_SECONDS="3"
    )
    worker.wait_for("worker_ready")
    assert "one token" in worker.wait_for("engine_lost", limit=60)["message"]
    worker.wait_for("engine_ready", count=2)
    push(plain, "fine", max_tokens=4, stream=True)
    read(plain, "fine", until="done")


def test_a_missing_model_fails_the_engine_until_the_file_is_there(
    plain: Any, no_orphans: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    model = tmp_path / "models" / "late.gguf"
    worker = no_orphans(MODEL_PATH=str(model))
    push(plain, "early", max_tokens=4, stream=True)
    message = worker.wait_for("engine_failed")["message"]
    assert f"MODEL_PATH={model}" in message
    assert "does not exist" in message
    assert "does not exist" in read(plain, "early", until="error")[-1][2]["error"]
    model.parent.mkdir()
    model.symlink_to(model_path)
    worker.wait_for("worker_ready")
    push(plain, "late", max_tokens=4, stream=True)
    read(plain, "late", until="done")


def test_a_truncated_model_is_told_by_its_size_before_anything_is_started(
    no_orphans: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model_path.read_bytes()[:1_000_000])
    worker = no_orphans(MODEL_PATH=str(cut))
    message = worker.wait_for("engine_failed")["message"]
    assert f"MODEL_PATH={cut}" in message
    assert "cut off" in message
    assert not engine_processes(worker)


def test_a_taken_port_is_told_and_taken_once_it_is_free(plain: Any, no_orphans: MakeWorker) -> None:
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        worker = no_orphans(LLAMA_PORT=str(port))
        assert f"Port {port}" in worker.wait_for("engine_lost")["message"]
    worker.wait_for("worker_ready")
    push(plain, "free", max_tokens=4, stream=True)
    read(plain, "free", until="done")


def test_switches_between_two_models_lose_no_job(
    plain: Any, no_orphans: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("red.gguf", "blue.gguf"):
        (folder / name).symlink_to(model_path)
    worker = no_orphans(MODEL_PATH=str(folder / "red.gguf"), LLM_CONCURRENCY="3")
    worker.wait_for("worker_ready")
    jobs: dict[str, str] = {}

    def push_turn(turn: int) -> None:
        model = ("blue", "red")[turn % 2]
        for number in range(random.randint(1, 3)):
            jobs[f"{turn}-{number}"] = model
            push(plain, f"{turn}-{number}", max_tokens=random.randint(1, 6), stream=True, model=model)
        before = f"{turn}-0"
        wait_for(lambda: entries(plain, before), before)  # in flight, or in the queue, when the next come

    def stopped() -> list[dict[str, Any]]:
        return [line for line in worker.lines() if line.get("action") == "engine_stopped"]

    turns = 0
    while (
        turns < SWITCHES or len(stopped()) < SWITCHES
    ):  # two turns that are claimed at the same moment may be served as one
        push_turn(turns)
        turns += 1
        assert turns < 2 * SWITCHES, "jobs of two models in turn, and the models are not switched in turn"
    for job_id, model in jobs.items():
        got = read(plain, job_id, until="done", limit=150)
        starts = [data for _, event, data in got if event == "start"]
        assert [(start["model"], start["mode"]) for start in starts] == [(model, "fresh")], job_id
        assert result(plain, job_id)["text"] == joined(got)
    stops = stopped()
    assert len(stops) >= SWITCHES, len(stops)
    assert {line["model"] for line in stops} == {"red", "blue"}
    waited = [job_id for job_id in jobs if any(event == "progress" for _, event, _ in entries(plain, job_id))]
    assert waited, "no job said that it waited for its model"


def test_an_idle_engine_is_stopped_and_the_next_job_starts_it(plain: Any, no_orphans: MakeWorker) -> None:
    worker = no_orphans(IDLE_UNLOAD_SECONDS="1")
    worker.wait_for("engine_ready")
    assert "IDLE_UNLOAD_SECONDS" in worker.wait_for("engine_stopped")["message"]
    assert not engine_processes(worker)
    began = time.time()
    push(plain, "wake", max_tokens=4, stream=True)
    got = read(plain, "wake", until="done")
    stages = [data for _, event, data in got if event == "progress"]
    assert stages[0]["stage"] == "loading", got
    assert got[0][1] == "start"
    assert result(plain, "wake")["text"] == joined(got)
    wait_for(lambda: plain.get("last_job_time"), "last_job_time")
    assert began - 1 < float(plain.get("last_job_time")) < time.time() + 1


def test_a_busy_engine_is_not_stopped(plain: Any, no_orphans: MakeWorker, small_model_path: Path) -> None:
    no_orphans(MODEL_PATH=str(small_model_path), IDLE_UNLOAD_SECONDS="0.2", LLM_CONCURRENCY="1", DRAIN_SECONDS="0")
    push(plain, "long", max_tokens=300, stream=True, endless=True)
    read(plain, "long", until="token")
    wait_for(lambda: state_of(plain) == "ready", "what the worker says of its engine is up to date")
    state = "ready"
    while len(entries(plain, "long")) < 60:  # so the job had some 240 tokens to go when the state was asked for
        assert state == "ready", "a job runs, and has done so for longer than the setting says"
        state = state_of(plain)
        time.sleep(0.02)
    assert [data["mode"] for _, event, data in entries(plain, "long") if event == "start"] == ["fresh"]


def test_what_a_killed_worker_left_is_ended_by_the_next(
    plain: Any, no_orphans: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    own = {"TMPDIR": str(tmp_path)}  # else a worker of another test, running beside this one, may be the next
    real = [
        sys.executable,
        "-m",
        "velesio_worker.engines.llama.embedded",
        "--model",
        str(model_path),
        "--ctx-size",
        "1024",
    ]
    behind_a_shell = shlex.join(["sh", "-c", f"{shlex.join(real)} & wait"])
    worker = no_orphans(STARTUP_COMMAND=behind_a_shell, **own)
    worker.wait_for("worker_ready")
    assert len(engine_processes(worker)) == 2
    worker.signal(signal.SIGKILL)
    worker.wait()
    heir = no_orphans(STARTUP_COMMAND=behind_a_shell, LLAMA_PORT=worker.environment["LLAMA_PORT"], **own)
    heir.wait_for("orphan_ended")
    heir.wait_for("worker_ready")
    assert len(engine_processes(heir)) == 2
    push(plain, "heir", max_tokens=4, stream=True)
    read(plain, "heir", until="done")


def test_a_wrapper_that_outlives_its_server_is_replaced_and_nothing_in_another_session_is_left(
    plain: Any, no_orphans: MakeWorker, model_path: Path
) -> None:
    real = [
        sys.executable,
        "-m",
        "velesio_worker.engines.llama.embedded",
        "--model",
        str(model_path),
        "--ctx-size",
        "1024",
    ]
    worker = no_orphans(STARTUP_COMMAND=shlex.join(["sh", "-c", f"setsid {shlex.join(real)} & sleep 1000"]))
    worker.wait_for("worker_ready")
    (server,) = [process for process in engine_processes(worker) if "--model" in process.cmdline()]
    server.kill()
    push(plain, "through", max_tokens=8, stream=True)
    got = read(plain, "through", until="done")
    assert "cannot be reached" in worker.wait_for("engine_lost")["message"]
    assert result(plain, "through")["text"] == joined(got)


def test_a_default_that_fails_beside_another_model_costs_no_job_its_turn(
    plain: Any, no_orphans: MakeWorker, model_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "good.gguf").symlink_to(model_path)
    worker = no_orphans(MODEL_PATH=str(folder / "none.gguf"))
    worker.wait_for("engine_failed")
    push(plain, "named", max_tokens=4, stream=True, model="good")
    read(plain, "named", until="done")
    push(plain, "default", max_tokens=4, stream=True)
    assert "none.gguf" in read(plain, "default", until="error")[-1][2]["error"]
    push(plain, "how", job_type="health_check")
    read(plain, "how", until="done")
    text = result(plain, "how")["engines"]["text"]
    assert "none.gguf" in text["last_error"]
    push(plain, "again", max_tokens=4, stream=True, model="good")
    read(plain, "again", until="done")
    (folder / "none.gguf").symlink_to(model_path)
    wait_for(lambda: state_of(plain) != "failed", "the file is there")
    push(plain, "mended", max_tokens=4, stream=True)
    read(plain, "mended", until="done")


def test_a_failed_worker_leaves_jobs_to_others(plain: Any, no_orphans: MakeWorker, tmp_path: Path) -> None:
    well = no_orphans()
    well.wait_for("worker_ready")
    ill = no_orphans(MODEL_PATH=str(tmp_path / "none.gguf"))
    ill.wait_for("engine_failed")
    for number in range(6):
        push(plain, f"any{number}", max_tokens=4, stream=True)
    for number in range(6):
        got = read(plain, f"any{number}", until="done")
        assert got[0][2]["worker"] in well.wait_for("worker_up")["message"]
