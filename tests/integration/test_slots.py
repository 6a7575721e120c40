"""Slots: what a worker holds is always in Redis too, whichever reply is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.redis_side import Side
from tests.support.servers import Topology
from velesio_worker.queue import slots as slots_module
from velesio_worker.queue.slots import Slots

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

QUEUE = "{llama_queue}:text"


class LosesReplies:
    """A client that carries out a blocking move and loses its reply."""

    def __init__(self, client: Any, losses: int) -> None:
        self._client = client
        self._losses = losses

    async def lindex(self, *arguments: Any) -> Any:
        return await self._client.lindex(*arguments)

    async def blmove(self, *arguments: Any) -> Any:
        reply = await self._client.blmove(*arguments)
        if self._losses > 0:
            self._losses -= 1
            raise RedisConnectionError("the reply was lost")
        return reply


async def test_jobs_are_taken_in_the_order_in_which_they_were_pushed(side: Side, commands: Any) -> None:
    await commands.lpush(QUEUE, b"1", b"2")
    for expected in (b"1", b"2"):
        assert await side.slots.take(QUEUE, side.slot()) == expected
        assert await commands.lrange(side.slot().key, 0, -1) == [expected]
        await side.slots.ack(side.slot(), expected)
    assert await side.slots.take(QUEUE, side.slot()) is None


async def test_a_lost_reply_loses_and_doubles_no_job(side: Side, commands: Any) -> None:
    slots = Slots(LosesReplies(commands, 2), side.linked(commands), side.lease)  # pyright: ignore[reportArgumentType]
    await commands.lpush(QUEUE, b"1", b"2", b"3")
    taken: list[bytes] = []
    while await commands.exists(QUEUE, side.slot().key):
        payload = await slots.take(QUEUE, side.slot())
        if payload is not None:
            taken.append(payload)
            await slots.ack(side.slot(), payload)
    assert taken == [b"1", b"2", b"3"]


async def test_a_move_that_lands_late_is_not_acked_with_the_job_before_it(side: Side, commands: Any) -> None:
    await commands.lpush(QUEUE, b"1")
    taken = await side.slots.take(QUEUE, side.slot())
    await commands.lpush(side.slot().key, b"late")
    assert taken == b"1"
    await side.slots.ack(side.slot(), b"1")
    assert await side.slots.take(QUEUE, side.slot()) == b"late"


async def test_a_job_handed_back_is_the_next_to_be_taken(side: Side, commands: Any) -> None:
    await commands.lpush(QUEUE, b"1", b"2")
    await side.slots.take(QUEUE, side.slot())
    assert await side.slots.hand_back(side.slot())
    assert not await side.slots.hand_back(side.slot())
    assert await side.slots.take(QUEUE, side.slot()) == b"1"


@pytest.mark.parametrize(("payload", "field"), [(b"text", "payload"), (b"\xff\xfe", "payload_base64")])
async def test_a_dead_letter_keeps_the_payload(side: Side, commands: Any, payload: bytes, field: str) -> None:
    await commands.lpush(side.slot().key, payload)
    await side.slots.bury(side.slot(), payload, "why")
    await side.slots.bury(side.slot(), payload, "again")
    (letter,) = [json.loads(letter) for letter in await commands.lrange("{llama_queue}:dead", 0, -1)]
    assert (letter["reason"], letter["worker"]) == ("why", "w1")
    assert letter[field] in {"text", "//4="}


async def test_burying_one_of_two_jobs_in_a_slot_leaves_the_other(side: Side, commands: Any) -> None:
    await commands.lpush(QUEUE, b"1")
    assert await side.slots.take(QUEUE, side.slot()) == b"1"
    await commands.lpush(side.slot().key, b"late")
    await side.slots.bury(side.slot(), b"1", "why")
    assert await side.slots.take(QUEUE, side.slot()) == b"late"
    (letter,) = [json.loads(letter) for letter in await commands.lrange("{llama_queue}:dead", 0, -1)]
    assert letter["payload"] == "1"


async def test_a_large_dead_letter_is_cut_and_says_so(
    side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "_LETTER_HEAD", 10)
    await commands.lpush(side.slot().key, b"x" * 20_000)
    await side.slots.bury(side.slot(), b"x" * 20_000, "why")
    (letter,) = [json.loads(letter) for letter in await commands.lrange("{llama_queue}:dead", 0, -1)]
    assert letter["payload"] == "x" * 10
    assert "20000 bytes" in letter["reason"]


async def test_redis_that_takes_no_writes_is_waited_for(side: Side, commands: Any, topology: Topology) -> None:
    await commands.lpush(QUEUE, b"1")
    with topology.taking_no_writes():
        assert await side.slots.take(QUEUE, side.slot()) is None
    assert await side.slots.take(QUEUE, side.slot()) == b"1"
