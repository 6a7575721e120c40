"""Since when jobs wait."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from velesio_worker.queue import intake as intake_module
from velesio_worker.queue.intake import ASIDE_BYTES, MOST_ARRIVALS, READ_BYTES, Arrivals, JobsRead, read_job
from velesio_worker.wire.jobs import Job, parse_job


def job(job_id: str = "a", **fields: Any) -> Job:
    payload: dict[str, Any] = {"id": job_id, "type": "health_check", "data": {}, **fields}
    return parse_job(json.dumps(payload).encode(), max_bytes=10_000)


def test_a_job_has_waited_since_its_producer_made_it() -> None:
    arrivals = Arrivals()
    made = job(created_at=time.time() - 60)
    arrivals.note(made)
    for _ in range(2):
        assert arrivals.waited(made) == pytest.approx(60, abs=5)


def test_a_job_whose_producer_does_not_say_has_waited_since_it_came_in(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = Arrivals()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    arrivals.note(job())
    monkeypatch.setattr(time, "time", lambda: now + 7)
    assert arrivals.waited(job()) == 7
    assert arrivals.waited(job()) is None, "it is forgotten"


def test_of_a_job_that_came_in_elsewhere_nothing_is_known() -> None:
    assert Arrivals().waited(job()) is None


def test_a_clock_that_is_ahead_makes_no_time_negative() -> None:
    assert Arrivals().waited(job(created_at=time.time() + 300)) == 0


def test_a_job_that_comes_in_again_waits_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = Arrivals()
    now = time.time()
    for later in (0, 5):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        arrivals.note(job())
    monkeypatch.setattr(time, "time", lambda: now + 6)
    assert arrivals.waited(job()) == 1


def test_only_so_many_are_remembered_and_the_oldest_are_forgotten() -> None:
    arrivals = Arrivals()
    noted = [job(f"job-{number}") for number in range(MOST_ARRIVALS + 10)]
    for one in noted:
        arrivals.note(one)
    assert [arrivals.waited(one) is None for one in noted[:12]] == [True] * 10 + [False] * 2
    assert arrivals.waited(noted[-1]) is not None


@pytest.mark.anyio
@pytest.mark.parametrize(("size", "beside"), [(10, False), (ASIDE_BYTES, True)])
async def test_a_large_job_is_read_beside_the_event_loop(
    size: int, *, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def read(payload: bytes, *, max_bytes: int) -> Job:
        threads.append(threading.get_ident())
        return parse_job(payload, max_bytes=max_bytes)

    monkeypatch.setattr(intake_module, "parse_job", read)
    payload = json.dumps({"id": "a", "type": "completion", "data": {"prompt": "x" * size}}).encode()
    assert (await read_job(payload, max_bytes=2 * ASIDE_BYTES)).id == "a"
    assert [thread != threading.get_ident() for thread in threads] == [beside]


@pytest.mark.anyio
async def test_a_job_that_was_read_is_had_once_and_only_for_its_very_payload() -> None:
    payload = b'{"id": "a", "type": "completion", "data": {"prompt": "x"}}'
    read, job = JobsRead(), await read_job(payload, max_bytes=1000)
    read.keep(payload, job)
    assert read.take(payload + b" ") is None
    assert read.take(bytes(bytearray(payload))) is job
    assert read.take(payload) is None


@pytest.mark.anyio
async def test_what_was_read_is_bounded() -> None:
    def payload(number: int, size: int) -> bytes:
        return b'{"id": "a%d", "type": "completion", "data": {"prompt": "%s"}}' % (number, b"x" * size)

    read, payloads = JobsRead(), [payload(number, 10_000) for number in range(300)]
    for one in payloads:
        read.keep(one, await read_job(one, max_bytes=READ_BYTES))
    kept = [one for one in payloads if read.take(one) is not None]
    assert kept == payloads[-len(kept) :]
    assert READ_BYTES - 20_000 < sum(map(len, kept)) <= READ_BYTES
    large = payload(0, READ_BYTES // 32)
    read.keep(large, await read_job(large, max_bytes=READ_BYTES))
    assert read.take(large) is None
