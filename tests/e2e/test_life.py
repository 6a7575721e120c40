"""How a worker begins, ends, and lives through what happens to it and its engine."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.environment import base_environment
from tests.support.forks import run_forked
from tests.support.processes import MakeWorker, WorkerProcess, wait_until_gone
from tests.support.servers import RedisServer, wait_until
from tests.support.streams import LONG, joined, push, read
from tests.support.tiny import brisk_model_path as model_path

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine


def test_a_stop_hands_running_jobs_to_another_worker_and_leaves_no_process(plain: Any, make_worker: MakeWorker) -> None:
    first = make_worker(DRAIN_SECONDS="0")
    first.wait_for("worker_ready")
    engine = first.engine()
    push(plain, "long", max_tokens=400, stream=True, endless=True)
    read(plain, "long", until="token")
    assert first.stop() == 0
    wait_until_gone(engine)
    assert plain.llen("{llama_queue}:text") == 1
    assert not plain.keys("{llama_queue}:active:*")

    make_worker()
    entries = read(plain, "long", until="done")
    starts = [data for _, event, data in entries if event == "start"]
    assert [(start["attempt"], start["mode"]) for start in starts] == [(1, "fresh"), (2, "continue")]
    assert json.loads(plain.get("result:long"))["text"] == joined(entries)


def test_a_stop_lets_running_jobs_end(plain: Any, make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.wait_for("worker_ready")
    push(plain, "short", max_tokens=300, stream=True, endless=True)
    read(plain, "short", until="token")
    assert worker.stop() == 0
    assert json.loads(plain.get("result:short"))["finish_reason"] in {"stop", "length"}


def test_a_second_signal_hands_back_at_once(plain: Any, make_worker: MakeWorker) -> None:
    worker = make_worker(DRAIN_SECONDS="300")
    worker.wait_for("worker_ready")
    push(plain, "long", max_tokens=400, stream=True, endless=True)
    read(plain, "long", until="token")
    worker.signal(signal.SIGINT)
    worker.wait_for("worker_stopping")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert plain.llen("{llama_queue}:text") == 1


def test_a_killed_worker_leaves_no_engine(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.wait_for("worker_ready")
    engine = worker.engine()
    worker.signal(signal.SIGKILL)
    worker.wait()
    wait_until_gone(engine)


def test_a_job_that_wants_no_second_attempt_fails_with_its_engine(plain: Any, make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.wait_for("worker_ready")
    job = {"id": "once", "type": "completion", "on_crash": "fail"}
    plain.lpush("llama_queue", json.dumps({**job, "data": LONG}))
    read(plain, "once", until="token")
    worker.engine().kill()
    error = read(plain, "once", until="error")[-1][2]
    assert (error["code"], error["retryable"], error["partial"]) == ("engine_crashed", True, True)
    assert json.loads(plain.get("result:once"))["code"] == "engine_crashed"


def test_a_job_that_runs_too_long_ends_with_timeout_and_its_slot_is_free(plain: Any, make_worker: MakeWorker) -> None:
    worker = make_worker(LLM_CONCURRENCY="1")
    worker.wait_for("worker_ready")
    plain.lpush("llama_queue", json.dumps({"id": "slow", "type": "completion", "timeout": 0.5, "data": LONG}))
    error = read(plain, "slow", until="error")[-1][2]
    assert error["code"] == "timeout"
    assert "0.5 s" in error["error"]
    push(plain, "next", max_tokens=2)
    read(plain, "next", until="done")


def test_a_worker_waits_for_redis_and_says_so(own_redis: RedisServer, model_path: Path, tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path / "worker.log", REDIS_URL=own_redis.url, MODEL_PATH=str(model_path))
    worker.start()
    try:
        line = worker.wait_for("redis_absent")
        assert "REDIS_URL" in line["message"]
        own_redis.start()
        worker.wait_for("worker_ready")
        assert worker.stop() == 0
    finally:
        worker.end()


def test_a_worker_that_waits_for_redis_can_be_stopped(own_redis: RedisServer, tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path / "worker.log", REDIS_URL=own_redis.url)
    worker.start()
    try:
        worker.wait_for("redis_absent")
        assert worker.stop() == 0
    finally:
        worker.end()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"STARTUP_COMMAND": "/nowhere/llama-server"}, ["/nowhere/", "STARTUP_COMMAND"]),
        ({"STARTUP_COMMAND": "sh -c 'echo error: invalid argument: --mlock; exit 1'"}, ["--mlock", "LLAMA_ARGS"]),
    ],
)
def test_an_engine_that_can_never_start_fails_at_once_and_says_what_to_change(
    plain: Any, make_worker: MakeWorker, settings: dict[str, str], expected: list[str]
) -> None:
    worker = make_worker(**settings)
    push(plain, "none", max_tokens=2)
    message = worker.wait_for("engine_failed")["message"]
    error = read(plain, "none", until="error")[-1][2]
    assert error["code"] == "engine_unavailable"
    logged_alone, remedy = expected
    assert logged_alone in message
    assert logged_alone not in error["error"]
    assert remedy in message
    assert remedy in error["error"]
    assert not [line for line in worker.lines() if line.get("action") == "engine_lost"]
    assert worker.stop() == 0


def test_wrong_settings_end_the_start_with_a_line_each(tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path / "worker.log", REDIS_URL="http://x", CONTEXT_SIZE="big", LOG_LEVEL="loud")
    worker.start()
    assert worker.wait() == 2
    lines = worker.log_text().splitlines()
    assert len(lines) == 3, lines
    for name, value in (("REDIS_URL", "http://***"), ("CONTEXT_SIZE", "big"), ("LOG_LEVEL", "loud")):
        assert any(line.startswith(f"{name}='{value}': must be") for line in lines), lines


def test_jobs_that_name_a_worker_run_there_or_are_told(plain: Any, make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.wait_for("worker_ready")
    (name,) = plain.zrange("{llama_queue}:workers", 0, -1)
    job = {"type": "completion", "data": {"prompt": "One,", "max_tokens": 2}}
    plain.lpush("llama_queue", json.dumps({"id": "here", "worker": name, **job}))
    plain.lpush("llama_queue", json.dumps({"id": "gone", "worker": "nobody-0", **job}))
    assert read(plain, "here", until="done")[0][2]["worker"] == name
    assert read(plain, "gone", until="error")[-1][2]["code"] == "no_worker"


def test_a_worker_uses_a_server_that_already_runs(plain: Any, make_worker: MakeWorker) -> None:
    owner = make_worker(QUEUE_NAME="other_queue")
    owner.wait_for("worker_ready")
    url = f"http://127.0.0.1:{owner.environment['LLAMA_PORT']}"
    guest = make_worker(LLAMA_SERVER_URL=url, LLM_CONCURRENCY="5")
    guest.wait_for("concurrency_lowered")
    guest.wait_for("worker_ready")
    assert not psutil.Process(guest.pid).children()
    push(plain, "abroad", max_tokens=3)
    read(plain, "abroad", until="done")
    assert guest.stop() == 0


def test_the_command_line_submits_and_prints(plain: Any, make_worker: MakeWorker, redis_url: str) -> None:
    worker = make_worker()
    worker.wait_for("worker_ready")
    environment = {**base_environment(), "REDIS_URL": redis_url}
    words = ["submit", "--id", "mine", "--max-tokens", "8", "--stream", "--data", '{"temperature": 0}', "Hi!"]
    code, output, _ = run_forked(environment, *words)
    assert (code, output) == (0, json.loads(plain.get("result:mine"))["text"] + "\n")
    code, _, error = run_forked(environment, "submit", "--data", '{"warmth": 1}', "Hi!")
    assert code == 1
    assert "data.warmth: unknown parameter" in error


MARK = "zebrafish"
WITH_MARK: list[tuple[str, dict[str, Any]]] = [
    ("completion", {"prompt": MARK, "max_tokens": 4}),
    ("completion", {"prompt": MARK, "max_tokens": 4, "grammar": f"root ::= {MARK}\n line {MARK}"}),
    ("completion", {"prompt": MARK, "max_tokens": 4, "json_schema": {"type": MARK}}),
    ("completion", {"prompt": MARK, "max_tokens": 4, "json_schema": {"$ref": f"#/{MARK}"}}),
    ("chat_completion", {"messages": [{"content": MARK}], "max_tokens": 4}),
    ("chat_completion", {"messages": [{"role": MARK, "content": MARK}], "max_tokens": 4}),
    ("chat_completion", {"messages": [{"role": "user", "content": MARK}], "response_format": {"type": MARK}}),
    ("chat_completion", {"messages": [{"role": "user", "content": MARK, "tool_calls": [{MARK: MARK}]}]}),
    ("chat_completion", {"messages": [{"role": "user", "content": MARK}], "json_schema": {"$ref": f"#/{MARK}"}}),
    (
        "chat_completion",
        {
            "messages": [{"role": "user", "content": MARK}],
            "max_tokens": 4,
            "tools": [{"type": "function", "function": {"name": MARK, "parameters": {"type": MARK}}}],
        },
    ),
]
"""Jobs, good and bad, of which llama-server repeats something in its log or in its errors."""


@pytest.mark.parametrize("verbose", [False, True], ids=["as it is", "verbose"])
def test_nothing_that_the_server_repeats_of_jobs_is_in_the_log_even_when_it_dies(
    plain: Any, make_worker: MakeWorker, *, verbose: bool
) -> None:
    worker = make_worker(LOG_LEVEL="debug", **({"LLAMA_ARGS": "--verbose"} if verbose else {}))
    worker.wait_for("worker_ready")
    for number, (type_, data) in enumerate(WITH_MARK):
        plain.lpush("llama_queue", json.dumps({"id": f"mark-{number}", "type": type_, "data": data}))
    wait_until(lambda: all(plain.exists(f"result:mark-{number}") for number in range(len(WITH_MARK))), "all ended", 90)
    errors = [plain.get(f"result:mark-{number}") for number in range(1, len(WITH_MARK))]
    assert any(MARK in error for error in errors), "who sent the job is told in full"
    worker.engine().kill()
    lost = worker.wait_for("engine_lost")
    assert "was ended by SIGKILL" in lost["message"]
    worker.wait_for("engine_ready", count=2)
    assert worker.stop() == 0
    log = worker.log_text()
    assert "what it repeats of a job is left out" in log
    assert "the words stand in the result" in log
    assert MARK not in log
