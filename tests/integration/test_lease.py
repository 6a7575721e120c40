"""A worker's lease: whatever a worker holds is found by whoever reaps it, from its first job to its last."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
import pytest

from tests.support.redis_side import Side, make_side
from velesio_worker.queue import lease as lease_module
from velesio_worker.queue.connection import connect
from velesio_worker.queue.consumer import Consumer, Gate, Passage
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.reaper import Reaper
from velesio_worker.queue.scripts import ClaimStatus

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

READY: Final = "{llama_queue}:text"
LEASE: Final = 60


@pytest.fixture
async def lost(redis_url: str) -> AsyncIterator[Side]:
    """The Redis side of a worker ``w2`` that beats no more after its first beat."""
    async with make_side(redis_url, "w2") as side:
        await side.lease.beat()
        yield side


async def reap(side: Side, commands: Any) -> int:
    """Have ``w1`` reap ``w2``, whose lease is over; returns how many jobs were put back."""
    await commands.zadd(side.keys.workers, {"w2": 1}, xx=True)
    return await Reaper(side.linked(commands), "w1", lease_seconds=LEASE).look()


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


class KilledError(BaseException):
    """The worker is killed here."""


class Mortal:
    """Has a client carry out so many commands, and then die with its worker."""

    def __init__(self, commands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        self._execute = commands.execute_command
        monkeypatch.setattr(commands, "execute_command", self._execute_until_killed)

    async def _execute_until_killed(self, *args: Any, **options: Any) -> Any:
        if self.left == 0:
            raise KilledError
        self.left -= 1
        return await self._execute(*args, **options)


async def hold_jobs(lost: Side, commands: Any) -> None:
    """Have ``w2`` hold three jobs, one of which it has claimed, and wait for one that names it."""
    for number in range(3):
        await commands.lpush(READY, b'{"id": "%d"}' % number)
        await lost.slots.take(READY, lost.slot(f"text-{number}"))
    assert (await lost.claims.claim("1", lost.slot("text-1"), 1)).attempt == 1
    await commands.lpush(lost.keys.only("w2"), b"for w2")


async def jobs_in(commands: Any, *lists: str) -> list[bytes]:
    return [payload for name in lists for payload in await commands.lrange(name, 0, -1)]


ALL: Final = [b"for w2", b'{"id": "0"}', b'{"id": "1"}', b'{"id": "2"}']


async def test_a_worker_that_is_killed_as_it_ends_leaves_every_job_to_be_found_once(
    side: Side, commands: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        await commands.delete("llama_queue", READY, side.keys.workers, "{result:1}:job")
        mine: Any = connect(redis_url, name="w2")
        lost = make_side(redis_url, "w2", mine, mine, mine)
        await hold_jobs(lost, commands)
        mortal = Mortal(mine, monkeypatch)
        mortal.left = number
        killed = False
        try:
            await lost.leave()
        except KilledError:
            killed = True
        await mine.aclose()
        await reap(side, commands)
        assert sorted(await jobs_in(commands, "llama_queue", READY)) == sorted(ALL), f"after {number} commands"
        assert not await commands.exists("{llama_queue}:slots:w2", "{llama_queue}:only:w2")
        if not killed:
            return
    pytest.fail("the worker never ends")


async def test_a_worker_that_ends_in_good_order_costs_no_job_an_attempt(side: Side, lost: Side, commands: Any) -> None:
    await hold_jobs(lost, commands)
    assert await lost.leave() == 4
    assert sorted(await jobs_in(commands, "llama_queue", READY)) == sorted(ALL)
    assert not await commands.exists("{llama_queue}:slots:w2", "{llama_queue}:worker:w2")
    assert await commands.zrange(side.keys.workers, 0, -1) == [b"w1"]
    again = await side.claims.claim("1", side.slot(), 1)
    assert (again.status, again.attempt, again.counted) == (ClaimStatus.CLAIMED, 2, 1)


async def test_a_worker_that_ends_puts_back_what_it_holds_though_it_was_taken_for_lost(
    side: Side, lost: Side, commands: Any
) -> None:
    await reap(side, commands)
    await commands.lpush(READY, b"1")
    await lost.slots.take(READY, lost.slot())
    await commands.delete(side.keys.slots("w2"))
    assert await lost.leave() == 1
    assert await commands.lrange(READY, 0, -1) == [b"1"]


async def test_a_worker_that_has_ended_is_no_address_for_jobs(side: Side, lost: Side, commands: Any) -> None:
    assert await lost.leave() == 0
    await commands.lpush(side.slot().key, b"1")
    assert not await side.slots.send_to_worker(side.slot(), "w2")
