"""What the publisher and the lists tell of their work."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.support.figures import rise
from tests.support.redis_side import Side, take_over
from tests.support.servers import Topology
from velesio_worker.queue.claims import Held
from velesio_worker.stream import FLUSH_ENTRIES
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.events import Done
from velesio_worker.wire.jobs import JobType

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

DELAY = "velesio_publish_delay_seconds"
BATCH = "velesio_publish_batch_entries"
ENTRIES = "velesio_stream_entries_total"


class Rises:
    """Tells by how much samples rise, from its making to :meth:`now`."""

    def __init__(self, stack: ExitStack, *names: str, **labels: str) -> None:
        self._stack = stack
        self._found = {name: stack.enter_context(rise(name, **labels)) for name in names}

    def now(self) -> Mapping[str, float]:
        self._stack.close()
        return {name: found.by for name, found in self._found.items()}


async def test_each_entry_is_counted_once_and_each_flush_once(side: Side, commands: Any) -> None:
    rises = Rises(ExitStack(), ENTRIES, f"{BATCH}_sum", f"{BATCH}_count", f"{DELAY}_count")
    streams = [side.publisher.open(f"job-{number}", 1) for number in range(7)]
    for number in range(700):
        streams[number % 7].put("token", b"{}")
        if number % 50 == 0:
            await anyio.lowlevel.checkpoint()
    for stream in streams:
        await stream.flushed()
    there = sum([await commands.xlen(f"stream:job-{number}") for number in range(7)])
    found = rises.now()
    assert found[ENTRIES] == found[f"{BATCH}_sum"] == there == 700
    assert 700 / FLUSH_ENTRIES <= found[f"{BATCH}_count"] == found[f"{DELAY}_count"] <= 700


async def test_what_redis_did_not_take_is_counted_when_it_does_and_as_late_as_that_was(
    side: Side, topology: Topology
) -> None:
    rises = Rises(ExitStack(), ENTRIES, f"{DELAY}_sum", f"{DELAY}_count", "velesio_redis_reconnects_total")
    stream = side.publisher.open("a", 1)
    began = time.monotonic()
    with topology.taking_no_writes():
        stream.put("start", b"{}")
        with anyio.move_on_after(0.5):
            await stream.flushed()
    with anyio.fail_after(20):
        await stream.flushed()
    took = time.monotonic() - began
    await anyio.lowlevel.checkpoint()
    found = rises.now()
    assert (found[ENTRIES], found[f"{DELAY}_count"]) == (1, 1)
    assert 0.45 < found[f"{DELAY}_sum"] <= took + 0.1
    assert found["velesio_redis_reconnects_total"] == 0, "it was there all the time"


async def held(side: Side, commands: Any, job_id: str = "a", type_: JobType | None = JobType.EMBEDDING) -> Held:
    slot = side.slot()
    payload = json.dumps({"id": job_id}).encode()
    await commands.lpush(slot.key, payload)
    reply = await side.claims.claim(job_id, slot, 3)
    return Held(job_id, slot, payload, reply.attempt, type_)


async def test_each_end_of_a_job_is_counted_under_its_outcome(side: Side, commands: Any) -> None:
    done = Done({"finish_reason": "stop"}, "stop")
    for outcome, end in (("done", done), ("cancelled", Done({}, "cancelled")), ("bad_job", BadJobError("no"))):
        one = await held(side, commands, f"job-{outcome}")
        with rise("velesio_jobs_total", type="embedding", outcome=outcome) as counted:
            assert await (side.closer.done(one, end) if isinstance(end, Done) else side.closer.failed(one, end))
        assert counted.by == 1, outcome


async def test_a_job_whose_type_is_not_known_is_counted_too(side: Side, commands: Any) -> None:
    with rise("velesio_jobs_total", type="unknown", outcome="bad_job") as counted:
        await side.closer.failed(await held(side, commands, type_=None), BadJobError("no"))
    assert counted.by == 1


async def test_an_end_that_another_attempt_had_before_is_fenced_and_not_counted(side: Side, commands: Any) -> None:
    one = await held(side, commands)
    await take_over(side, commands, one.payload)
    with (
        rise("velesio_jobs_total", type="embedding", outcome="done") as counted,
        rise("velesio_jobs_fenced_total") as fenced,
    ):
        assert not await side.closer.done(one, Done({}, "stop"))
    assert (counted.by, fenced.by) == (0, 1)


async def test_an_attempt_that_is_given_back_is_counted_as_such(side: Side, commands: Any) -> None:
    with rise("velesio_jobs_handed_back_total", type="embedding") as back:
        await side.closer.hand_back(await held(side, commands), side.publisher.open("a", 1), in_good_order=True)
    assert back.by == 1


async def test_dead_letters_are_counted_with_those_that_are_answered(side: Side, commands: Any) -> None:
    with (
        rise("velesio_dead_letters_total") as letters,
        rise("velesio_jobs_total", type="embedding", outcome="bad_job") as ended,
    ):
        one = await held(side, commands)
        await side.slots.bury(one.slot, one.payload, "no job")
        await side.closer.failed(await held(side, commands, "b"), BadJobError("no"), bury="too often")
    assert (letters.by, ended.by) == (2, 1)
    assert letters.by == await commands.llen(side.keys.dead)


async def test_a_wait_is_measured_once_from_the_moment_that_the_producer_says(side: Side, commands: Any) -> None:
    slot = side.slot()
    job = {"id": "a", "type": "tokenize", "data": {"content": "x"}, "created_at": time.time() - 30, "priority": "high"}
    payload = json.dumps(job).encode()
    count, total = "velesio_job_queue_wait_seconds_count", "velesio_job_queue_wait_seconds_sum"
    by_priority = "velesio_priority_queue_wait_seconds_sum"
    with (
        rise(count, type="tokenize") as waits,
        rise(total, type="tokenize") as waited,
        rise(by_priority, kind="text", priority="high") as high,
        rise(by_priority, kind="text", priority="normal") as normal,
    ):
        await commands.lpush(slot.key, payload)
        claim = await side.admission.admit(slot, payload)
        assert claim is not None
        assert claim.waited == pytest.approx(30, abs=20)
        await side.closer.hand_back(claim.held, side.publisher.open("a", 1), in_good_order=True)
        await commands.lmove(side.keys.ready(claim.job.kind), slot.key, "RIGHT", "LEFT")
        again = await side.admission.admit(slot, payload)
        assert again is not None
        assert (again.first, again.waited) == (False, None)
    assert waits.by == 1
    assert waited.by == pytest.approx(claim.waited)
    assert (high.by, normal.by) == (pytest.approx(claim.waited), 0)
