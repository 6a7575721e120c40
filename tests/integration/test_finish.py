"""Whose result is stored: the owner's, and that of an attempt whose claim Redis lost in a failover."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.redis_side import Side
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.scripts import ClaimStatus

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

JOB = "{result:a}:job"
RESULT = "result:a"


async def finish(side: Side, worker: str, attempt: int) -> bool | None:
    return await side.scripts.finish("a", worker, attempt, f"{worker}:{attempt}".encode(), 100)


async def lose_attempts(side: Side, count: int) -> None:
    """Claim and give up again, so often."""
    for number in range(1, count + 1):
        reply = await side.scripts.claim("a", side.slot(), f"n{number}", 9)
        assert reply.attempt == number
        assert await side.scripts.release("a", "w1", number, in_good_order=False)


@pytest.mark.parametrize("known", [0, 1, 2])
async def test_an_attempt_whose_claim_was_lost_stores_its_result(side: Side, commands: Any, known: int) -> None:
    await lose_attempts(side, known)
    assert await finish(side, "w1", 3), "Redis knows of older attempts only, which nobody owns"
    assert await commands.get(RESULT) == b"w1:3"
    assert 0 < await commands.ttl(RESULT) <= 100
    assert await commands.ttl(JOB) > 100
    assert await finish(side, "w1", 3), "a finish whose reply was lost can be repeated"


async def test_attempts_go_on_rising_after_a_claim_was_lost(side: Side, commands: Any) -> None:
    await lose_attempts(side, 1)
    await finish(side, "w1", 3)
    assert (await side.scripts.claim("a", side.slot(), "n", 9)).status is ClaimStatus.FINISHED
    await commands.delete(RESULT)
    reply = await side.scripts.claim("a", side.slot(), "n", 9)
    assert (reply.status, reply.attempt, reply.first) == (ClaimStatus.CLAIMED, 4, True)


async def test_an_attempt_that_was_given_up_stores_nothing(side: Side, commands: Any) -> None:
    await lose_attempts(side, 2)
    for attempt in (1, 2):
        assert not await finish(side, "w1", attempt)
    assert not await commands.exists(RESULT)


async def test_an_older_attempt_stores_nothing_though_nobody_owns_the_job(side: Side, commands: Any) -> None:
    await lose_attempts(side, 2)
    assert not await finish(side, "w2", 1)
    assert not await commands.exists(RESULT)


@pytest.mark.parametrize(("worker", "attempt"), [("w2", 1), ("w1", 1), ("w2", 2)])
async def test_an_attempt_beside_or_before_the_owners_stores_nothing(
    side: Side, commands: Any, worker: str, attempt: int
) -> None:
    await lose_attempts(side, 1)
    assert (await side.scripts.claim("a", side.slot(), "n", 9)).attempt == 2
    assert not await finish(side, worker, attempt)
    assert not await commands.exists(RESULT)
    assert await finish(side, "w1", 2)


@pytest.mark.parametrize("attempt", [1, 2, 3])
async def test_a_job_that_somebody_has_ended_is_not_ended_again(side: Side, commands: Any, attempt: int) -> None:
    other = Keys("llama_queue").slot("w2", "text-0")
    await side.scripts.claim("a", other, "n", 9)
    assert await finish(side, "w2", 1)
    assert not await finish(side, "w1", attempt)
    assert await commands.get(RESULT) == b"w2:1"


async def test_the_end_of_a_job_forgets_that_it_was_to_be_cancelled(side: Side, commands: Any) -> None:
    await commands.hset(JOB, "cancel", 1)
    assert await finish(side, "w1", 1)
    assert not await commands.hexists(JOB, "cancel")
    assert await commands.hget(JOB, "finished_by") == b"w1:1"


PARTS = "{result:a}:parts:1"


async def send(side: Side, at: int, part: bytes) -> list[bool]:
    """Send a part, and once more as after a lost reply; returns both replies."""
    return [await side.scripts.part("a", 1, at, part) for _ in range(2)]


async def test_a_result_that_comes_in_parts_is_read_as_a_whole_and_not_before(side: Side, commands: Any) -> None:
    await side.scripts.claim("a", side.slot(), "n1", 9)
    assert await send(side, 0, b"abc") == [True, True]
    assert await send(side, 3, b"de") == [True, True]
    assert await commands.get(RESULT) is None
    assert await side.scripts.finish("a", "w1", 1, b"", 100, sent=5) is True
    assert await commands.get(RESULT) == b"abcde"
    assert 40 < await commands.ttl(RESULT) <= 100
    assert await side.scripts.finish("a", "w1", 1, b"", 100, sent=5) is True, "asked again after a lost reply"
    assert await commands.exists(PARTS) == 0


async def test_parts_that_a_failover_lost_are_noticed_and_sent_again(side: Side, commands: Any) -> None:
    await side.scripts.claim("a", side.slot(), "n1", 9)
    await send(side, 0, b"abc")
    await commands.delete(PARTS)
    assert await send(side, 3, b"de") == [False, False]
    assert await side.scripts.finish("a", "w1", 1, b"", 100, sent=5) is None
    assert await commands.get(RESULT) is None


async def test_a_fenced_attempt_leaves_no_parts_behind(side: Side, commands: Any) -> None:
    await lose_attempts(side, 1)
    await side.scripts.claim("a", side.slot(), "n2", 9)
    await send(side, 0, b"abc")
    assert await side.scripts.finish("a", "w1", 1, b"", 100, sent=3) is False
    assert await commands.exists(PARTS, RESULT) == 0
