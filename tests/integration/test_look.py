"""One look at the fleet tells all that is to be seen, in two round trips; a worker is drained by who may do that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
import orjson
import pytest
from redis.exceptions import NoPermissionError

from tests.support.redis_side import Side
from tests.support.running import Running
from tests.support.servers import Topology
from tests.support.waiting import until
from velesio_worker.client import Client, SyncClient
from velesio_worker.queue.control import Control
from velesio_worker.queue.rights import Party, rights_of

pytestmark = pytest.mark.anyio
topologies = pytest.mark.topologies

FACTS: Final[dict[str, str | int]] = {
    "version": "1",
    "kinds": "text",
    "running": 2,
    "text_state": "ready",
    "text_slots": 4,
    "text_running": 2,
    "pid": 7,
    "at": "5.000",
    "stage": "working",
    "tokens": 11,
    "jobs": orjson.dumps([{"id": "a", "type": "completion", "attempt": 1, "since": 3.0, "tokens": 5}]).decode(),
    "gpus": orjson.dumps([{"index": 0, "name": "H200", "used": 1, "total": 2}]).decode(),
}


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client


@topologies
async def test_a_look_tells_jobs_gpus_and_tokens(client: Client, side: Side) -> None:
    await side.scripts.beat(side.keys, "w2", 60, FACTS)
    view = await client.look()
    known = next(worker for worker in view.workers if worker.id == "w2")
    assert (known.details.tokens, known.details.stage, known.details.gpus[0].total) == (11, "working", 2)
    assert [job.id for job in known.details.jobs] == ["a"]
    assert view.depths.slots["text"] == 4
    assert view.lost == ()


@topologies
async def test_a_worker_whose_lease_ran_out_is_told_as_lost(client: Client, side: Side, commands: Any) -> None:
    await side.scripts.beat(side.keys, "w2", 60, FACTS)
    await commands.delete(side.keys.worker("w2"))
    assert (await client.look()).lost == ("w2",)


async def test_who_asks_for_workers_alone_is_spared_their_jobs(client: Client, side: Side) -> None:
    await side.scripts.beat(side.keys, "w2", 60, FACTS)
    assert {worker.details.jobs for worker in await client.workers()} == {()}


async def test_a_look_at_a_thousand_jobs_costs_as_many_commands_as_one_at_none(
    client: Client, side: Side, commands: Any
) -> None:
    async def cost() -> int:
        before = (await commands.info("stats"))["total_commands_processed"]
        await client.look()
        return (await commands.info("stats"))["total_commands_processed"] - before

    names = [f"w{number}" for number in range(10, 14)]
    for name in names:
        await side.scripts.beat(side.keys, name, 60, FACTS | {"jobs": "[]", "running": 0})
    await client.look()
    idle = await cost()
    job = {"id": "a", "type": "completion", "attempt": 1, "since": 3.0, "tokens": 5}
    for name in names:
        jobs = orjson.dumps([job | {"id": f"{name}-{number}"} for number in range(250)]).decode()
        await side.scripts.beat(side.keys, name, 60, FACTS | {"jobs": jobs, "running": 250})
    assert await cost() == idle < 50
    assert sum(len(worker.details.jobs) for worker in (await client.look()).workers) == 1000


@pytest.fixture
def drained() -> list[str]:
    return []


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def control(side: Side, commands: Any, running: Running, drained: list[str]) -> Control:
    link = side.linked(commands)
    return Control(commands, link, jobs=running, worker="w1", drain=lambda: drained.append("w1"))


@topologies
async def test_a_worker_hears_that_it_is_to_end_once(
    client: Client, control: Control, running: Running, drained: list[str]
) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(control.run)
        await client.drain("w2")
        await client.drain("w1")
        await until(lambda: drained)
        await client.drain("w1")
        await client.cancel("a")  # which is heard after it
        await until(lambda: running.cancelled)
        group.cancel_scope.cancel()
    assert drained == ["w1"]


async def test_it_hears_it_too_if_it_did_not_listen_when_it_was_said(
    redis_url: str, control: Control, drained: list[str]
) -> None:
    with SyncClient(redis_url) as client:
        client.drain("w1")
        assert client.look().lost == ()
    async with anyio.create_task_group() as group:
        group.start_soon(control.run)
        await until(lambda: drained)
        group.cancel_scope.cancel()


async def test_the_doorbell_alone_drains_nobody(
    client: Client, commands: Any, control: Control, running: Running, drained: list[str], side: Side
) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(control.run)
        await anyio.wait_all_tasks_blocked()
        await commands.xadd(side.keys.control, {"drain": "w1"})
        await client.cancel("a")
        await until(lambda: running.cancelled)
        group.cancel_scope.cancel()
    assert drained == []


async def test_an_operator_may_look_and_drain_and_a_gateway_may_not_drain(topology: Topology, redis_url: str) -> None:
    node = topology.nodes[0].client
    for party in (Party.OPERATOR, Party.GATEWAY):
        node.execute_command("ACL", "SETUSER", party, "on", ">secret", *rights_of(party, "llama_queue").rules())
    try:
        address = redis_url.removeprefix("redis://")
        async with Client(f"redis://operator:secret@{address}") as operator:
            await operator.look()
            await operator.cancel("a")
            await operator.drain("w1")
        async with Client(f"redis://gateway:secret@{address}") as gateway:
            await gateway.look()
            with pytest.raises(NoPermissionError):
                await gateway.drain("w1")
    finally:
        node.execute_command("ACL", "DELUSER", "operator", "gateway")


async def test_who_only_looks_on_is_no_reader(client: Client, commands: Any) -> None:
    await commands.xadd("stream:a", {"event": "done", "data": '{"finish_reason": "stop"}'}, id="1-0")
    assert [event.event async for event in client.events("a", reads=False)] == ["done"]
    assert not await commands.exists("{result:a}:reader")
    assert [event.event async for event in client.events("a")] == ["done"]
    assert await commands.exists("{result:a}:reader")
