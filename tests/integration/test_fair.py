"""Which job is next: by priority, and by what each tenant has had."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import anyio
import pytest

from tests.support.redis_side import MAX_BYTES, Side, make_side
from velesio_worker.client import Client
from velesio_worker.queue.fleet import Fleet
from velesio_worker.queue.intake import read_job
from velesio_worker.queue.survey import Survey
from velesio_worker.wire.jobs import Kind
from velesio_worker.wire.share import share_of

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

TEXT = "{llama_queue}:text"
RUNNING = "{llama_queue}:running:text"
IDLE = "{llama_queue}:idle:text"


class Producer:
    """Pushes jobs and has them sorted as the intake does."""

    def __init__(self, side: Side, commands: Any) -> None:
        self._side = side
        self._commands = commands
        self._numbers = itertools.count()

    async def push(self, tenant: str | None = None, priority: str | None = None, *, tokens: int = 100) -> bytes:
        job: dict[str, Any] = {"id": f"job-{next(self._numbers)}", "type": "completion", "tenant": tenant}
        job |= {"data": {"prompt": "x", "max_tokens": tokens}, "priority": priority}
        payload = json.dumps(job).encode()
        slot = self._side.slot("intake", home="llama_queue")
        await self._commands.lpush(slot.key, payload)
        await self._side.slots.send_in_line(slot, await read_job(payload, max_bytes=MAX_BYTES), len(payload))
        return payload


@pytest.fixture
def producer(side: Side, commands: Any) -> Producer:
    return Producer(side, commands)


def whose(payload: bytes | None) -> str:
    assert payload is not None
    job = json.loads(payload)
    return job["priority"] or job["tenant"] or ""


async def run(side: Side, name: str = "text-0", cost: float | None = None) -> bytes | None:
    """Take the next job and end it."""
    slot = side.slot(name)
    payload = await side.slots.take(TEXT, slot)
    if payload is not None:
        side.slots.used(slot, cost)
        await side.slots.ack(slot, payload)
    return payload


async def test_tenants_take_turns_whoever_pushed_first(side: Side, producer: Producer) -> None:
    for tenant in "a" * 8 + "b" * 3 + "c" * 3:
        await producer.push(tenant)
    served = [whose(await run(side)) for _ in range(14)]
    assert Counter(served[:9]) == {"a": 3, "b": 3, "c": 3}
    assert served[9:] == ["a"] * 5


async def test_a_tenants_own_jobs_keep_their_order(side: Side, producer: Producer) -> None:
    pushed = [await producer.push("a") for _ in range(5)]
    assert [await run(side) for _ in range(5)] == pushed


async def test_jobs_without_tenant_are_one_tenant_and_go_as_ever(side: Side, commands: Any, producer: Producer) -> None:
    plain = [await producer.push() for _ in range(4)]
    assert await commands.lrange(TEXT, 0, -1) == plain[::-1]
    others = [await producer.push("a") for _ in range(2)]
    served = [await run(side, cost=200) or b"" for _ in range(6)]
    assert sorted(served[:4]) == sorted([*plain[:2], *others])
    assert [job for job in served if job in plain] == plain


async def test_a_tenant_whose_jobs_cost_more_has_fewer_of_them(side: Side, producer: Producer) -> None:
    for _ in range(20):
        await producer.push("large", tokens=400)
        await producer.push("small", tokens=100)
    served = Counter([whose(await run(side)) for _ in range(20)])
    assert 3 <= served["large"] <= 6


async def test_a_job_that_tells_nothing_of_its_cost_did_cost_what_was_estimated(side: Side, producer: Producer) -> None:
    for tenant in (None, "a") * 12:
        await producer.push(tenant)
    served: list[str] = []
    for _ in range(12):
        slot = side.slot("text-0")
        payload = await side.slots.take(TEXT, slot)
        assert payload is not None
        side.slots.got(slot, await read_job(payload, max_bytes=MAX_BYTES), len(payload))
        await side.slots.ack(slot, payload)
        served.append(whose(payload))
    assert Counter(served[2:]) == {"": 5, "a": 5}


async def test_a_job_is_charged_nothing_while_no_other_tenant_waits(
    side: Side, commands: Any, producer: Producer
) -> None:
    for _ in range(5):
        await producer.push()
        await run(side, cost=200)
    assert await commands.keys("{llama_queue}:fair:text:*") == []
    for tenant in (None, "a") * 4:
        await producer.push(tenant)
    assert Counter([whose(await run(side)) for _ in range(4)]) == {"": 2, "a": 2}


async def test_what_a_job_did_cost_counts_in_the_end(side: Side, producer: Producer) -> None:
    for _ in range(20):
        await producer.push("long")
        await producer.push("short")
    served: list[str] = []
    for _ in range(20):
        slot = side.slot()
        payload = await side.slots.take(TEXT, slot)
        served.append(whose(payload))
        side.slots.used(slot, 800 if served[-1] == "long" else 200)
        await side.slots.ack(slot, payload or b"")
    assert 3 <= served.count("long") <= 6


async def test_who_was_idle_has_no_credit_for_it(side: Side, producer: Producer) -> None:
    for _ in range(40):
        await producer.push("busy")
    for _ in range(20):
        await run(side)
    for _ in range(20):
        await producer.push("late")
    served = [whose(await run(side)) for _ in range(10)]
    assert 4 <= served.count("late") <= 6


async def test_priorities_have_their_shares_and_none_starves(side: Side, producer: Producer) -> None:
    for priority in ("low", None, "high"):
        for _ in range(40):
            await producer.push("a", priority)
    served = Counter([json.loads(await run(side) or b"{}").get("priority") for _ in range(42)])
    assert served == {"high": 32, None: 8, "low": 2}


async def test_a_job_of_high_priority_is_next_whatever_waits(side: Side, producer: Producer) -> None:
    for _ in range(20):
        await producer.push("batch", "low")
    for _ in range(3):
        await run(side)
        urgent = await producer.push("person", "high")
        assert await run(side) == urgent


async def test_a_job_that_is_handed_back_is_next_and_its_tenant_pays_once(side: Side, producer: Producer) -> None:
    pushed = [await producer.push("a") for _ in range(3)]
    await producer.push("b")
    slot = side.slot()
    assert await side.slots.take(TEXT, slot) == pushed[0]
    assert await side.slots.hand_back(slot)
    assert not await side.slots.hand_back(slot)
    assert await run(side) == pushed[0]
    assert whose(await run(side)) == "b"


async def test_the_jobs_of_a_lost_worker_go_back_to_where_they_stood(
    side: Side, commands: Any, redis_url: str, producer: Producer
) -> None:
    async with make_side(redis_url, "w2") as lost:
        pushed = [await producer.push("a") for _ in range(3)]
        assert await lost.slots.take(TEXT, lost.slot()) == pushed[0]
        assert await commands.hkeys(RUNNING) == [b"w2:text-0"]
        await lost.lease.beat()
        assert await lost.lease.end() == 1
    assert not await commands.exists(RUNNING)
    assert [await run(side) for _ in range(3)] == pushed


async def test_what_runs_is_counted_and_nothing_is_left_of_it(side: Side, commands: Any, producer: Producer) -> None:
    for tenant in ("a", None, "b"):
        await producer.push(tenant)
    taken = [(side.slot(f"text-{n}"), await side.slots.take(TEXT, side.slot(f"text-{n}"))) for n in range(3)]
    assert await commands.hlen(RUNNING) == 3
    assert not await commands.exists("{llama_queue}:lines:text")
    for slot, payload in taken:
        await side.slots.ack(slot, payload or b"")
    assert not await commands.exists(
        RUNNING, "{llama_queue}:line:text:normal:a", "{llama_queue}:line:text:normal:a:tags"
    )
    assert await side.slots.take(TEXT, side.slot()) is None
    for key in ("fair:text", "fair:text:normal:had", "idle:text"):
        assert await commands.ttl("{llama_queue}:" + key) != -1, "it has an end, if it is there"


async def test_a_worker_that_waits_is_woken_by_a_tenants_job(side: Side, commands: Any, producer: Producer) -> None:
    got: list[bytes | None] = []
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            while not got:
                payload = await side.slots.take(TEXT, side.slot())
                if payload is not None:
                    got.append(payload)

        group.start_soon(wait)
        while not await commands.exists(IDLE):
            await anyio.sleep(0.005)
        await anyio.sleep(0.02)
        pushed = await producer.push("a")
        with anyio.fail_after(0.5):
            while not got:
                await anyio.sleep(0.002)
        assert got == [pushed]


@pytest.mark.parametrize("way", ["that was taken", "that came by itself"])
async def test_a_slot_that_has_a_job_waits_no_more_and_others_do(
    way: str, side: Side, commands: Any, producer: Producer
) -> None:
    first, second = side.slot("text-0"), side.slot("text-1")
    for slot in (first, second):
        assert await side.slots.take(TEXT, slot) is None
    payload = await producer.push("a")  # to whoever waits
    assert await commands.lrange(TEXT, 0, -1) == [payload]
    if way == "that was taken":
        assert await side.slots.take(TEXT, first) == payload
    else:
        assert await commands.lmove(TEXT, first.key, "RIGHT", "LEFT") == payload
        assert await side.admission.admit(first, payload) is not None
    assert await commands.zrange(IDLE, 0, -1) == [second.field.encode()]
    await producer.push("a")
    await producer.push("a")
    assert await commands.llen(TEXT) == 1, "one waits, and the other job of the tenant has its place in line"
    assert await commands.llen("{llama_queue}:line:text:normal:a") == 1


@pytest.mark.parametrize("how", ["in good order", "lost"])
async def test_what_a_worker_that_ends_held_goes_to_its_line_and_not_to_its_other_slots(
    how: str, side: Side, commands: Any, producer: Producer
) -> None:
    first, second = side.slot("text-0"), side.slot("text-1")
    for slot in (first, second):
        side.slots.expect(slot)
    await side.lease.beat()
    payload = await producer.push("a")
    assert await side.slots.take(TEXT, first) == payload
    assert await side.slots.take(TEXT, second) is None
    if how == "in good order":
        await side.lease.end()
    else:
        await commands.zadd(side.keys.workers, {"w1": 1})
        assert await side.scripts.reap(side.keys, "w1", "1", gone=False, lost=True) == 1
    assert not await commands.exists(IDLE)
    assert await commands.lrange("{llama_queue}:line:text:normal:a", 0, -1) == [payload]


async def test_a_job_that_came_by_itself_counts_as_its_tenants_once_it_is_claimed(side: Side, commands: Any) -> None:
    payload = json.dumps({"id": "a", "type": "completion", "tenant": "t", "data": {"prompt": "x"}}).encode()
    slot = side.slot()
    await commands.lpush(slot.key, payload)
    assert await side.admission.admit(slot, payload) is not None
    assert (await commands.hget(RUNNING, slot.field)).endswith(b" normal t")
    await side.slots.ack(slot, payload)
    assert not await commands.exists(RUNNING)


@pytest.mark.parametrize("way", ["handed back", "lost"])
async def test_a_job_that_names_a_worker_is_put_back_into_no_line(way: str, side: Side, commands: Any) -> None:
    payload = json.dumps({"id": "a", "type": "completion", "worker": "w1", "data": {"prompt": "x"}}).encode()
    slot = side.slot("only-0", home="llama_queue")
    side.slots.expect(slot)
    await side.lease.beat()
    await commands.lpush(slot.key, payload)
    claim = await side.admission.admit(slot, payload)
    assert claim is not None
    if way == "handed back":
        await side.claims.hand_back(claim.held, in_good_order=True)
    else:
        await side.lease.end()
    assert await commands.lrange("llama_queue", 0, -1) == [payload]
    assert not await commands.exists(TEXT)


async def test_what_somebody_else_puts_in_the_way_is_told_and_waited_out(
    side: Side, commands: Any, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    await commands.set("{llama_queue}:fair:text", "in the way")
    async with anyio.create_task_group() as group:
        group.start_soon(producer.push, "a")
        while "{llama_queue}:fair:text" not in caplog.text:
            await anyio.sleep(0.005)
        await commands.delete("{llama_queue}:fair:text")
    await commands.set("{llama_queue}:fair:text:low", "in the way")
    assert await side.slots.take(TEXT, side.slot()) is None
    await commands.delete("{llama_queue}:fair:text:low")
    await commands.set("{llama_queue}:line:text:normal:b", "in the way")
    other = await producer.push("b")
    assert {await run(side), await run(side, "text-1")} >= {other}


async def test_jobs_that_wait_in_lines_are_counted(
    side: Side, commands: Any, redis_url: str, producer: Producer
) -> None:
    for tenant in ("a", None, "b"):
        await producer.push(tenant)
    waiting = (await Survey(side.link, seconds=5).look()).waiting["text"]
    assert waiting.jobs == 3
    assert await Fleet(side.link, "w2").waiting(Kind.TEXT) == 3
    async with Client(redis_url) as client:
        assert (await client.queue_depths()).waiting["text"].jobs == 3
    await side.slots.take(TEXT, side.slot())
    assert await commands.zcard("{llama_queue}:lines:text") == 2


async def test_what_waits_of_each_priority_is_told_with_the_oldest(
    side: Side, commands: Any, producer: Producer
) -> None:
    for tenant, priority in [("a", "low"), ("b", "low"), (None, None), ("a", "high"), ("a", None)]:
        await producer.push(tenant, priority)
    tag = (await commands.lrange("{llama_queue}:line:text:low:b:tags", 0, -1))[0]
    await commands.zadd("{llama_queue}:lines:text:low", {tag: 1.0})
    told = (await Survey(side.link, seconds=5).look()).by_priority["text"]
    assert {priority: one.jobs for priority, one in told.items()} == {"high": 1, "normal": 2, "low": 2}
    assert told["low"].oldest > 1e9 > told["high"].oldest


async def test_lines_that_somebody_deletes_hold_nobody_up_and_are_counted_no_more(
    side: Side, commands: Any, producer: Producer
) -> None:
    for number in range(20):
        await producer.push(f"gone-{number}")
    await producer.push("shortened")
    last = await producer.push("shortened")
    waiting = await producer.push("z")
    for number in range(20):
        await commands.delete(f"{{llama_queue}}:line:text:normal:gone-{number}")
    await commands.lrem("{llama_queue}:line:text:normal:shortened", 1, last)
    slot = side.slot()
    with anyio.fail_after(0.9):
        served = [await run(side), await run(side)]
    assert waiting in served
    assert not await commands.exists("{llama_queue}:lines:text", "{llama_queue}:lines:text:normal")
    assert await commands.hget("{llama_queue}:fair:text", "lined") == b"0"
    assert not await commands.exists(slot.key)


async def test_nothing_counts_as_running_of_workers_that_older_ones_have_struck_off(
    side: Side, commands: Any, producer: Producer
) -> None:
    await producer.push("a")
    await side.slots.take(TEXT, side.slot())
    await commands.hset(RUNNING, mapping={"gone:text-0": "1.0 5 normal a", "odd": "odd"})
    await side.reaper.look()
    assert await commands.hkeys(RUNNING) == [b"w1:text-0"]


async def test_whoever_waits_is_called_although_another_consumer_of_the_worker_has_just_begun_a_job(
    side: Side, commands: Any, producer: Producer
) -> None:
    begun, waits = side.slot("text-0"), side.slot("text-1")
    share = share_of(await read_job(await producer.push("a"), max_bytes=MAX_BYTES), 100)
    assert await run(side) is not None
    assert await side.link.scripts.take(side.link.keys, Kind.TEXT, waits) is None
    await side.link.scripts.got(side.link.keys, Kind.TEXT, begun, share)
    pushed = await producer.push("a")
    assert await commands.lrange(TEXT, 0, -1) == [pushed]
    assert await run(side, "text-2") == pushed
