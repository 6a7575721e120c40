"""Two real workers, and conversations that wait: each goes on where its last turn was read."""

from __future__ import annotations

import itertools
import json
from itertools import count
from typing import Any

import pytest

from tests.support.painters import cancel
from tests.support.processes import MakeWorker
from tests.support.servers import wait_until
from tests.support.streams import LONG, entries, read, result

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

SESSIONS = ("Amber", "Basil", "Coral", "Dusk", "Ember", "Fern")
NUMBERS = count()


def push(redis: Any, data: dict[str, Any], **fields: Any) -> str:
    """Push a job; returns its id."""
    job_id = f"job-{next(NUMBERS)}"
    redis.lpush("llama_queue", json.dumps({"id": job_id, "type": "completion", "data": data, **fields}))
    return job_id


def worker_of(redis: Any, job_id: str) -> str:
    return entries(redis, job_id)[0][2]["worker"]


def keep_busy(redis: Any) -> list[str]:
    """Have both workers run a job that goes on for some seconds; returns those jobs' ids."""
    jobs = [push(redis, LONG) for _ in range(2)]
    for job_id in jobs:
        read(redis, job_id, until="token")
    assert len({worker_of(redis, job_id) for job_id in jobs}) == 2
    return jobs


def waiting(redis: Any) -> int:
    """How many jobs wait for a worker, in lines and beside them."""
    return int(redis.hget("{llama_queue}:fair:text", "lined") or 0) + redis.llen("{llama_queue}:text")


def one_turn(redis: Any, prompts: dict[str, str]) -> dict[str, str]:
    """Push a turn of each conversation while nobody has room; returns their jobs' ids once all are done."""
    busy = keep_busy(redis)
    jobs = {
        session: push(redis, {"prompt": prompt, "max_tokens": 8, "temperature": 0}, session=session, tenant=session)
        for session, prompt in prompts.items()
    }
    wait_until(lambda: waiting(redis) == len(jobs), "all wait")
    for job_id in busy:  # at once, so that both are there for what waits
        cancel(redis, job_id)
    for job_id in jobs.values():
        read(redis, job_id, until="done")
    return jobs


def test_the_next_turn_is_taken_by_whoever_has_read_the_last_one(plain: Any, make_worker: MakeWorker) -> None:
    for _ in range(2):
        make_worker(LLM_CONCURRENCY="1", CONTEXT_SIZE="1024")
    prompts = {session: f"{session} is a colour, and a name. " * 12 for session in SESSIONS}
    first = one_turn(plain, prompts)
    prompts = {
        session: prompts[session] + result(plain, first[session])["text"] + " So" for session in reversed(SESSIONS)
    }
    second = one_turn(plain, prompts)
    stayed: list[str] = []
    for session in SESSIONS:
        timings = result(plain, second[session])["timings"]
        if worker_of(plain, first[session]) == worker_of(plain, second[session]):
            stayed.append(session)
            assert timings["cache_n"] > timings["prompt_n"], (session, timings)
    assert len(stayed) >= len(SESSIONS) - 2, stayed
    served: dict[str, list[str]] = {}
    for session in sorted(SESSIONS, key=lambda one: entries(plain, second[one])[0][2]["created"]):
        served.setdefault(worker_of(plain, second[session]), []).append(session)
    assert len(served) == 2
    for worker, sessions in served.items():
        if any(worker_of(plain, first[session]) == worker for session in SESSIONS):
            assert sessions[0] in stayed, served


def test_whoever_has_read_it_takes_the_next_turn_although_others_are_free(plain: Any, make_worker: MakeWorker) -> None:
    for _ in range(3):
        make_worker(LLM_CONCURRENCY="1", CONTEXT_SIZE="2048")
    prompts = {session: f"{session} is a colour, and a name. " * 60 for session in SESSIONS[:4]}
    served: dict[str, list[str]] = {session: [] for session in prompts}
    for _ in range(4):
        for session, prompt in prompts.items():
            data = {"prompt": prompt, "max_tokens": 8, "temperature": 0}
            job_id = push(plain, data, session=session)
            read(plain, job_id, until="done")
            served[session].append(worker_of(plain, job_id))
            prompts[session] = prompt + result(plain, job_id)["text"] + " So"
    turns = [pair for workers in served.values() for pair in itertools.pairwise(workers)]
    stayed = [before == after for before, after in turns]
    assert sum(stayed) >= len(turns) - 3, served  # the machine may be busy
