"""Nothing that a producer pushes stops a worker, costs a good job, or grows the worker's memory."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.support.processes import MakeWorker
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

JOBS = 240
BLOCK = 80
MAX_BYTES = 200_000
GROWTH_BYTES = 12 * 1024 * 1024
"""What the worker's memory may grow by between the first block of pairs of payloads and the last."""


def _deep(number: int) -> str:
    return f'{{"id": "deep-{number}", "type": "completion", "data": {"[" * 5000}{"]" * 5000}}}'


POISON: list[Callable[[int], str | bytes]] = [
    lambda _: "",
    lambda _: "no JSON",
    lambda _: b"\xff\xfe\x00 no text",
    lambda _: "[" * 50_000,
    _deep,
    lambda n: json.dumps({"id": f"cut-{n}", "type": "completion"})[:-3],
    lambda n: json.dumps({"id": f"bad id {n}", "type": "completion", "data": {"prompt": "x"}}),
    lambda n: json.dumps({"id": {"n": n}, "type": "completion", "data": {"prompt": "x"}}),
    lambda n: json.dumps({"id": f"type-{n}", "type": ["completion"], "data": {"prompt": "x"}}),
    lambda n: json.dumps({"id": f"data-{n}", "type": "completion", "data": "prompt"}),
    lambda n: json.dumps({"id": f"null-{n}", "type": "chat_completion", "data": {"messages": [None]}}),
    lambda n: json.dumps({"id": f"number-{n}", "type": "completion", "data": {"prompt": 1e308, "seed": -(2**70)}}),
    lambda n: json.dumps({"id": f"rule-{n}", "type": "completion", "data": {"prompt": "x", "grammar": "root ::= ("}}),
    lambda n: json.dumps({"id": f"large-{n}", "type": "completion", "data": {"prompt": "x" * MAX_BYTES}}),
    lambda n: json.dumps({"id": f"huge-{n}", "type": "completion", "data": {"prompt": "x" * 5 * MAX_BYTES}}),
    lambda n: json.dumps({"id": f"past-{n}", "type": "completion", "expires_at": 1, "data": {"prompt": "x"}}),
]


def test_poisonous_payloads_cost_none_of_as_many_good_jobs(plain: Any, make_worker: MakeWorker) -> None:
    worker = make_worker(LLM_CONCURRENCY="4", MAX_JOB_BYTES=str(MAX_BYTES))
    worker.wait_for("worker_ready")
    process = psutil.Process(worker.pid)
    memory: list[int] = []
    for begin in range(0, JOBS, BLOCK):
        for number in range(begin, begin + BLOCK):
            good = {"id": f"good-{number}", "type": "completion", "data": {"prompt": "One,", "max_tokens": 1}}
            pair = [json.dumps(good), POISON[number % len(POISON)](number)]
            random.shuffle(pair)
            plain.lpush("llama_queue", *pair)
        _wait_for_results(plain, [f"result:good-{number}" for number in range(begin, begin + BLOCK)])
        memory.append(process.memory_info().rss)
    results = [json.loads(plain.get(f"result:good-{number}")) for number in range(JOBS)]
    assert all(result["finish_reason"] in {"stop", "length"} for result in results)
    assert max(memory) - memory[0] < GROWTH_BYTES, [round(size / 1e6) for size in memory]
    _wait_until_sorted(plain)
    answered = [json.loads(plain.get(key)) for key in plain.scan_iter("result:*") if not key.startswith("result:good-")]
    assert {result["code"] for result in answered} == {"bad_job", "unknown_type", "too_large", "expired"}
    with_letter = sum(result["code"] == "too_large" for result in answered)
    assert len(answered) + plain.llen("{llama_queue}:dead") - with_letter == JOBS
    assert worker.stop() == 0


def _wait_for_results(plain: Any, keys: list[str]) -> None:
    deadline = time.monotonic() + 200
    while (count := plain.exists(*keys)) < len(keys):
        assert time.monotonic() < deadline, f"{len(keys) - count} good jobs have no result"
        time.sleep(0.05)


def _wait_until_sorted(plain: Any) -> None:
    deadline = time.monotonic() + 100
    while _left(plain):
        assert time.monotonic() < deadline, "some payloads are left"
        time.sleep(0.05)


def _left(plain: Any) -> bool:
    """Whether a payload lies anywhere; at one moment, since they move from list to list."""
    with plain.pipeline(transaction=True) as pipe:
        pipe.exists("llama_queue", "{llama_queue}:text").keys("{llama_queue}:active:*")
        return any(pipe.execute())
