"""The publisher: in order, once each, first token at once, never a gap; a former owner writes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.redis_side import Side
from tests.support.servers import Topology
from velesio_worker import job_stream as stream_module
from velesio_worker.job_stream import Batch, JobStream
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Outage
from velesio_worker.stream import Publisher
from velesio_worker.wire.errors import AbandonedError, FencedError, InternalError, StoppedError, StreamLostError

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]


async def ids(commands: Any, job_id: str = "a") -> list[str]:
    return [entry_id.decode() for entry_id, _ in await commands.xrange(f"stream:{job_id}")]


async def test_entries_have_the_protocols_ids_and_fields(side: Side, commands: Any) -> None:
    stream = side.publisher.open("a", 1)
    stream.put("start", b'{"x":1}')
    stream.put("token", b'{"y":2}')
    await stream.flushed()
    assert await commands.xrange("stream:a") == [
        (b"1-0", {b"event": b"start", b"data": b'{"x":1}'}),
        (b"1-1", {b"event": b"token", b"data": b'{"y":2}'}),
    ]
    assert 0 < await commands.ttl("stream:a") <= 200 + 600  # and WORKER_TIMEOUT


async def test_what_gathers_during_a_flush_leaves_with_the_next_in_order(side: Side, commands: Any) -> None:
    streams = [side.publisher.open(name, 1) for name in ("a", "b", "c")]
    for number in range(2000):
        streams[number % 3].put("token", b"%d" % number)
        if number % 100 == 0:
            await anyio.lowlevel.checkpoint()
    for name, stream in zip(("a", "b", "c"), streams, strict=True):
        await stream.flushed()
        assert await ids(commands, name) == [f"1-{number}" for number in range(stream.next_sequence)]


async def test_a_former_owner_writes_nothing_and_is_told(side: Side, commands: Any) -> None:
    old, new = side.publisher.open("a", 1), side.publisher.open("a", 2)
    old.put("start", b"{}")
    await old.flushed()
    new.put("start", b"{}")
    await new.flushed()
    old.put("token", b"{}")
    with pytest.raises(FencedError):
        await old.flushed()
    with pytest.raises(FencedError):
        await old.room()
    assert await ids(commands) == ["1-0", "2-0"]


async def test_a_deleted_stream_is_not_resurrected(side: Side, commands: Any) -> None:
    stream = side.publisher.open("a", 1)
    stream.put("start", b"{}")
    await stream.flushed()
    await commands.delete("stream:a")
    stream.put("token", b"{}")
    with pytest.raises(AbandonedError):
        await stream.flushed()
    assert not await commands.exists("stream:a")


async def test_a_key_of_another_type_fails_this_job_only(side: Side, commands: Any) -> None:
    await commands.set("stream:a", "in the way")
    blocked, free = side.publisher.open("a", 1), side.publisher.open("b", 1)
    blocked.put("start", b"{}")
    free.put("start", b"{}")
    with pytest.raises(InternalError, match="stream:a"):
        await blocked.flushed()
    await free.flushed()
    assert await ids(commands, "b") == ["1-0"]


async def test_a_publisher_that_has_stopped_leaves_nobody_waiting(redis_url: str, commands: Any) -> None:
    publisher = Publisher(Link(commands, Keys("q"), Outage(redis_url)), ttl=100)
    before, after = publisher.open("a", 1), publisher.open("b", 1)
    before.put("start", b"{}")
    async with anyio.create_task_group() as group:
        group.cancel_scope.cancel()
        group.start_soon(publisher.run)
    after.put("start", b"{}")
    for stream in (before, after):
        with anyio.fail_after(60), pytest.raises(StoppedError):
            await stream.flushed()


async def test_redis_that_takes_no_writes_loses_no_entry(side: Side, commands: Any, topology: Topology) -> None:
    stream = side.publisher.open("a", 1)
    with topology.taking_no_writes():
        for number in range(5):
            stream.put("token", b"%d" % number)
        with anyio.move_on_after(0.3) as waited:
            await stream.flushed()
        assert waited.cancelled_caught
    with anyio.fail_after(60):
        await stream.flushed()
    assert await ids(commands) == [f"1-{number}" for number in range(5)]


async def published(side: Side, count: int) -> JobStream:
    stream = side.publisher.open("a", 1)
    stream.put("start", b"mine")
    for number in range(1, count):
        stream.put("token", b"%d" % number)
    await stream.flushed()
    return stream


async def test_entries_that_redis_acknowledged_and_lost_are_written_again(side: Side, commands: Any) -> None:
    stream = await published(side, 20)
    kept = (await commands.xrange("stream:a"))[:12]
    await commands.delete("stream:a")
    for entry_id, fields in kept:
        await commands.xadd("stream:a", fields, id=entry_id)
    stream.put("done", b"{}")
    await stream.flushed()
    assert await ids(commands) == [f"1-{number}" for number in range(21)]


async def test_a_whole_stream_that_was_lost_with_redis_is_written_again(side: Side, commands: Any) -> None:
    stream = await published(side, 5)
    await commands.delete("stream:a")
    side.outage.noticed(RedisConnectionError("failing over"))
    stream.put("done", b"{}")
    await stream.flushed()
    assert await ids(commands) == [f"1-{number}" for number in range(6)]


async def test_where_too_much_was_lost_the_attempt_ends_rather_than_leave_a_gap(side: Side, commands: Any) -> None:
    stream = await published(side, stream_module.RECENT_ENTRIES + 10)
    await commands.delete("stream:a")
    await commands.xadd("stream:a", {"event": "start", "data": "mine"}, id="1-0")
    stream.put("done", b"{}")
    with pytest.raises(StreamLostError):
        await stream.flushed()
    assert await ids(commands) == ["1-0"]


async def test_two_that_begin_the_same_attempt_do_not_mix(side: Side, commands: Any) -> None:
    await published(side, 3)
    other = side.publisher.open("a", 1)
    other.put("start", b"theirs")
    other.put("token", b"x")
    with pytest.raises(StreamLostError):
        await other.flushed()
    assert await ids(commands) == ["1-0", "1-1", "1-2"]


async def test_a_redis_that_forgot_its_scripts_is_told_again(side: Side, commands: Any) -> None:
    await commands.script_flush()
    stream = await published(side, 3)
    await commands.script_flush()
    stream.put("token", b"3")
    await stream.flushed()
    assert await ids(commands) == [f"1-{number}" for number in range(4)]


class FlakyPublisher(Publisher):
    """Sends, and then loses the reply, or loses what was to be sent."""

    def __init__(self, *arguments: Any, faults: list[str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._faults = faults

    async def _send(self, flush: Sequence[Batch]) -> list[Any]:
        fault = self._faults.pop(0) if self._faults else ""
        if fault == "before":
            raise RedisConnectionError("lost before it was sent")
        replies = await super()._send(flush)
        if fault == "after":
            raise RedisConnectionError("the reply was lost")
        return replies


@pytest.mark.parametrize("faults", [["before"], ["after"], ["after", "after", "before", "after"]])
async def test_lost_replies_and_lost_commands_cost_no_entry_and_double_none(
    redis_url: str, commands: Any, faults: list[str]
) -> None:
    publisher = FlakyPublisher(Link(commands, Keys("q"), Outage(redis_url)), ttl=100, faults=list(faults))
    stream = publisher.open("a", 1)
    async with anyio.create_task_group() as group:
        group.start_soon(publisher.run)
        with anyio.fail_after(60):
            for number in range(10):
                stream.put("token", b"%d" % number)
                await stream.flushed()
        group.cancel_scope.cancel()
    entries = await commands.xrange("stream:a")
    assert [fields[b"data"] for _, fields in entries] == [b"%d" % number for number in range(10)]


async def _blocked_until_full(stream: JobStream, put: Callable[[], None], room: Callable[[], Awaitable[None]]) -> int:
    count = 0
    while True:
        put()
        count += 1
        with anyio.move_on_after(0.2) as waited:
            await room()
        if waited.cancelled_caught:
            return count
        assert stream.failure is None


@pytest.mark.parametrize(("size", "bound"), [(1, stream_module.JOB_ENTRIES), (100_000, 11)])
async def test_a_job_may_buffer_only_so_much(redis_url: str, commands: Any, size: int, bound: int) -> None:
    publisher = Publisher(
        Link(commands, Keys("q"), Outage(redis_url)), ttl=100
    )  # its run() is not running: nothing leaves
    stream = publisher.open("a", 1)
    data = b"x" * size
    count = await _blocked_until_full(stream, lambda: stream.put("token", data), stream.room)
    assert count == bound
    async with anyio.create_task_group() as group:
        group.start_soon(publisher.run)
        with anyio.fail_after(60):
            await stream.room()
        group.cancel_scope.cancel()
