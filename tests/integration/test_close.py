"""A job that ends in one step: either all of its end is in Redis or nothing, however often that is asked for."""

from __future__ import annotations

from typing import Any, Final

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tests.support.redis_side import Side
from velesio_worker.job_stream import JobStream
from velesio_worker.queue.claims import Held
from velesio_worker.queue.scripts import ClaimStatus, Entries
from velesio_worker.wire.events import Done

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

PAYLOAD: Final = b'{"id":"a"}'
RESULT: Final = b'{"text":"x"}'
LAST: Final = ("done", b'{"finish_reason":"stop"}')
KEYS: Final = ("{result:a}:job", "result:a", "{result:a}:cancel", "stream:a")


@pytest.fixture
async def stream(side: Side, commands: Any) -> JobStream:
    """The stream of a job that was claimed, lies in its slot, and has published two entries."""
    if not side.claims.at_once:
        pytest.skip("its keys lie on several servers")
    await commands.lpush(side.slot().key, PAYLOAD)
    assert (await side.scripts.claim("a", side.slot(), "n", 9)).attempt == 1
    stream = side.publisher.open("a", 1)
    stream.put("start", b"{}")
    stream.put("token", b'{"n":1}')
    await stream.flushed()
    return stream


async def close(side: Side, *, first: int = 2, parts: tuple[str | bytes, ...] = LAST) -> bool | None:
    return await side.scripts.close("a", side.slot(), 1, RESULT, 100, Entries(first, 200, parts), [""] * 5)


async def dumped(side: Side, commands: Any) -> list[bytes | None]:
    """All that the job has in Redis."""
    return [await commands.dump(key) for key in (*KEYS, side.slot().key)]


async def events(commands: Any) -> list[tuple[str, str]]:
    return [(number.decode(), fields[b"event"].decode()) for number, fields in await commands.xrange("stream:a")]


@pytest.mark.usefixtures("stream")
async def test_all_of_it_is_there_and_the_slot_is_free(side: Side, commands: Any) -> None:
    await commands.set("{result:a}:cancel", 1)
    assert await close(side, parts=("token", b'{"n":2}', *LAST)) is True
    assert await events(commands) == [("1-0", "start"), ("1-1", "token"), ("1-2", "token"), ("1-3", "done")]
    assert await commands.get("result:a") == RESULT
    assert 0 < await commands.ttl("result:a") <= 100
    assert 100 < await commands.ttl("stream:a") <= 200
    assert not await commands.exists(side.slot().key)
    assert not await commands.exists("{result:a}:cancel")
    known = await commands.hgetall("{result:a}:job")
    assert known[b"finished_by"] == b"w1:1"
    assert not {b"owner", b"slot", b"nonce"} & known.keys()
    assert (await side.scripts.claim("a", side.slot(), "m", 9)).status is ClaimStatus.FINISHED


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize("lost", [(), ("{result:a}:job",), ("result:a", "{result:a}:job")])
async def test_once_more_after_a_lost_reply_changes_nothing_and_puts_back_what_a_failover_lost(
    side: Side, commands: Any, lost: tuple[str, ...]
) -> None:
    assert await close(side) is True
    for key in lost:
        await commands.delete(key)
    assert await close(side) is (None if lost == ("{result:a}:job",) else True)
    assert await events(commands) == [("1-0", "start"), ("1-1", "token"), ("1-2", "done")]
    assert await commands.get("result:a") == RESULT


@pytest.mark.usefixtures("stream")
async def test_once_more_after_somebody_else_completed_the_stream_is_no_second_end(side: Side, commands: Any) -> None:
    await commands.xadd("stream:a", {"event": "done", "data": b"in other words"}, id="1-2")
    assert await close(side) is True
    assert [event for _, event in await events(commands)] == ["start", "token", "done"]


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize("how", ["owner", "attempt", "stream", "hole", "deleted", "foreign"])
async def test_whoever_may_not_end_the_job_changes_nothing_at_all(side: Side, commands: Any, how: str) -> None:
    match how:
        case "owner":
            await commands.hset("{result:a}:job", "owner", "w2")
        case "attempt":
            await commands.hset("{result:a}:job", "attempt", 2)
        case "stream":
            await commands.xadd("stream:a", {"event": "start", "data": "{}"}, id="2-0")
        case "deleted":
            await commands.delete("stream:a")
        case "foreign":
            await commands.xadd("stream:a", {"event": "token", "data": "{}"}, id="1-2")
        case _:
            pass
    before = await dumped(side, commands)
    assert await close(side, first=9 if how == "hole" else 2) is None
    assert await dumped(side, commands) == before


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize("key", ["{result:a}:job", "stream:a", "slot"])
async def test_a_key_of_another_type_keeps_all_of_it_from_being_done(side: Side, commands: Any, key: str) -> None:
    key = side.slot().key if key == "slot" else key
    await commands.delete(key)
    await commands.set(key, "somebody else's")
    before = await dumped(side, commands)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await close(side)
    assert await dumped(side, commands) == before


@pytest.mark.usefixtures("stream")
async def test_ids_that_others_used_up_keep_all_of_it_from_being_done(side: Side, commands: Any) -> None:
    await commands.delete("stream:a")
    await commands.xadd("stream:a", {"event": "token", "data": "{}"}, id="9-0")
    await commands.xdel("stream:a", "9-0")
    before = await dumped(side, commands)
    with pytest.raises(ResponseError, match="equal or smaller"):
        await close(side, first=0)
    assert await dumped(side, commands) == before


@pytest.mark.usefixtures("stream")
async def test_a_second_job_in_the_slot_is_left_there(side: Side, commands: Any) -> None:
    await commands.lpush(side.slot().key, b"second")
    assert await close(side) is False
    assert await commands.get("result:a") == RESULT
    assert await commands.lrange(side.slot().key, 0, -1) == [b"second", PAYLOAD]
    assert await side.claims.close(Held("a", side.slot(), PAYLOAD, 1), RESULT, 2, LAST)
    assert await commands.lrange(side.slot().key, 0, -1) == [b"second"]


async def test_the_closer_ends_a_job_with_one_command_what_waits_included(
    side: Side, commands: Any, stream: JobStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = recorded(side, monkeypatch)
    stream.put("token", b'{"n":2}')
    assert await side.closer.done(Held("a", side.slot(), PAYLOAD, 1), Done({"text": "x"}, "stop"), stream)
    assert sent == ["EVALSHA"]
    assert [event for _, event in await events(commands)] == ["start", "token", "token", "done"]
    assert not await commands.exists(side.slot().key)


async def test_a_lost_reply_is_asked_for_again(
    side: Side, commands: Any, stream: JobStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis: Any = side.link.redis
    first, lost = redis.execute_command, list[str]()

    async def without_reply(*words: Any, **options: Any) -> Any:
        reply = await first(*words, **options)
        if not lost:
            lost.append(words[0])
            raise RedisConnectionError("the reply was lost")
        return reply

    monkeypatch.setattr(redis, "execute_command", without_reply)
    assert await side.closer.done(Held("a", side.slot(), PAYLOAD, 1), Done({"text": "x"}, "stop"), stream)
    assert lost == ["EVALSHA"]
    assert [event for _, event in await events(commands)] == ["start", "token", "done"]


async def test_entries_that_a_failover_lost_are_written_again_before_the_end(
    side: Side, commands: Any, stream: JobStream
) -> None:
    await commands.delete("stream:a")
    await commands.xadd("stream:a", {"event": "start", "data": "{}"}, id="1-0")
    assert await side.closer.done(Held("a", side.slot(), PAYLOAD, 1), Done({"text": "x"}, "stop"), stream)
    assert await events(commands) == [("1-0", "start"), ("1-1", "token"), ("1-2", "done")]
    assert await commands.exists("result:a")
    assert not await commands.exists(side.slot().key)


def recorded(side: Side, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent from now on, publisher and closer together."""
    sent: list[str] = []
    redis: Any = side.link.redis
    send = redis.execute_command

    async def note(*words: Any, **options: Any) -> Any:
        sent.append(words[0])
        return await send(*words, **options)

    monkeypatch.setattr(redis, "execute_command", note)
    return sent
