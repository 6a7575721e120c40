"""A worker's lease: whatever a worker holds is found by whoever reaps it, from its first job to its last."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
import pytest

from tests.integration.conftest import Side, make_side
from velesio_worker.queue import lease as lease_module
from velesio_worker.queue.connection import connect
from velesio_worker.queue.consumer import Consumer, Gate, Passage
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.reaper import Reaper

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

READY: Final = "{llama_queue}:text"
LEASE: Final = 60


@pytest.fixture
async def lost(redis_url: str) -> AsyncIterator[Side]:
    """The Redis side of a worker ``w2`` that beats no more after its first beat."""
    clients = [connect(redis_url, name="w2") for _ in range(3)]
    side = make_side(redis_url, "w2", *clients)
    await side.lease.beat()
    yield side
    for client in clients:
        await client.aclose()


async def reap(side: Side, commands: Any) -> int:
    """Have ``w1`` reap ``w2``, whose lease is over; returns how many jobs were put back."""
    await commands.zadd(side.keys.workers, {"w2": 1}, xx=True)
    return await Reaper(commands, side.keys, "w1", lease_seconds=LEASE, outage=side.outage).look()


async def take_and_die(side: Side, slot: Slot) -> None:
    """Have a consumer take a job, and die before anything else happens."""
    async with anyio.create_task_group() as group:

        async def die(_: Slot, __: bytes) -> None:
            group.cancel_scope.cancel()
            await anyio.sleep_forever()

        await Consumer(side.slots, READY, slot, Gate(Passage.OPEN), die).run(anyio.Event())


async def test_a_job_is_found_that_a_worker_took_into_a_new_slot_before_its_next_beat(
    side: Side, lost: Side, commands: Any
) -> None:
    await commands.lpush(READY, b"1", b"2")
    await take_and_die(lost, lost.slot("text-1"))
    assert await commands.lrange(READY, 0, -1) == [b"2"]
    assert await reap(side, commands) == 1
    assert await commands.lrange(READY, 0, -1) == [b"2", b"1"]


async def test_a_job_is_found_that_a_worker_picked_into_a_new_slot_before_its_next_beat(
    side: Side, lost: Side, commands: Any
) -> None:
    await commands.lpush(READY, b"1", b"2")
    assert await lost.slots.pick(READY, lost.slot("image-0-1"), b"2")
    assert await reap(side, commands) == 1
    assert await commands.lrange(READY, 0, -1) == [b"1", b"2"]


async def test_a_job_is_found_that_a_worker_took_after_it_had_been_reaped_and_before_its_next_beat(
    side: Side, lost: Side, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(lease_module, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    await commands.lpush(READY, b"1")
    await take_and_die(lost, lost.slot())
    assert await reap(side, commands) == 1
    clock.now += LEASE  # it was frozen meanwhile
    await take_and_die(lost, lost.slot())
    assert await commands.llen(READY) == 0
    assert await reap(side, commands) == 1
    assert await commands.lrange(READY, 0, -1) == [b"1"]
