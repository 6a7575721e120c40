"""Consumers of one list wait one at a time: a worker that has nothing to do costs Redis little, however many it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import anyio
import pytest

from tests.support.redis_side import Side
from velesio_worker.queue.consumer import Consumer, Gate, Passage, Process
from velesio_worker.queue.keys import Slot

pytestmark = pytest.mark.anyio

READY: Final = "{llama_queue}:text"
MANY: Final = 20


def consumers(side: Side, process: Process) -> list[Consumer]:
    turn, gate = anyio.Lock(), Gate(Passage.OPEN)
    return [
        Consumer(side.slots, READY, side.slot(f"text-{number}"), gate, process, number=number, turn=turn)
        for number in range(MANY)
    ]


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.005)


async def blocked(commands: Any) -> int:
    return (await commands.info("clients"))["blocked_clients"]


async def test_one_waits_for_all_and_as_many_jobs_run_as_there_are_consumers(side: Side, commands: Any) -> None:
    running, release, stopping = list[bytes](), anyio.Event(), anyio.Event()

    async def process(slot: Slot, payload: bytes) -> None:
        running.append(payload)
        await release.wait()
        await side.slots.ack(slot, payload)

    before = await blocked(commands)
    async with anyio.create_task_group() as group:
        for consumer in consumers(side, process):
            group.start_soon(consumer.run, stopping)
        with anyio.fail_after(10):
            while await blocked(commands) == before:
                await anyio.sleep(0.005)
        assert await blocked(commands) == before + 1
        jobs = [b"%d" % number for number in range(MANY)]
        await commands.lpush(READY, *jobs)
        await until(lambda: len(running) == MANY)
        assert running == jobs, "first in, first out"
        stopping.set()
        release.set()


async def test_a_job_that_came_behind_a_lost_reply_waits_for_nobodys_turn(side: Side, commands: Any) -> None:
    done, stopping = list[bytes](), anyio.Event()

    async def process(slot: Slot, payload: bytes) -> None:
        done.append(payload)
        await side.slots.ack(slot, payload)

    made = consumers(side, process)
    slot = side.slot(f"text-{MANY - 1}")
    await side.slots.ack_one(slot, b"none")  # after which the slot is looked into
    await commands.lpush(slot.key, b"left")
    assert side.slots.may_hold(slot)
    async with anyio.create_task_group() as group:
        for consumer in made:
            group.start_soon(consumer.run, stopping)
        with anyio.fail_after(0.9):  # less than the one who waits takes for a turn
            while done != [b"left"]:
                await anyio.sleep(0.005)
        stopping.set()


async def test_a_slot_is_known_to_whoever_reaps_before_its_first_job(side: Side, commands: Any) -> None:
    made = consumers(side, side.slots.ack)
    await side.lease.beat()
    known = await commands.hkeys("{llama_queue}:slots:w1")
    assert len(known) == len(made) == MANY


async def test_a_worker_of_very_many_slots_tells_them_all(side: Side, commands: Any) -> None:
    for number in range(2500):
        side.lease.know(side.slot(f"text-{number}"))
    await side.lease.beat()
    assert await commands.hlen("{llama_queue}:slots:w1") == 2500
    assert await commands.hget("{llama_queue}:slots:w1", side.slot("text-2499").key) == READY.encode()
