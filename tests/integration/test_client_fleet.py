"""What a client sees of workers and queue, on every kind of Redis, whatever stands there."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from redis.exceptions import MovedError, NoPermissionError, RedisError

from tests.support.redis_side import Side
from tests.support.servers import RedisServer, Topology
from velesio_worker.client import Client, EngineInfo
from velesio_worker.client import fleet as module
from velesio_worker.queue import clients
from velesio_worker.queue.lines import Lines
from velesio_worker.wire.jobs import Kind
from velesio_worker.wire.limits import MOST_OFFERED_BYTES, MOST_OFFERED_NAMES

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

WORKERS: Final = "{llama_queue}:workers"
TEXT: Final[dict[str, str | int]] = {
    "version": "1.2.3",
    "kinds": "text",
    "running": 3,
    "text_state": "ready",
    "text_model": "red",
    "text_models": '["red","more/blue"]',
    "text_models_more": 4,
    "text_default": "red",
    "text_context": 8192,
    "text_exchanges": 1,
    "text_slots": 4,
    "text_running": 2,
    "text_reason": "",
}
IMAGE: Final[dict[str, str | int]] = {
    "image_state": "failed",
    "image_slots": 1,
    "image_running": 1,
    "image_reason": "no folder\n/srv/sd",
}
RED: Final = EngineInfo(
    state="ready",
    model="red",
    models=("red", "more/blue"),
    more=4,
    default="red",
    context=8192,
    exchanges=True,
    slots=4,
    running=2,
    reason="",
)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client


async def beat(side: Side, worker: str, facts: dict[str, str | int]) -> None:
    await side.scripts.beat(side.keys, worker, 60, facts)


async def test_where_nobody_works_nobody_is_seen(client: Client) -> None:
    assert await client.workers() == ()
    depths = await client.queue_depths()
    assert (depths.jobs, depths.dead, depths.running) == (0, 0, {"text": 0, "image": 0})


async def test_workers_are_seen_with_what_they_told(client: Client, side: Side) -> None:
    await beat(side, "w3", TEXT)
    await beat(side, "w2", TEXT | IMAGE | {"kinds": "text,image"})
    w1, w2, w3 = await client.workers()
    assert (w1.id, w1.kinds, w1.version) == ("w1", (), "")
    assert (w2.id, w2.kinds, w2.engines["text"]) == ("w2", ("text", "image"), RED)
    image = w2.engines["image"]
    assert (image.state, image.reason) == ("failed", "no folder\n/srv/sd")
    assert (image.model, image.models, image.default, image.context) == (None, (), None, None)
    assert (w3.id, w3.kinds, w3.version, w3.running) == ("w3", ("text",), "1.2.3", 3)
    assert all(0 < one.lease <= 60 for one in (w1, w2, w3))


async def test_a_worker_that_is_lost_or_has_left_is_not_seen(client: Client, side: Side, commands: Any) -> None:
    await beat(side, "w2", TEXT)
    await beat(side, "w3", TEXT)
    await commands.zrem(WORKERS, "w2")
    await commands.pexpire(side.keys.worker("w3"), 1)
    await commands.zadd(WORKERS, {"w4": time.time() + 60})
    assert [one.id for one in await client.workers()] == ["w1"]


@pytest.mark.parametrize(
    ("field", "value", "seen"),
    [
        ("text_models", "no json", ()),
        ("text_models", "7", ()),
        ("text_models", '{"red": 1}', ()),
        ("text_models", '["red", 7, null, "", ["blue"], "two\\nlines", "\\u202e"]', ("red",)),
        ("text_models", "[" * 10_000, ()),
        ("text_models", json.dumps(["x" * MOST_OFFERED_BYTES]), ()),
        ("text_models", json.dumps(["x"] * 1000), ("x",) * MOST_OFFERED_NAMES),
        ("text_models_more", "many", 0),
        ("text_default", b"\xff\n", None),
        ("text_default", "x" * 10_000, None),
        ("text_context", "-1", None),
        ("text_context", "9" * 30, None),
        ("text_exchanges", "yes", False),
        ("text_slots", b"\x00", 0),
        ("text_running", "1e3", 0),
        ("text_state", "ready\x1b[2J", ""),
        ("text_reason", "x" * 1_000_000, "x" * 2048),
    ],
)
async def test_what_is_damaged_is_passed_over(
    client: Client, side: Side, commands: Any, field: str, value: str | bytes, seen: object
) -> None:
    await beat(side, "w2", TEXT)
    await beat(side, "w3", TEXT)
    await commands.hset(side.keys.worker("w2"), field, value)
    _, w2, w3 = await client.workers()
    assert getattr(w2.engines["text"], field.removeprefix("text_").replace("models_", "")) == seen
    assert w3.engines["text"] == RED


async def test_names_keys_and_leases_of_no_worker_are_passed_over(client: Client, side: Side, commands: Any) -> None:
    await beat(side, "w2", TEXT)
    await beat(side, "forever", TEXT)
    await commands.persist(side.keys.worker("forever"))
    await beat(side, "long", TEXT)
    await commands.expire(side.keys.worker("long"), 10**6)
    await commands.set(side.keys.worker("foreign"), "x", ex=60)
    await commands.rpush(side.keys.worker("list"), "x")
    names = ["foreign", "list", "no name", "a:b", "x" * 200, b"\xff"]
    await commands.zadd(WORKERS, dict.fromkeys(names, time.time() + 60))
    await commands.set(side.keys.only("w2"), "no list")
    assert [one.id for one in await client.workers()] == ["w1", "w2"]
    assert (await client.queue_depths()).named == 0
    await commands.delete(WORKERS)
    await commands.set(WORKERS, "no set")
    assert await client.workers() == ()


async def test_jobs_are_counted_wherever_they_wait(client: Client, side: Side, commands: Any) -> None:
    await beat(side, "w2", TEXT | IMAGE | {"kinds": "text,image"})
    await beat(side, "w3", TEXT)
    lists = {"incoming": "llama_queue", **{kind.value: side.keys.ready(kind) for kind in Kind}}
    for number, key in enumerate([*lists.values(), side.keys.suspects, side.keys.dead, side.keys.only("w3")], start=1):
        await commands.lpush(key, *["job"] * number)
    depths = await client.queue_depths()
    assert {name: one.jobs for name, one in depths.waiting.items()} == {
        name: number for number, name in enumerate(lists, start=1)
    }
    assert (depths.suspects, depths.dead, depths.named) == (6, 7, 8)
    assert depths.jobs == 1 + 2 + 3 + 4 + 5 + 6 + 8
    assert (depths.slots, depths.running) == ({"text": 8, "image": 1}, {"text": 4, "image": 1})


async def test_what_waits_is_told_by_priority(
    client: Client, side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for priority, ages in {"high": [5], "normal": [7], "low": [90, 3, 2]}.items():
        for age in ages:
            for key in (side.keys.lines(Kind.TEXT), side.keys.lines(Kind.TEXT, priority)):
                await commands.zadd(key, {f"{age}:1": now - age})
    await commands.hset(side.keys.share(Kind.TEXT), "lined", 5)
    await commands.lpush(side.keys.ready(Kind.TEXT), json.dumps({"id": "a", "created_at": now - 20}))
    await commands.set(side.keys.lines(Kind.IMAGE, "low"), "in the way")
    depths = await client.queue_depths()
    assert {name: one.jobs for name, one in depths.by_priority["text"].items()} == {"high": 1, "normal": 2, "low": 3}
    ages = {name: round(one.oldest, -1) for name, one in depths.by_priority["text"].items()}
    assert (ages["normal"], ages["low"]) == (20, 90)
    assert {one.jobs for one in depths.by_priority["image"].values()} == {0}
    assert depths.waiting["text"].jobs == 6
    plain = clients.ask

    async def narrow(redis: Any, words: Any) -> Any:
        if any(command[0] == "ZCARD" for command in words):
            raise NoPermissionError("this user has no permissions to run the 'zcard' command")
        return await plain(redis, words)

    monkeypatch.setattr(module, "ask", narrow)
    depths = await client.queue_depths()
    assert (depths.by_priority, depths.waiting["text"].jobs) == ({}, 6)


async def test_the_oldest_job_is_as_old_as_it_says(client: Client, commands: Any) -> None:
    def job(age: float) -> bytes:
        return json.dumps({"id": "a", "type": "completion", "created_at": time.time() - age}).encode()

    await commands.lpush("llama_queue", job(90), job(5))
    depths = await client.queue_depths()
    assert (depths.waiting["incoming"].jobs, depths.waiting["text"].oldest) == (2, 0)
    assert 90 <= depths.waiting["incoming"].oldest < 150
    await commands.rpop("llama_queue")
    assert 5 <= (await client.queue_depths()).waiting["incoming"].oldest < 65


async def test_a_large_job_is_read_once_in_a_while(
    client: Client, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = {"id": "a", "type": "completion", "created_at": time.time() - 90, "data": {"prompt": "x" * 200_000}}
    await commands.lpush("llama_queue", json.dumps(payload))
    asked: list[Any] = []
    plain = clients.ask

    async def noted(redis: Any, words: Any) -> Any:
        asked.extend(command for command in words if command[:2] == ("LINDEX", "llama_queue"))
        return await plain(redis, words)

    monkeypatch.setattr(module, "ask", noted)
    for _ in range(3):
        assert 90 <= (await client.queue_depths()).waiting["incoming"].oldest < 150
    assert len(asked) == 1


async def test_a_list_that_is_none_counts_as_empty(client: Client, side: Side, commands: Any) -> None:
    await commands.set(side.keys.ready(Kind.TEXT), "in the way")
    await commands.set(side.keys.dead, "in the way")
    await commands.lpush("llama_queue", b"\xff no job")
    depths = await client.queue_depths()
    assert (depths.waiting["text"].jobs, depths.dead, depths.waiting["incoming"].jobs) == (0, 0, 1)


async def test_redis_that_does_not_answer_is_an_error(topology: Topology, own_redis: RedisServer) -> None:
    assert topology
    async with Client(own_redis.url) as client:
        with pytest.raises(RedisError):
            await client.workers()
        with pytest.raises(RedisError):
            await client.queue_depths()


async def test_on_a_cluster_what_a_pipeline_cannot_have_is_asked_one_by_one(
    client: Client, side: Side, topology: Topology, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pipelines go where a slot was; plain commands learn where it is."""

    async def moved(*_: object, **__: object) -> list[Any]:
        raise MovedError("1 127.0.0.1:1")

    await beat(side, "w2", TEXT)
    await commands.set(side.keys.worker("foreign"), "x", ex=60)
    await commands.zadd(WORKERS, {"foreign": time.time() + 60})
    await commands.lpush("llama_queue", "a job")
    monkeypatch.setattr(clients, "execute", moved)
    if "cluster" in topology.url:
        assert [one.id for one in await client.workers()] == ["w1", "w2"]
        assert (await client.queue_depths()).running["text"] == 2
        assert (await Lines(commands, side.keys).look()).incoming == 1
    else:
        with pytest.raises(RedisError):
            await client.workers()
