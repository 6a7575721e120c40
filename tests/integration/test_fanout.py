"""One process shows any job to anybody: all of it, in order, from any point, over few connections."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from redis.exceptions import RedisError

from tests.support.servers import RedisServer, Topology
from tests.support.topologies import ClusterServers, SentinelServers
from tests.support.viewing import Screen, shown, write
from tests.support.waiting import until
from velesio_worker.client.fanout import Bounds, EndReason, Hub, HubClosedError, ViewEnd, tails
from velesio_worker.client.fanout.lines import Lines
from velesio_worker.client.fanout.tails import Tail
from velesio_worker.queue.connection import connect
from velesio_worker.queue.outage import Outage
from velesio_worker.wire.events import StreamEvent

pytestmark = pytest.mark.anyio

topologies = pytest.mark.topologies

ALL = ["1-0", "1-1", "1-2", "1-3"]


async def watched(hub: Hub, job_id: str, after: str = "0-0") -> list[StreamEvent]:
    with anyio.fail_after(60):
        return [event async for batch in hub.watch(job_id, after) for event in batch]


@topologies
async def test_who_comes_before_the_job_sees_all_of_it(commands: Any, redis_url: str) -> None:
    async with Hub(redis_url) as hub, shown(hub, ("a", "0-0"), ("b", "0-0")) as (a, b):
        await anyio.wait_all_tasks_blocked()
        await write(commands, "a", ["x"])
        await a.has(2)
        await write(commands, "b", ["p", "q"], done=True)
        await write(commands, "a", ["y"], first=2, done=True)
    assert (a.ids, b.ids) == (ALL, ALL)
    assert [frame.event for frame in a.frames] == ["start", "token", "token", "done"]
    assert a.frames[2].data["choices"][0]["text"] == "y"
    assert a.end == b.end == ViewEnd(EndReason.ENDED, "1-3")


@topologies
async def test_any_entry_is_a_point_to_resume_from_once_the_job_is_over(commands: Any, redis_url: str) -> None:
    await write(commands, "a", ["x", "y"], done=True)
    async with Hub(redis_url) as hub:
        for position, after in enumerate(["0-0", *ALL]):
            async with shown(hub, ("a", after)) as (screen,):
                pass
            assert screen.ids == ALL[position:]
            assert screen.end == ViewEnd(EndReason.ENDED, "1-3")
            assert [event.id for event in await watched(hub, "a", after)] == ALL[position:]


@topologies
@pytest.mark.parametrize("ring", [3, 100])
async def test_any_entry_is_a_point_to_resume_from_while_it_runs(commands: Any, redis_url: str, ring: int) -> None:
    total = 12
    ids = [f"1-{sequence}" for sequence in range(total)]
    events: dict[str, list[StreamEvent]] = {}
    late = [Screen() for _ in ids]
    async with Hub(redis_url, bounds=Bounds(ring_entries=ring)) as hub:

        async def watch(after: str) -> None:
            events[after] = await watched(hub, "a", after)

        async with shown(hub, *[("a", "0-0")] * 2, *[("a", after) for after in ids]) as screens:
            first, *_ = screens
            for sequence in range(0, total - 2, 2):
                await write(commands, "a", ["x", "x"] if sequence else ["x"], first=sequence)
                await first.has(sequence + 2)
            async with anyio.create_task_group() as group:
                for screen, after in zip(late, ids, strict=True):
                    group.start_soon(screen.look, hub, "a", after)
                    group.start_soon(watch, after)
                await anyio.wait_all_tasks_blocked()
                await write(commands, "a", ["x"], first=total - 2, done=True)
    assert [screen.ids for screen in screens] == [ids, ids, *(ids[position + 1 :] for position in range(total))]
    assert [screen.ids for screen in late] == [ids[position + 1 :] for position in range(total)]
    assert [[event.id for event in events[after]] for after in ids] == [ids[at + 1 :] for at in range(total)]


@topologies
async def test_a_thousand_viewers_see_all_in_order_over_few_connections(
    commands: Any, redis_url: str, topology: Topology
) -> None:
    jobs = [f"job-{number}" for number in range(10)]
    async with Hub(redis_url) as hub, shown(hub, *[(job, "0-0") for job in jobs] * 100) as screens:
        for first in range(0, 30, 3):
            for job in jobs:
                await write(commands, job, ["x"] * (3 if first else 2), first=first)
        for node in topology.nodes:
            ours = [one for one in node.client.client_list() if one["name"] == "velesio-fanout"]
            assert len(ours) <= 5
        for job in jobs:
            await write(commands, job, ["x"], first=30, done=True)
    ids = [f"1-{sequence}" for sequence in range(32)]
    assert all(screen.ids == ids for screen in screens)
    counters = hub.counters
    assert (counters.viewers, counters.tails, counters.lagging, counters.dropped) == (0, 0, 0, 0)
    assert counters.frames == 32 * len(screens)
    assert counters.entries == 32 * len(jobs), "each is read once, however many see it"
    assert len(counters.delays) == len(jobs)
    assert all(0 <= delay < 60 for delay in counters.delays)


@topologies
async def test_a_job_that_is_over_and_gone_ends_with_what_its_result_says(commands: Any, redis_url: str) -> None:
    await commands.set("result:a", '{"text": "x", "finish_reason": "length", "usage": {"total_tokens": 3}}')
    await commands.set("result:b", '{"error": "too long", "code": "context_exceeded"}')
    async with Hub(redis_url) as hub, shown(hub, ("a", "1-7"), ("b", "0-0")) as (a, b):
        (event,) = await watched(hub, "a", "1-7")
    assert [(frame.id, frame.event, frame.data["finish_reason"]) for frame in a.frames] == [("1-8", "done", "length")]
    assert (event.id, event.event, event.data["usage"]) == ("1-8", "done", {"total_tokens": 3})
    assert [(frame.event, frame.data["code"]) for frame in b.frames] == [("error", "context_exceeded")]


@topologies
async def test_a_job_that_runs_while_it_is_looked_whether_it_is_over_is_not_gone(
    commands: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[str] = []
    piped = Lines._piped  # pyright: ignore[reportPrivateUsage]

    async def after_the_job(self: Lines, asked: Sequence[tuple[str, str, Any]]) -> list[Any]:
        if ("GET", "result:a", None) in asked:
            asked_for.append("result:a")
            await write(commands, "a", ["x", "y"], done=True)
            await commands.set("result:a", '{"text": "xy"}')
        return await piped(self, asked)

    monkeypatch.setattr(Lines, "_piped", after_the_job)
    async with connect(redis_url, name="test") as redis:
        looks = await Lines(redis, Outage(redis_url)).look([Tail("a", (0, 0), time.monotonic(), Bounds())])
    assert asked_for
    assert [look.over for look in looks] == [False], "all of it is there to be read"


async def test_a_stream_that_expires_under_its_viewers_ends_all_the_same(commands: Any, redis_url: str) -> None:
    async with Hub(redis_url) as hub, shown(hub, ("a", "0-0")) as (screen,):
        await write(commands, "a", ["x"])
        await screen.has(2)
        await commands.set("result:a", '{"text": "xy"}')
        await commands.delete("stream:a")
    assert screen.ids == ["1-0", "1-1", "1-2"]
    assert screen.frames[-1].event == "done"


@topologies
async def test_each_watched_job_has_a_reader_however_many_read_it(commands: Any, redis_url: str) -> None:
    async with Hub(redis_url) as hub, shown(hub, *[("a", "0-0")] * 5, ("b", "0-0")):
        for job in "ab":
            while not await commands.exists(f"{{result:{job}}}:reader"):
                await anyio.sleep(0.01)
        assert 10 < await commands.ttl("{result:a}:reader") <= 15
        for job in "ab":
            await write(commands, job, done=True)


@asynccontextmanager
async def writing(redis: Topology) -> AsyncGenerator[Any]:
    client = connect(redis.url, name="test")
    yield client
    await client.aclose()


async def until_written(writer: Any, job_id: str, tokens: Sequence[str], *, first: int, done: bool) -> None:
    """Write entries once Redis takes them; what it has already it refuses, which is no matter."""
    with anyio.fail_after(60):
        while True:
            with suppress(RedisError):
                await write(writer, job_id, tokens, first=first, done=done)
            with suppress(RedisError):
                ((_, fields),) = await writer.xrevrange(f"stream:{job_id}", count=1)
                if fields[b"event"] == b"done":
                    return
            await anyio.sleep(0.1)


async def test_the_writes_for_readers_are_one_a_job(own_redis: RedisServer) -> None:
    own_redis.start()
    async with writing(own_redis) as writer, Hub(own_redis.url) as hub, shown(hub, *[("a", "0-0")] * 50) as screens:
        await write(writer, "a", ["x"])
        for screen in screens:
            await screen.has(2)
        while not await writer.exists("{result:a}:reader"):
            await anyio.sleep(0.01)
        await write(writer, "a", first=2, done=True)
    assert own_redis.client.info("commandstats")["cmdstat_set"]["calls"] <= 3


async def test_a_user_who_may_only_read_sees_all(commands: Any, redis_url: str) -> None:
    await write(commands, "a", ["x", "y"], done=True)
    await commands.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~*", "+@read", "+@connection")
    try:
        async with (
            Hub(redis_url.replace("redis://", "redis://guest:pw@")) as hub,
            shown(hub, ("a", "0-0")) as (screen,),
        ):
            pass
    finally:
        await commands.execute_command("ACL", "DELUSER", "guest")
    assert screen.ids == ALL
    assert not await commands.exists("{result:a}:reader")


async def test_redis_is_started_again_and_all_goes_on_without_a_gap(own_redis: RedisServer) -> None:
    own_redis.start()
    late = Screen()
    async with Hub(own_redis.url) as hub, shown(hub, ("a", "0-0"), ("b", "0-0")) as (a, b):
        async with writing(own_redis) as writer:
            await write(writer, "a", ["x"])
            await a.has(2)
        own_redis.kill()
        async with anyio.create_task_group() as group:
            group.start_soon(late.look, hub, "a", "1-0")
            await anyio.sleep(0.3)
            own_redis.start()
            async with writing(own_redis) as writer:
                await write(writer, "a", ["y"], first=2, done=True)
                await write(writer, "b", ["p", "q"], done=True)
    assert (a.ids, b.ids, late.ids) == (ALL, ALL, ALL[1:])


@topologies
async def test_keys_that_are_no_streams_trouble_their_viewers_alone(commands: Any, redis_url: str) -> None:
    await commands.set("stream:no", "stream")
    async with Hub(redis_url) as hub, shown(hub, ("a", "0-0")) as (screen,):
        with pytest.raises(Exception, match="WRONGTYPE"):
            await watched(hub, "no")
        with pytest.raises(Exception, match="WRONGTYPE"):
            await hub.show("no", "0-0", Screen().send)
        await write(commands, "a", ["x", "y"], done=True)
    assert screen.ids == ALL


async def test_what_others_wrote_makes_no_frames_of_its_own(commands: Any, redis_url: str) -> None:
    await commands.xadd("stream:a", {"event": "to\nken", "data": '{"a":\n\n1}\r\nevent: done'}, id="1-0")
    await commands.xadd("stream:a", {"something": "else"}, id="1-1")
    await commands.xadd("stream:a", {"event": "done", "data": "{}"}, id="1-2")
    await commands.xadd("stream:a", {"event": "token", "data": "{}"}, id="1-3")
    async with Hub(redis_url) as hub, shown(hub, ("a", "0-0")) as (screen,):
        events = await watched(hub, "a")
    assert screen.sent.count(b"\n\n") == 3, "none behind the last"
    assert [event.id for event in events] == ["1-0", "1-1", "1-2"]
    assert screen.end == ViewEnd(EndReason.ENDED, "1-2")


async def test_an_entry_that_never_was_keeps_nothing_from_others(commands: Any, redis_url: str) -> None:
    async with Hub(redis_url) as hub, shown(hub, ("a", "9-999"), ("a", "1-1"), ("a", "0-0")) as screens:
        await anyio.wait_all_tasks_blocked()
        await write(commands, "a", ["x", "y"])
        await screens[2].has(3)
        await write(commands, "a", first=3, done=True)
    assert [screen.ids for screen in screens] == [[], ALL[2:], ALL]


@pytest.mark.parametrize("after", ["", "x", "1-", "-1", "1-1-1", "1 1", "1-99999999999999999999", "$", "1-1\n"])
async def test_what_is_no_entrys_id_is_refused(redis_url: str, after: str) -> None:
    async with Hub(redis_url) as hub:
        with pytest.raises(ValueError, match="no entry's id"):
            await hub.show("a", after, Screen().send)
        with pytest.raises(ValueError, match="no entry's id"):
            await watched(hub, "a", after)
        assert hub.counters.viewers == 0


async def test_a_hub_that_nobody_uses_asks_nothing_and_one_that_waits_little(own_redis: RedisServer) -> None:
    def asked() -> int:
        stats: dict[str, dict[str, int]] = own_redis.client.info("commandstats")
        return sum(stats.get(f"cmdstat_{command}", {}).get("calls", 0) for command in ("xread", "set", "get"))

    own_redis.start()
    async with Hub(own_redis.url) as hub:
        await anyio.sleep(0.3)
        assert asked() == 0
        with anyio.move_on_after(1):
            await hub.show("a", "0-0", Screen().send)
        assert 1 < asked() < 100
        before = asked()
        await anyio.sleep(0.3)
        assert asked() - before <= 1


@pytest.fixture
def soon_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "LIVELY_SECONDS", 0.2)


async def waits_for_silent(redis: Any) -> None:
    """Wait until a read waits for more than a tick."""
    for _ in range(1000):
        waiting = [
            client for client in await redis.client_list() if client["cmd"] == "xread" and "b" in client["flags"]
        ]
        if any(int(client["idle"]) >= 1 for client in waiting):
            return
        await anyio.sleep(0.01)
    pytest.fail("no read waits")


async def reads_in_a_second(redis: Any) -> int:
    before = (await redis.info("commandstats"))["cmdstat_xread"]["calls"]
    await anyio.sleep(1)
    return (await redis.info("commandstats"))["cmdstat_xread"]["calls"] - before


@pytest.mark.usefixtures("soon_silent")
async def test_streams_that_are_silent_are_waited_for_by_one_read_and_seen_at_once(own_redis: RedisServer) -> None:
    own_redis.start()
    jobs = [f"job-{number}" for number in range(20)]
    redis: Any = connect(own_redis.url, name="test")
    async with redis, Hub(own_redis.url) as hub, shown(hub, *[(job, "0-0") for job in jobs]) as screens:
        for job in jobs:
            await write(redis, job, ["x"])
        with anyio.fail_after(10):  # a clock reads them ten times a second until they were silent for longer
            while await reads_in_a_second(redis) > 1:
                pass
        await waits_for_silent(redis)
        with anyio.fail_after(1):
            await write(redis, jobs[7], ["y"], first=2)
            await screens[7].has(3)
            await write(redis, jobs[7], [], first=3, done=True)
            await write(redis, jobs[8], ["y"], first=2, done=True)
            await screens[7].has(4)
            await screens[8].has(4)
        for job in jobs[:7] + jobs[9:]:
            await write(redis, job, ["y"], first=2, done=True)
    assert [screen.ids for screen in screens] == [ALL] * len(jobs)


@pytest.mark.usefixtures("soon_silent")
async def test_silent_streams_that_stir_together_do_not_wait_for_one_another(own_redis: RedisServer) -> None:
    own_redis.start()
    jobs, took = [f"job-{number}" for number in range(20)], list[float]()
    redis: Any = connect(own_redis.url, name="test")
    async with redis, Hub(own_redis.url) as hub, shown(hub, *[(job, "0-0") for job in jobs]) as screens:
        for job in jobs:
            await write(redis, job, ["x", "y"])
        await waits_for_silent(redis)
        for first in range(0, len(jobs), 2):
            await write(redis, jobs[first], [], first=3, done=True)
            await screens[first].has(4)
            began = time.monotonic()
            await write(redis, jobs[first + 1], [], first=3, done=True)
            await screens[first + 1].has(4)
            took.append(time.monotonic() - began)
    assert min(took) < 0.05  # (a machine that is held up is so for a while)


@pytest.mark.usefixtures("soon_silent")
async def test_whoever_comes_from_further_back_to_a_silent_stream_sees_all_of_it(own_redis: RedisServer) -> None:
    own_redis.start()
    redis: Any = connect(own_redis.url, name="test")
    async with redis, Hub(own_redis.url) as hub, shown(hub, ("a", "1-1")) as (late,):
        await waits_for_silent(redis)
        async with shown(hub, ("a", "0-0")) as (early,):
            await anyio.wait_all_tasks_blocked()
            await write(redis, "a", ["x", "y"], done=True)
    assert early.ids == ALL
    assert late.ids == ALL[2:]


async def test_an_end_of_the_process_tells_viewers_where_to_resume(commands: Any, redis_url: str) -> None:
    errors: list[Exception] = []

    async def watch(hub: Hub) -> None:
        try:
            await watched(hub, "a")
        except HubClosedError as error:
            errors.append(error)

    screen = Screen()
    async with anyio.create_task_group() as group, Hub(redis_url) as hub:
        group.start_soon(screen.look, hub, "a")
        group.start_soon(watch, hub)
        await write(commands, "a", ["x"])
        await screen.has(2)
        hub.dismiss()
        await until(lambda: screen.end)
        assert not errors, "who has to answer a request goes on"
    assert screen.end == ViewEnd(EndReason.STOPPED, "1-1")
    assert screen.frames[-1] == ("1-1", "closed", {"reason": "stopped", "after": "1-1"})
    assert len(errors) == 1
    with pytest.raises(HubClosedError):
        await hub.show("a", "0-0", screen.send)


@topologies
async def test_a_long_history_is_seen_whole_by_each_at_its_own_pace(commands: Any, redis_url: str) -> None:
    texts = ["x" * 50] * 2000
    await write(commands, "a", texts, done=True)
    bounds = Bounds(ring_entries=64, ring_bytes=4096, send_bytes=1000)
    async with Hub(redis_url, bounds=bounds) as hub, shown(hub, ("a", "0-0"), ("a", "1-700")) as (whole, part):
        events = await watched(hub, "a")
    ids = [f"1-{sequence}" for sequence in range(2002)]
    assert (whole.ids, part.ids, [event.id for event in events]) == (ids, ids[701:], ids)


async def test_a_batch_is_yielded_as_it_was_read(commands: Any, redis_url: str) -> None:
    await write(commands, "a", ["x", "y"], done=True)
    batches: list[Sequence[StreamEvent]] = []
    async with Hub(redis_url) as hub:
        async for batch in hub.watch("a"):
            batches.append(batch)  # noqa: PERF401 (the batches are the point)
    assert [[event.id for event in batch] for batch in batches] == [ALL]
    assert json.dumps(batches[0][1].data) == json.dumps({"choices": [{"text": "x", "index": 0, "finish_reason": None}]})


@pytest.mark.several_redis
async def test_a_failover_is_gone_through_without_a_gap(tmp_path: Path) -> None:
    with SentinelServers(tmp_path) as servers:
        async with Hub(servers.url) as hub, shown(hub, ("a", "0-0")) as (screen,):
            async with writing(servers) as writer:
                await write(writer, "a", ["x"])
            await screen.has(2)
            await anyio.to_thread.run_sync(servers.failover)
            async with writing(servers) as writer:
                await until_written(writer, "a", ["y"], first=2, done=True)
    assert screen.ids == ALL


@pytest.mark.several_redis
async def test_a_node_of_a_cluster_is_started_again_and_all_goes_on_without_a_gap(tmp_path: Path) -> None:
    jobs = [f"job-{number}" for number in range(12)]  # on all nodes
    with ClusterServers(tmp_path) as servers:
        async with Hub(servers.url) as hub, shown(hub, *[(job, "0-0") for job in jobs]) as screens:
            async with writing(servers) as writer:
                for job in jobs:
                    await write(writer, job, ["x"])
            for screen in screens:
                await screen.has(2)
            servers.kill(1)
            await anyio.sleep(0.5)
            await anyio.to_thread.run_sync(servers.restart, 1)
            async with writing(servers) as writer:
                for job in jobs:
                    await until_written(writer, job, ["y"], first=2, done=True)
    assert [screen.ids for screen in screens] == [ALL] * len(jobs)
