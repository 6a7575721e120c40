"""Jobs of a session, under backlog: whoever has read what it begins with takes them before others, within limits."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.support.redis_side import MAX_BYTES, Side, make_side
from velesio_worker.core.metrics import REGISTRY
from velesio_worker.queue.intake import read_job

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

TEXT = "{llama_queue}:text"
PASSES = 8
WINDOW = 32


class Producer:
    """Pushes jobs and has them sorted as the intake does."""

    def __init__(self, side: Side, commands: Any) -> None:
        self._side = side
        self._commands = commands
        self._numbers = itertools.count()

    async def push(self, session: Any = None, *, tenant: str | None = "a", **fields: Any) -> str:
        """Push a job; returns its id."""
        job_id = f"job-{next(self._numbers)}"
        job = {"id": job_id, "type": "completion", "data": {"prompt": "x"}, "session": session, "tenant": tenant}
        payload = json.dumps(job | fields).encode()
        slot = self._side.slot("intake", home="llama_queue")
        await self._commands.lpush(slot.key, payload)
        await self._side.slots.send_in_line(slot, await read_job(payload, max_bytes=MAX_BYTES), len(payload))
        return job_id


@pytest.fixture
def producer(side: Side, commands: Any) -> Producer:
    return Producer(side, commands)


@pytest.fixture
async def other(redis_url: str) -> AsyncGenerator[Side]:
    """Another worker."""
    async with make_side(redis_url, "w2") as other:
        yield other


async def run(side: Side, *, read: int = 100, held: int | None = 0) -> str | None:
    """Take the next job and end it; the engine read so many tokens of its prompt and held so many. Returns its id."""
    slot = side.slot()
    payload = await side.slots.take(TEXT, slot)
    if payload is None:
        return None
    if held is not None:
        side.slots.warmth.read(slot, read, held)
    await side.slots.ack(slot, payload)
    return json.loads(payload)["id"]


async def promises(commands: Any) -> list[bytes]:
    return [key async for key in commands.scan_iter(match="{llama_queue}:warm:*")]


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("velesio_warm_jobs_total", {"outcome": outcome}) or 0


async def test_a_session_goes_on_where_its_last_turn_was_served(side: Side, other: Side, producer: Producer) -> None:
    first = [await producer.push(session) for session in ("one", "two")]
    assert [await run(side), await run(other)] == first
    second = {session: await producer.push(session) for session in ("one", "three", "two")}
    hits = counted("hit")
    assert await run(other, read=1, held=99) == second["two"]
    assert await run(other) == second["one"]
    assert counted("hit") == hits + 1
    third = await producer.push("one")
    assert await run(other, read=1, held=99) == third
    assert await run(side) == second["three"]


async def test_it_is_so_whatever_the_tenant_and_each_pays_for_its_own(
    side: Side, other: Side, producer: Producer
) -> None:
    for tenant in ("a", "b"):
        await producer.push("one", tenant=tenant)
    assert [await run(side), await run(other)] == ["job-0", "job-1"]
    waiting = [await producer.push(session, tenant=tenant) for tenant in "ab" for session in (None, "one")]
    assert await run(other, read=1, held=99) == waiting[3]
    assert await run(side, read=1, held=99) == waiting[1]


async def test_the_job_that_is_next_is_passed_over_only_so_often(side: Side, producer: Producer) -> None:
    await producer.push("one")
    await run(side)
    cold = [await producer.push() for _ in range(2)]
    warm = [await producer.push("one") for _ in range(2 * PASSES)]
    served = [await run(side, read=1, held=99) for _ in range(2 * PASSES + 2)]
    assert served == [*warm[:PASSES], cold[0], *warm[PASSES:], cold[1]]


async def test_no_priority_waits_for_a_session_of_a_lower_one(side: Side, producer: Producer) -> None:
    await producer.push("one")
    await run(side)
    warm = await producer.push("one")
    urgent = await producer.push(priority="high")
    assert [await run(side), await run(side)] == [urgent, warm]


async def test_a_job_is_not_passed_over_for_ever_where_another_priority_has_its_turns(
    side: Side, producer: Producer
) -> None:
    for priority in ("normal", "low"):
        await producer.push("one", tenant="b", priority=priority)
        await run(side)
    cold = await producer.push(priority="low")
    served: list[str | None] = []
    while cold not in served:
        for priority in ("normal", "low"):
            await producer.push("one", tenant="b", priority=priority)
        served.append(await run(side, read=1, held=99))
        assert len(served) < 100


async def test_only_the_oldest_are_looked_at(side: Side, producer: Producer) -> None:
    await producer.push("one")
    await run(side)
    cold = [await producer.push() for _ in range(WINDOW)]
    warm = await producer.push("one")
    assert [await run(side), await run(side)] == [cold[0], warm]


async def test_a_promise_that_fails_is_forgotten(side: Side, commands: Any, producer: Producer) -> None:
    await producer.push("one")
    await run(side)
    (key,) = await promises(commands)
    assert await commands.get(key) == b"w1"
    assert 890 < await commands.ttl(key) <= 900
    misses = counted("miss")
    await producer.push("one")
    await run(side, read=90, held=10)
    assert counted("miss") == misses + 1
    assert not await commands.exists(key)


@pytest.mark.parametrize("held", [None, 0])
async def test_what_was_read_for_nobody_promises_nothing(
    side: Side, commands: Any, producer: Producer, held: int | None
) -> None:
    await producer.push("one" if held is None else None)
    assert await run(side, held=held) == "job-0"
    assert not await promises(commands)


async def test_chats_without_a_session_are_known_by_how_they_begin(
    side: Side, commands: Any, producer: Producer
) -> None:
    opening = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    turns = [
        *([*opening, {"role": "assistant", "content": f"{turn}"}, {"role": "user", "content": "?"}] for turn in "12"),
        [{"role": "user", "content": "u"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "?"}],
        opening,
    ]
    for messages, sessions in zip(turns, (1, 1, 2, 2), strict=True):
        await producer.push(type="chat_completion", data={"messages": messages})
        await run(side, read=1, held=99)
        assert len(await promises(commands)) == sessions


async def test_jobs_with_a_session_alone_wait_beside_those_with_nothing(
    side: Side, commands: Any, producer: Producer
) -> None:
    plain = [await producer.push(tenant=None) for _ in range(2)]
    named = [await producer.push("one", tenant=None) for _ in range(2)]
    assert await commands.llen(TEXT) == 2
    served = [await run(side) for _ in range(4)]
    assert {served[0], served[1]} == {plain[0], named[0]}
    assert await producer.push({"id": 7}, tenant=None)
    assert await commands.llen(TEXT) == 1


async def test_a_job_that_is_handed_back_keeps_its_session(side: Side, other: Side, producer: Producer) -> None:
    await producer.push("one")
    await run(other)
    cold = [await producer.push(tenant=tenant) for tenant in "123"]
    warm = await producer.push("one")
    slot = other.slot()
    assert json.loads(await other.slots.take(TEXT, slot) or b"{}")["id"] == warm
    assert await other.slots.hand_back(slot)
    assert await run(side) == cold[0]
    assert await run(other, read=1, held=99) == warm


async def test_what_somebody_else_puts_in_the_way_costs_nothing(side: Side, commands: Any, producer: Producer) -> None:
    await producer.push("one")
    await run(side)
    (key,) = await promises(commands)
    await commands.delete(key)
    await commands.lpush(key, "in the way")
    cold, named = await producer.push(), await producer.push("one")
    assert [await run(side), await run(side)] == [cold, named]
    assert await commands.get(key) == b"w1"
