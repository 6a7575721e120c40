"""Claims: one owner at a time, attempts that only rise, results stored once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.redis_side import Side
from velesio_worker.queue.claims import Held
from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.scripts import ClaimStatus

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

JOB = b'{"id": "a", "type": "completion", "data": {"prompt": "hi"}}'


async def fill(commands: Any, slot: Slot) -> None:
    await commands.lpush(slot.key, JOB)


async def test_the_first_claim_is_attempt_one(side: Side) -> None:
    reply = await side.claims.claim("a", side.slot(), 3)
    assert (reply.status, reply.attempt, reply.first) == (ClaimStatus.CLAIMED, 1, True)


async def test_a_claim_whose_reply_was_lost_can_be_repeated(side: Side) -> None:
    first = await side.scripts.claim("a", side.slot(), "nonce", 3)
    again = await side.scripts.claim("a", side.slot(), "nonce", 3)
    assert first == again


async def test_a_job_that_lies_in_a_living_workers_slot_is_held(side: Side, commands: Any) -> None:
    await fill(commands, side.slot("text-0"))
    await side.claims.claim("a", side.slot("text-0"), 3)
    reply = await side.claims.claim("a", side.slot("text-1"), 3)
    assert (reply.status, reply.attempt) == (ClaimStatus.HELD, 1)


@pytest.mark.parametrize("why", ["its lease is over", "its slot is empty", "its slot holds another job"])
async def test_an_owner_that_is_gone_is_replaced(side: Side, commands: Any, why: str) -> None:
    other = Keys("llama_queue").slot("w2", "text-0")
    if why != "its lease is over":
        await side.scripts.beat(side.keys, "w2", 60, {"state": "test"})
    if why == "its lease is over":
        await fill(commands, other)
    if why == "its slot holds another job":
        await commands.lpush(other.key, JOB.replace(b'"a"', b'"b"'))
    await side.scripts.claim("a", other, "nonce", 3)
    reply = await side.claims.claim("a", side.slot(), 3)
    assert (reply.status, reply.attempt, reply.first) == (ClaimStatus.CLAIMED, 2, False)


@pytest.mark.parametrize("attempt", ["x", "", "1" * 5000, b"\xff", "1.5"])
async def test_a_job_whose_count_somebody_damaged_keeps_no_other_from_being_given_up(
    side: Side, commands: Any, attempt: str | bytes
) -> None:
    damaged, whole = side.slot("text-0"), side.slot("text-1")
    for slot, job_id in ((damaged, "a"), (whole, "b")):
        await commands.lpush(slot.key, JOB.replace(b'"a"', f'"{job_id}"'.encode()))
        await side.claims.claim(job_id, slot, 3)
    await commands.hset("{result:a}:job", "attempt", attempt)
    await side.claims.give_up([damaged, whole])
    assert await commands.hget("{result:b}:job", "owner") is None


async def test_after_max_attempts_a_job_is_exhausted(side: Side) -> None:
    statuses = [(await side.claims.claim("a", side.slot(), 2)).status for _ in range(3)]
    assert statuses == [ClaimStatus.CLAIMED, ClaimStatus.CLAIMED, ClaimStatus.EXHAUSTED]


async def test_an_attempt_handed_back_in_good_order_does_not_count(side: Side, commands: Any) -> None:
    for attempt in range(1, 6):
        await fill(commands, side.slot())
        reply = await side.claims.claim("a", side.slot(), 1)
        assert (reply.status, reply.attempt) == (ClaimStatus.CLAIMED, attempt)
        await side.claims.hand_back(Held("a", side.slot(), JOB, attempt), in_good_order=True)
        assert await commands.lpop("{llama_queue}:text") == JOB


async def test_a_job_that_an_engine_was_lost_of_is_known_to_the_next_worker(side: Side, commands: Any) -> None:
    await fill(commands, side.slot())
    reply = await side.claims.claim("a", side.slot(), 9)
    assert not reply.suspect
    await side.claims.hand_back(Held("a", side.slot(), JOB, reply.attempt), in_good_order=False, suspect=True)
    for _ in range(2):
        reply = await side.claims.claim("a", Keys("llama_queue").slot("w2", "text-0"), 9)
        assert reply.suspect
        assert await side.scripts.release("a", "w2", reply.attempt, in_good_order=True)
    held = Held("a", side.slot(), JOB, (await side.claims.claim("a", side.slot(), 9)).attempt)
    await side.claims.finish(held, b"{}")
    await commands.delete("result:a")
    assert not (await side.claims.claim("a", side.slot(), 9)).suspect, "a new job under the same id"


async def test_a_cancelled_job_is_claimed_to_be_ended(side: Side, commands: Any) -> None:
    await commands.hset("{result:a}:job", "cancel", 1)
    assert (await side.claims.claim("a", side.slot(), 3)).status is ClaimStatus.CANCELLED


async def test_only_the_owner_of_the_latest_attempt_can_finish(side: Side, commands: Any) -> None:
    old = Held("a", side.slot(), JOB, (await side.claims.claim("a", side.slot(), 3)).attempt)
    new = Held("a", side.slot(), JOB, (await side.claims.claim("a", side.slot(), 3)).attempt)
    assert not await side.claims.finish(old, b'{"text": "old"}')
    assert await side.claims.finish(new, b'{"text": "new"}')
    assert await side.claims.finish(new, b'{"text": "again"}'), "the same finish again says the same"
    assert await commands.get("result:a") == b'{"text": "new"}'
    assert 0 < await commands.ttl("result:a") <= 100


async def test_a_finished_job_is_not_claimed_again_while_its_result_lives(side: Side, commands: Any) -> None:
    held = Held("a", side.slot(), JOB, (await side.claims.claim("a", side.slot(), 3)).attempt)
    await side.claims.finish(held, b"{}")
    assert (await side.claims.claim("a", side.slot(), 3)).status is ClaimStatus.FINISHED
    await commands.delete("result:a")
    reply = await side.claims.claim("a", side.slot(), 1)
    assert (reply.status, reply.attempt, reply.first) == (ClaimStatus.CLAIMED, 2, True)


async def test_a_released_attempt_is_nobodys(side: Side) -> None:
    reply = await side.claims.claim("a", side.slot(), 3)
    assert await side.scripts.release("a", "w1", reply.attempt, in_good_order=False)
    assert not await side.scripts.release("a", "w1", reply.attempt, in_good_order=False)
    held = Held("a", side.slot(), JOB, reply.attempt)
    assert not await side.claims.finish(held, b"{}")
