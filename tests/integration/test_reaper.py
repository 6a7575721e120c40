"""The reaper: a lost worker's jobs are the next to be taken; a living worker's are left alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.figures import rise
from tests.support.redis_side import Side
from tests.support.servers import Topology
from velesio_worker.queue.connection import connect
from velesio_worker.queue.lease import overdue
from velesio_worker.queue.outage import Outage
from velesio_worker.queue.reaper import SETTLE_SECONDS, Reaper
from velesio_worker.wire.jobs import Kind

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]
LEASE = 60
"""Long enough that a test which is held up for seconds finds what it has enrolled as it should be."""

MISSED = overdue(LEASE)
"""After so many seconds a beat counts as missed."""


@pytest.fixture
def reaper(side: Side, commands: Any) -> Reaper:
    return Reaper(side.linked(commands), "w1", lease_seconds=LEASE)


async def enrol(side: Side, commands: Any, *, beat_ago: float) -> None:
    """Have a worker ``w2`` that holds two jobs, has one that names it, and beat some time ago."""
    ready = side.keys.ready(Kind.TEXT)
    slots = [side.keys.slot("w2", name, home=ready) for name in ("text-0", "text-1")]
    await side.scripts.beat(side.keys, "w2", LEASE, {"state": "test"}, slots)
    await commands.zadd(side.keys.workers, {"w2": time.time() + LEASE - beat_ago})
    await commands.lpush(ready, b"waiting")
    await commands.lpush(slots[0].key, b"first")
    await commands.lpush(side.keys.only("w2"), b"for w2")


@pytest.fixture
async def connected(redis_url: str) -> AsyncIterator[None]:
    """A connection under the name of ``w2``."""
    client: Any = connect(redis_url, name="w2")
    await client.execute_command("PING")
    yield
    await client.aclose()


async def is_left_alone(commands: Any) -> bool:
    return await commands.lrange("{llama_queue}:active:w2:text-0", 0, -1) == [b"first"]


async def test_after_its_lease_a_workers_jobs_go_to_the_front(
    side: Side, commands: Any, reaper: Reaper, connected: None
) -> None:
    assert connected is None
    await enrol(side, commands, beat_ago=LEASE + 0.1)
    with rise("velesio_workers_reaped_total") as workers, rise("velesio_jobs_reaped_total") as jobs:
        assert await reaper.look() == 2
    assert (workers.by, jobs.by) == (1, 2)
    assert await commands.lrange("{llama_queue}:text", 0, -1) == [b"waiting", b"first"]
    assert await commands.lrange("llama_queue", 0, -1) == [b"for w2"]
    assert await commands.zrange("{llama_queue}:workers", 0, -1) == [b"w1"]
    assert not await commands.exists("{llama_queue}:slots:w2", "{llama_queue}:active:w2:text-0")
    assert not await commands.exists("{llama_queue}:worker:w2")
    with rise("velesio_workers_reaped_total") as workers:
        assert await reaper.look() == 0
    assert workers.by == 0


async def test_jobs_that_name_a_lost_worker_keep_their_order(side: Side, commands: Any, reaper: Reaper) -> None:
    await enrol(side, commands, beat_ago=LEASE + 1)
    await commands.lpush(side.keys.only("w2"), b"second for w2")
    await commands.lpush("llama_queue", b"other")
    assert await reaper.look() == 3
    assert await commands.lrange("llama_queue", 0, -1) == [b"other", b"second for w2", b"for w2"]


async def test_a_worker_that_missed_a_beat_and_has_no_connection_is_reaped_before_its_lease_ends(
    side: Side, commands: Any, reaper: Reaper
) -> None:
    await enrol(side, commands, beat_ago=MISSED + 0.5)
    assert await reaper.look() == 2


async def test_a_worker_that_missed_a_beat_but_is_connected_is_left_alone(
    side: Side, commands: Any, reaper: Reaper, connected: None
) -> None:
    assert connected is None
    await enrol(side, commands, beat_ago=MISSED + 0.5)
    assert await reaper.look() == 0
    assert await is_left_alone(commands)


async def test_a_worker_that_beats_is_left_alone_even_without_a_connection(
    side: Side, commands: Any, reaper: Reaper
) -> None:
    await enrol(side, commands, beat_ago=1)
    assert await reaper.look() == 0
    assert await is_left_alone(commands)


async def test_a_worker_that_beats_while_it_is_judged_is_left_alone(side: Side, commands: Any) -> None:
    await enrol(side, commands, beat_ago=LEASE + 1)
    (lease,) = await side.scripts.leases(side.keys, 0)
    await side.scripts.beat(side.keys, "w2", LEASE, {"state": "test"})
    assert await side.scripts.reap(side.keys, "w2", lease.ends, gone=False, lost=True) == -1
    assert await side.scripts.reap(side.keys, "w2", lease.ends, gone=True, lost=True) == -1
    assert await is_left_alone(commands)


async def test_a_worker_does_not_reap_itself(side: Side, commands: Any, reaper: Reaper) -> None:
    await commands.zadd(side.keys.workers, {"w1": 1})
    assert await reaper.look() == 0
    assert await commands.zscore(side.keys.workers, "w1") == 1


async def test_without_the_right_to_list_clients_the_lease_decides(
    side: Side, commands: Any, topology: Topology
) -> None:
    for node in topology.nodes:
        node.client.execute_command("ACL SETUSER limited on >secret ~* &* +@all -client|list")
    limited = connect(topology.url.replace("://", "://limited:secret@"), name="w1")
    reaper = Reaper(side.linked(limited), "w1", lease_seconds=LEASE)
    try:
        await enrol(side, commands, beat_ago=MISSED + 0.5)
        assert await reaper.look() == 0
        await commands.zadd(side.keys.workers, {"w2": time.time() - 0.1})
        assert await reaper.look() == 2
    finally:
        await limited.aclose()
        for node in topology.nodes:
            node.client.execute_command("ACL DELUSER limited")


def away(outage: Outage, seconds: float, *, ago: float = 0) -> None:
    """Have Redis been away for so long, until so long ago."""
    end = time.monotonic() - ago
    outage.past.append((end - seconds, end))


async def test_time_in_which_redis_was_away_does_not_count_against_a_lease(
    side: Side, commands: Any, reaper: Reaper, connected: None
) -> None:
    assert connected is None
    away(side.outage, 20, ago=1)
    await enrol(side, commands, beat_ago=LEASE + 2)
    assert await reaper.look() == 0
    assert await is_left_alone(commands)
    await enrol(side, commands, beat_ago=LEASE + 21.5)
    assert await reaper.look() > 0


async def test_after_an_outage_others_have_time_to_connect_and_beat(side: Side, commands: Any, reaper: Reaper) -> None:
    away(side.outage, 1, ago=1)
    await enrol(side, commands, beat_ago=1 + MISSED + 0.1)
    assert await reaper.look() == 0
    await enrol(side, commands, beat_ago=1 + MISSED + SETTLE_SECONDS + 0.1)
    assert await reaper.look() > 0


async def test_a_connection_that_breaks_again_and_again_does_not_keep_lost_workers_from_being_found(
    side: Side, commands: Any, reaper: Reaper, connected: None
) -> None:
    assert connected is None
    for ago in range(1, 30, 4):
        away(side.outage, 0.1, ago=ago)
    await enrol(side, commands, beat_ago=LEASE + 2)
    assert await reaper.look() == 2
