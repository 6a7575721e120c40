"""Consumers that choose: what they see of a list, what they take, and that nothing of it is lost or taken twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import anyio
import pytest

from tests.support.redis_side import Side
from velesio_worker.queue.consumer import Gate, Group, GroupConsumer, Passage
from velesio_worker.queue.keys import Slot
from velesio_worker.wire.jobs import Kind

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

READY: Final = "{llama_queue}:image"


class Wish:
    """Wants a certain job first, and certain ones with any."""

    def __init__(self, first: bytes | None = None, mates: Sequence[bytes] = ()) -> None:
        self.wanted = first
        self.wanted_mates = mates
        self.seen: list[Sequence[bytes]] = []

    def first(self, waiting: Sequence[bytes]) -> bytes | None:
        self.seen.append(waiting)
        return self.wanted

    def has_mates(self, payload: bytes) -> bool:
        return bool(payload)

    def mates(self, payload: bytes, waiting: Sequence[bytes]) -> Sequence[bytes]:
        assert payload not in waiting
        return self.wanted_mates


def slots_of(side: Side, count: int) -> list[Slot]:
    return [side.keys.slot("w1", f"image-0-{place}", home=side.keys.ready(Kind.IMAGE)) for place in range(count)]


async def taken(side: Side, wish: Wish, count: int = 3, *, rounds: int = 1) -> list[Group]:
    """Run a consumer for so many groups; returns them."""
    stopping = anyio.Event()
    groups: list[Group] = []

    async def process(group: Group) -> None:
        groups.append(group)
        for slot, payload in group:
            await side.slots.ack(slot, payload)
        if len(groups) == rounds:
            stopping.set()

    consumer = GroupConsumer(side.slots, slots_of(side, count), Gate(Passage.OPEN), wish, process)
    with anyio.fail_after(60):
        await consumer.run(stopping)
    return groups


def payloads(groups: Sequence[Group]) -> list[list[bytes]]:
    return [[payload for _, payload in group] for group in groups]


async def test_jobs_are_seen_in_their_order_and_large_ones_as_nothing(side: Side, commands: Any) -> None:
    large = b"x" * (64 * 1024 + 1)
    await commands.lpush(READY, b"a", large, b"c")
    assert await side.slots.waiting(READY) == [b"a", b"", b"c"]
    assert await commands.llen(READY) == 3


async def test_no_more_than_a_window_is_looked_at(side: Side, commands: Any) -> None:
    await commands.lpush(READY, *(f"{number}" for number in range(100)))
    assert await side.slots.waiting(READY) == [f"{number}".encode() for number in range(32)]
    await commands.delete(READY)
    await commands.lpush(READY, *(b"%d" % number + b"x" * (5 * 1024 * 1024) for number in range(3)))
    assert await side.slots.waiting(READY) == [b""]


async def test_the_chosen_job_is_taken_and_the_others_wait_on(side: Side, commands: Any) -> None:
    await commands.lpush(READY, b"a", b"b", b"c")
    assert payloads(await taken(side, Wish(b"b"))) == [[b"b"]]
    assert await commands.lrange(READY, 0, -1) == [b"c", b"a"]


async def test_without_a_choice_the_next_is_taken(side: Side, commands: Any) -> None:
    await commands.lpush(READY, b"a", b"b")
    assert payloads(await taken(side, Wish(), rounds=2)) == [[b"a"], [b"b"]]


async def test_those_that_go_with_it_are_taken_as_far_as_there_are_slots(side: Side, commands: Any) -> None:
    await commands.lpush(READY, b"a", b"b", b"c", b"d")
    groups = await taken(side, Wish(mates=[b"b", b"c", b"d"]))
    assert payloads(groups) == [[b"a", b"b", b"c"]]
    assert len({slot.key for slot, _ in groups[0]}) == 3
    assert await commands.lrange(READY, 0, -1) == [b"d"]


async def test_what_somebody_else_has_taken_meanwhile_is_left_out(side: Side, commands: Any) -> None:
    await commands.lpush(READY, b"a", b"c")
    assert payloads(await taken(side, Wish(b"gone", [b"gone, too", b"c"]))) == [[b"a", b"c"]]


async def test_two_that_want_the_same_job_do_not_both_get_it(side: Side, commands: Any) -> None:
    first, second = slots_of(side, 2)
    await commands.lpush(READY, b"a")
    assert [await side.slots.pick(READY, slot, b"a") for slot in (first, second)] == [True, False]
    assert await side.slots.pick(READY, first, b"a"), "asking again after a lost reply changes nothing"
    assert await commands.llen(READY) == 0


async def test_a_slot_that_holds_something_takes_nothing_more(side: Side, commands: Any) -> None:
    (slot,) = slots_of(side, 1)
    await commands.lpush(slot.key, b"held")
    await commands.lpush(READY, b"a")
    assert not await side.slots.pick(READY, slot, b"a")
    assert await commands.lrange(READY, 0, -1) == [b"a"]


async def test_equal_payloads_are_two_jobs(side: Side, commands: Any) -> None:
    first, second = slots_of(side, 2)
    await commands.lpush(READY, b"a", b"a")
    assert await side.slots.pick(READY, first, b"a")
    assert await commands.llen(READY) == 1
    assert await side.slots.pick(READY, second, b"a")
    assert await commands.llen(READY) == 0


async def test_a_gate_that_closes_meanwhile_puts_the_group_back_in_its_order(side: Side, commands: Any) -> None:
    await commands.lpush(READY, b"a", b"b", b"c")
    gate, stopping = Gate(Passage.OPEN), anyio.Event()

    class Closing(Wish):
        def mates(self, payload: bytes, waiting: Sequence[bytes]) -> Sequence[bytes]:
            gate.move(Passage.CLOSED)
            return super().mates(payload, waiting)

    async def process(_: Group) -> None:
        pytest.fail("the gate is closed")

    consumer = GroupConsumer(side.slots, slots_of(side, 2), gate, Closing(mates=[b"b"]), process)
    async with anyio.create_task_group() as group:
        group.start_soon(consumer.run, stopping)
        with anyio.fail_after(60):
            while await commands.lrange(READY, 0, -1) != [b"c", b"b", b"a"] or gate.passage is Passage.OPEN:
                await anyio.sleep(0.01)
        stopping.set()
        gate.move(Passage.OPEN)


async def test_a_lost_worker_leaves_no_job_of_a_group_behind(side: Side, commands: Any) -> None:
    own = slots_of(side, 2)
    await commands.lpush(READY, json.dumps({"id": "a"}), json.dumps({"id": "b"}))
    for slot, job_id in zip(own, ("a", "b"), strict=True):
        assert await side.slots.pick(READY, slot, json.dumps({"id": job_id}).encode())
    await side.scripts.beat(side.keys, "w1", 60, {"state": "test"}, own)
    ends = await commands.zscore(side.keys.workers, "w1")
    assert await side.scripts.reap(side.keys, "w1", f"{ends:.3f}", gone=True, lost=True) == 2
    assert sorted(await commands.lrange(READY, 0, -1)) == [b'{"id": "a"}', b'{"id": "b"}']
