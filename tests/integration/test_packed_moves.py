"""What the publisher sends packed finds the primary that there is now: after a failover, and where slots have moved."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.loops import anyio_backend, nothing_is_left
from tests.support.topologies import SLOTS, ClusterServers, SentinelServers
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Outage
from velesio_worker.stream import Publisher

__all__ = ["anyio_backend", "nothing_is_left"]  # fixtures

pytestmark = [pytest.mark.anyio, pytest.mark.several_redis]

PATIENCE = 60.0


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[tuple[Publisher, Any]]:
    client = connect(url, name="publishes")
    publisher = Publisher(Link(client, Keys("q"), Outage(url)), ttl=100)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(publisher.run)
            yield publisher, client
            group.cancel_scope.cancel()
    finally:
        await client.aclose()


async def test_a_primary_that_takes_no_writes_any_more_is_left_for_the_new_one(tmp_path: Path) -> None:
    with SentinelServers(tmp_path) as servers:
        async with publishing(servers.url) as (publisher, client):
            stream = publisher.open("a", 1)
            with anyio.fail_after(PATIENCE):
                for number in range(3):
                    stream.put("token", b"%d" % number)
                    await stream.flushed()
                await anyio.to_thread.run_sync(servers.failover)
                for number in range(3, 6):
                    stream.put("token", b"%d" % number)
                    await stream.flushed()
                await anyio.to_thread.run_sync(servers.wait_in_sync)  # the old primary is a replica from now on
                stream.put("token", b"6")
                await stream.flushed()
            entries = await client.xrange("stream:a")
            assert [fields[b"data"] for _, fields in entries] == [b"%d" % number for number in range(7)]


async def test_a_slot_that_has_moved_is_followed(tmp_path: Path) -> None:
    with ClusterServers(tmp_path) as servers:
        async with publishing(servers.url) as (publisher, client):
            slot: int = client.keyslot("stream:b")
            source = servers.nodes[slot * 3 // SLOTS]
            target = next(node for node in servers.nodes if node is not source)
            before, after = publisher.open("a", 1), publisher.open("b", 1)
            with anyio.fail_after(PATIENCE):
                before.put("token", b"0")
                await before.flushed()
                number = target.client.execute_command("CLUSTER", "MYID")
                for node in (target, source, *(other for other in servers.nodes if other not in (source, target))):
                    node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", number)
                for stream in (after, before):
                    stream.put("token", b"1")
                    await stream.flushed()
            assert target.client.exists("stream:b")
            assert await client.xlen("stream:a") == 2


async def test_a_cluster_whose_node_is_lost_has_all_told_once_it_is_back(tmp_path: Path) -> None:
    with ClusterServers(tmp_path) as servers:
        async with publishing(servers.url) as (publisher, client):
            streams = [publisher.open(f"job-{number}", 1) for number in range(12)]
            with anyio.fail_after(PATIENCE):
                for stream in streams:
                    stream.put("token", b"0")
                for stream in streams:
                    await stream.flushed()
                servers.kill(1)
                for stream in streams:
                    stream.put("token", b"1")
                await anyio.to_thread.run_sync(servers.restart, 1)
                for stream in streams:
                    await stream.flushed()
            assert [await client.xlen(stream.key) for stream in streams] == [2] * 12
