"""A slow viewer costs nobody else anything, and is told where to resume."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import anyio
import pytest

from tests.support.viewing import Screen, shown, write
from tests.support.waiting import until
from velesio_worker.client.fanout import Bounds, EndReason, Hub, ViewEnd

pytestmark = pytest.mark.anyio


@pytest.mark.topologies
async def test_a_slow_viewer_is_passed_over_and_given_up_beyond_the_bound(commands: Any, redis_url: str) -> None:
    bounds = Bounds(ring_entries=10, stall_seconds=60)
    slow = Screen()
    async with Hub(redis_url, bounds=bounds) as hub, shown(hub, ("a", "0-0"), ("a", "0-0")) as (one, two):
        async with anyio.create_task_group() as group:
            group.start_soon(slow.look, hub, "a")
            await write(commands, "a", ["x"])
            await slow.has(2)
            slow.take_nothing()
            for first in range(2, 62, 3):
                await write(commands, "a", ["x"] * 3, first=first)
                await one.has(first + 3)
                await two.has(first + 3)
            assert hub.counters.lagging == 1
            assert slow.end is None, "it may still take what waits for it"
            slow.take()
            await until(lambda: slow.end)
        assert hub.counters.dropped == 1
        assert slow.end is not None
        assert slow.end.reason is EndReason.TOO_SLOW
        *had, last = slow.frames
        assert [frame.id for frame in had] == [f"1-{sequence}" for sequence in range(len(had))]
        assert last == (had[-1].id, "closed", {"reason": "too_slow", "after": slow.end.after})
        again = Screen()
        async with anyio.create_task_group() as group:
            group.start_soon(again.look, hub, "a", slow.end.after)
            await write(commands, "a", ["x"], first=62, done=True)
    ids = [f"1-{sequence}" for sequence in range(64)]
    assert [frame.id for frame in had] + again.ids == ids, "no gap and no repetition"
    assert (one.ids, two.ids) == (ids, ids)


async def test_one_who_is_only_a_little_behind_gets_all(commands: Any, redis_url: str) -> None:
    async with Hub(redis_url) as hub, shown(hub, ("a", "0-0"), ("a", "0-0")) as (one, slow):
        await write(commands, "a", ["x"])
        await slow.has(2)
        slow.take_nothing()
        for first in range(2, 20):
            await write(commands, "a", ["x"], first=first)
            await one.has(first + 1)
        slow.take()
        await write(commands, "a", first=20, done=True)
    assert slow.ids == one.ids == [f"1-{sequence}" for sequence in range(21)]
    assert slow.pieces < one.pieces, "what has gathered goes in one piece"


async def test_one_who_takes_nothing_is_given_up(commands: Any, redis_url: str) -> None:
    async with Hub(redis_url, bounds=Bounds(stall_seconds=0.4)) as hub, shown(hub, ("a", "0-0")) as (other,):
        stuck = Screen(takes=False)
        async with anyio.create_task_group() as group:
            group.start_soon(stuck.look, hub, "a")
            await write(commands, "a", ["x"])
            await until(lambda: stuck.end)
        assert stuck.end == ViewEnd(EndReason.TOO_SLOW, "0-0")
        assert stuck.sent == b""
        assert hub.counters.lagging == 0
        await write(commands, "a", ["y"], first=2, done=True)
    assert other.ids == ["1-0", "1-1", "1-2", "1-3"]


async def test_a_stream_is_not_read_on_while_nobody_takes_it(commands: Any, redis_url: str) -> None:
    await write(commands, "a", ["x" * 1000] * 5000, done=True)
    bounds = Bounds(ring_entries=10, ring_bytes=10_000)
    async with Hub(redis_url, bounds=bounds) as hub:
        slow = Screen(takes=False)
        async with anyio.create_task_group() as group:
            group.start_soon(slow.look, hub, "a")
            await until(lambda: hub.counters.lagging)
            for _ in range(20):
                await anyio.sleep(0.01)
                assert hub.counters.entries <= 2 * 512
            slow.take()
        assert hub.counters.dropped == 0
    assert slow.ids == [f"1-{sequence}" for sequence in range(5002)]


async def test_what_is_kept_for_viewers_is_bounded(commands: Any, redis_url: str) -> None:
    bounds = Bounds(ring_entries=50, ring_bytes=20_000)
    async with Hub(redis_url, bounds=bounds) as hub, shown(hub, ("a", "0-0")) as (screen,):
        await until(lambda: hub.counters.tails)
        (tail,) = hub._tails.values()  # pyright: ignore[reportPrivateUsage]
        largest = 0
        for first in range(0, 3000, 100):
            await write(commands, "a", ["x" * 100] * (100 if first else 99), first=first)
            await screen.has(first + 100)
            largest = max(largest, tail.size, sum(len(entry.frame) for entry in tail.entries(tail.base)))
            assert tail.end - tail.base <= 100, "what one read brought, and no more"
        await write(commands, "a", first=3000, done=True)
    assert 0 < largest <= 100 * 300


async def test_an_idle_viewers_connection_is_kept_alive(commands: Any, redis_url: str) -> None:
    async with Hub(redis_url, bounds=Bounds(keep_alive_seconds=0.2)) as hub, shown(hub, ("a", "0-0")) as (screen,):
        await until(lambda: screen.sent.count(b": ping\n") >= 2)
        await write(commands, "a", ["x"], done=True)
    assert screen.ids == ["1-0", "1-1", "1-2"]
    assert screen.sent.startswith(b": ping\n: ping\n")


async def test_what_a_viewers_socket_raises_is_its_own_tasks(commands: Any, redis_url: str) -> None:
    async def broken(_: bytes) -> None:
        raise ConnectionResetError

    async def breaks(_: bytes) -> None:
        await anyio.sleep(0.01)
        raise ConnectionResetError

    async with Hub(redis_url) as hub, shown(hub, ("a", "0-0")) as (screen,):
        await write(commands, "a", ["x"])
        for send in (broken, breaks):
            with pytest.raises(ConnectionResetError):
                await hub.show("a", "0-0", send)
        await write(commands, "a", first=2, done=True)
    assert screen.ids == ["1-0", "1-1", "1-2"]
    assert hub.counters.lagging == 0


async def test_a_viewer_that_leaves_while_it_is_sent_something_is_forgotten(commands: Any, redis_url: str) -> None:
    ended: list[str] = []

    async def stuck(_: bytes) -> None:
        try:
            await anyio.sleep(math.inf)
        finally:
            ended.append("ended")

    async with Hub(redis_url) as hub:
        with suppress(TimeoutError), anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(hub.show, "a", "0-0", stuck)
                await write(commands, "a", ["x"])
                await until(lambda: hub.counters.lagging)
                group.cancel_scope.cancel()
        await until(lambda: ended)
        await until(lambda: not hub.counters.lagging)
        assert (hub.counters.viewers, hub.counters.tails) == (0, 0)
