"""The queue as one worker sees it, on every kind of Redis."""

from __future__ import annotations

import json
import time
from typing import Any, Final, cast

import anyio
import pytest
from redis.exceptions import RedisError

from tests.support.redis_side import Side
from tests.support.servers import RedisServer, Topology
from velesio_worker.queue import survey as module
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Outage
from velesio_worker.queue.survey import HEAD_BYTES, Survey, Waiting
from velesio_worker.wire.jobs import Kind

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

INCOMING: Final = "llama_queue"
TEXT: Final = "{llama_queue}:text"
SPARE_SECONDS: Final = module._SPARE_SECONDS  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def survey(side: Side, commands: Any) -> Survey:
    return Survey(side.linked(commands), seconds=30)


class Clock:
    """The survey's clock, which only moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(module.time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def job(job_id: str = "a", *, padding: int = 0, **fields: Any) -> bytes:
    return json.dumps({"id": job_id, "type": "completion", **fields, "data": {"prompt": "x" * padding}}).encode()


def waiting(jobs: int, oldest: float) -> Any:
    """So many jobs, the next one about that old."""
    return Waiting(jobs, cast("float", pytest.approx(oldest)))


async def test_an_empty_queue_has_nothing_but_this_worker(survey: Survey) -> None:
    view = await survey.look()
    assert view.waiting == dict.fromkeys(["incoming", *(kind.value for kind in Kind)], Waiting(0, 0.0))
    assert view.dead == 0
    assert view.leases.keys() == {"w1"}
    assert 0 < view.leases["w1"] <= 60
    assert view.alive == 1


async def test_each_list_is_counted(survey: Survey, side: Side, commands: Any) -> None:
    lists = {"incoming": INCOMING, **{kind.value: side.keys.ready(kind) for kind in Kind}}
    for number, key in enumerate(lists.values(), start=1):
        await commands.lpush(key, *[job(f"job-{n}") for n in range(number)])
    await commands.lpush(side.keys.dead, b"{}", b"{}")
    view = await survey.look()
    assert {name: one.jobs for name, one in view.waiting.items()} == {
        name: number for number, name in enumerate(lists, start=1)
    }
    assert view.dead == 2


async def test_workers_that_are_lost_have_leases_that_are_over(survey: Survey, side: Side, commands: Any) -> None:
    await side.scripts.beat(side.keys, "w2", 30, {})
    await commands.zadd(side.keys.workers, {"w3": time.time() - 100})
    view = await survey.look()
    assert view.alive == 2
    assert view.leases["w2"] <= 30
    assert -200 < view.leases["w3"] < -50


async def test_the_next_job_is_as_old_as_it_says(survey: Survey, commands: Any, clock: Clock) -> None:
    await commands.lpush(INCOMING, job("old", created_at=clock.now - 90), job("new", created_at=clock.now - 5))
    assert (await survey.look()).waiting["incoming"] == waiting(2, 90)
    clock.now += 10
    assert (await survey.look()).waiting["incoming"].oldest == pytest.approx(100)
    await commands.rpop(INCOMING)
    assert (await survey.look()).waiting["incoming"] == waiting(1, 15)


@pytest.mark.parametrize("fields", [{}, {"created_at": "yesterday"}, {"created_at": 3.5}, {"created_at": 4e12}])
async def test_one_that_does_not_say_is_as_old_as_it_has_been_next(
    survey: Survey, commands: Any, clock: Clock, fields: dict[str, Any]
) -> None:
    await commands.lpush(TEXT, job("a", **fields), job("b", **fields))
    assert (await survey.look()).waiting["text"] == Waiting(2, 0.0)
    clock.now += 7
    assert (await survey.look()).waiting["text"].oldest == pytest.approx(7)
    await commands.rpop(TEXT)
    clock.now += 1
    assert (await survey.look()).waiting["text"].oldest == 0, "the next one has only just become that"
    await commands.rpop(TEXT)
    assert (await survey.look()).waiting["text"] == Waiting(0, 0.0)
    await commands.lpush(TEXT, job("b", **fields))
    clock.now += 1
    assert (await survey.look()).waiting["text"].oldest == 0, "what was once next is forgotten"


@pytest.mark.parametrize("payload", [b"{", b"[1]", b"null", b"\xff\xfe", b'"created_at": 1', b"7"])
async def test_what_is_no_job_is_counted_all_the_same(
    survey: Survey, commands: Any, clock: Clock, payload: bytes
) -> None:
    await commands.lpush(INCOMING, payload)
    await survey.look()
    clock.now += 3
    assert (await survey.look()).waiting["incoming"] == waiting(1, 3)


async def test_a_large_job_is_not_carried_over_the_line_but_its_age_is_known(
    survey: Survey, commands: Any, clock: Clock, side: Side
) -> None:
    """Its ``created_at`` stands in front of its data, as the client writes it."""
    await commands.lpush(INCOMING, job("large", padding=4_000_000, created_at=clock.now - 90))
    assert (await survey.look()).waiting["incoming"] == waiting(1, 90)
    ((_, head, size),), _ = await side.scripts.heads(side.keys, {INCOMING: True}, HEAD_BYTES)
    assert (len(head), size > 4_000_000) == (HEAD_BYTES, True)
    clock.now += 10
    assert (await survey.look()).waiting["incoming"].oldest == pytest.approx(100)


async def test_a_large_job_that_does_not_say_is_told_from_another(survey: Survey, commands: Any, clock: Clock) -> None:
    await commands.lpush(INCOMING, job("large-1", padding=200_000), job("large-2", padding=200_000))
    await survey.look()
    clock.now += SPARE_SECONDS + 1
    assert (await survey.look()).waiting["incoming"].oldest == pytest.approx(31)
    await commands.rpop(INCOMING)
    clock.now += SPARE_SECONDS + 1
    assert (await survey.look()).waiting["incoming"].oldest == 0


async def test_a_prompt_cannot_say_when_its_job_was_made(survey: Survey, commands: Any) -> None:
    payload = {"id": "a", "type": "completion", "data": {"prompt": '"created_at": 1500000000 ' + "x" * 200_000}}
    await commands.lpush(INCOMING, json.dumps(payload, separators=(",", ":")).replace('\\"', '"').encode())
    assert (await survey.look()).waiting["incoming"].oldest < 60


async def test_two_workers_see_the_same(survey: Survey, commands: Any, side: Side) -> None:
    await commands.lpush(INCOMING, *[job(f"job-{number}", created_at=time.time() - 50) for number in range(3)])
    other = await Survey(side.linked(commands), seconds=30).look()
    view = await survey.look()
    assert {name: one.jobs for name, one in view.waiting.items()} == {
        name: one.jobs for name, one in other.waiting.items()
    }
    assert view.waiting["incoming"].oldest == pytest.approx(other.waiting["incoming"].oldest, abs=20)


async def test_a_look_changes_nothing(survey: Survey, commands: Any) -> None:
    await commands.lpush(INCOMING, job("a"), job("b"))
    before = await commands.lrange(INCOMING, 0, -1)
    await survey.look()
    assert await commands.lrange(INCOMING, 0, -1) == before


async def test_a_key_that_is_no_list_is_redis_trouble_and_no_end(survey: Survey, commands: Any) -> None:
    await commands.set(TEXT, "in the way")
    with pytest.raises(RedisError):
        await survey.look()
    await commands.delete(TEXT)
    assert (await survey.look()).waiting["text"] == Waiting(0, 0.0)


async def test_redis_that_does_not_answer_is_not_waited_for(topology: Topology, own_redis: RedisServer) -> None:
    assert topology
    client = connect(own_redis.url, name="test")
    survey = Survey(Link(client, Keys(INCOMING), Outage("redis://h")), seconds=0.2)
    with anyio.fail_after(20), pytest.raises(RedisError):
        await survey.look()
    await client.aclose()
