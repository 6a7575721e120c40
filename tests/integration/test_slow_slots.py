"""Slots and results over a line on which replies are slow or never come: no job is lost, none is held twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import pytest

from tests.support.redis_side import Side
from tests.support.waiting import until
from velesio_worker.queue import slots as slots_module
from velesio_worker.queue.claims import Claims, Held
from velesio_worker.queue.connection import connect
from velesio_worker.queue.slots import Slots

pytestmark = pytest.mark.anyio

QUEUE = "{llama_queue}:text"
ALONE = "{llama_queue}:manage"
"""A list that nothing lies beside: it is waited for at once."""


class SlowLine:
    """A client whose first replies never come, and whose reads of a slot take their time."""

    def __init__(self, client: Any, *, lost: int = 0, seconds: float = 0) -> None:
        self._client = client
        self._lost = lost
        self._seconds = seconds
        self.reads = 0

    async def blmove(self, *arguments: Any) -> Any:
        reply = await self._client.blmove(*arguments)
        if self._lost > 0:
            self._lost -= 1
            await asyncio.sleep(3600)
        return reply

    async def lindex(self, *arguments: Any) -> Any:
        self.reads += 1
        await asyncio.sleep(self._seconds)
        return await self._client.lindex(*arguments)


def over(side: Side, commands: Any, line: SlowLine) -> Slots:
    return Slots(cast("Any", line), side.linked(commands), side.lease)


async def test_a_move_whose_reply_never_comes_is_given_up_and_loses_no_job(
    side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "BLOCK_SECONDS", 0.2)
    monkeypatch.setattr(slots_module, "REPLY_SECONDS", 0.3)
    slots = over(side, commands, SlowLine(commands, lost=2))
    await commands.lpush(QUEUE, b"1", b"2", b"3")
    taken: list[bytes] = []
    for _ in range(20):  # five will do, unless replies are late for other reasons
        payload = await asyncio.wait_for(slots.take(QUEUE, side.slot()), 60)
        if payload is not None:
            taken.append(payload)
            assert await commands.lrange(side.slot().key, 0, -1) == [payload]
            await slots.ack(side.slot(), payload)
        if len(taken) == 3:
            break
    assert taken == [b"1", b"2", b"3"]


async def test_a_slot_that_is_slow_to_read_gets_more_time_with_each_try(
    side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "REPLY_SECONDS", 0.2)
    line = SlowLine(commands, lost=1, seconds=0.6)
    slots = over(side, commands, line)
    await commands.lpush(ALONE, b"1")
    assert await slots.take(ALONE, side.slot()) is None
    assert await asyncio.wait_for(slots.take(ALONE, side.slot()), 60) == b"1"
    assert line.reads >= 3, "0.2 and 0.4 s are too little; as long as each try has no more, none ends"


async def test_the_patience_with_a_slow_slot_has_an_end(
    side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "REPLY_SECONDS", 0.1)
    monkeypatch.setattr(slots_module, "PAYLOAD_SECONDS", 0.15)
    line = SlowLine(commands, lost=1, seconds=0.3)
    slots = over(side, commands, line)
    await commands.lpush(ALONE, b"1")
    assert await slots.take(ALONE, side.slot()) is None
    taking = asyncio.create_task(slots.take(ALONE, side.slot()))
    await until(lambda: line.reads > 4)
    assert not taking.done(), "a try without an end to its time would have read it"
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking


@pytest.mark.parametrize(("payload", "size"), [(b"text", 4), (b"\xff\xfe", 2), (b"x" * 1000, 1000)])
async def test_a_dead_letter_says_how_large_the_job_was(
    side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch, payload: bytes, size: int
) -> None:
    monkeypatch.setattr(slots_module, "_LETTER_BYTES", 300)
    monkeypatch.setattr(slots_module, "_LETTER_HEAD", 10)
    await commands.lpush(side.slot().key, payload)
    await side.slots.bury(side.slot(), payload, "why")
    (letter,) = [json.loads(letter) for letter in await commands.lrange("{llama_queue}:dead", 0, -1)]
    assert letter["bytes"] == size


@pytest.mark.parametrize(
    ("inside", "alive", "has"),
    [
        (b'{"id": "a"}', True, True),
        (b'{"id": "a"}', False, False),
        (b'{"id": "b"}', True, False),
        (b'{"data": {"id": "a"}}', True, False),
        (b'["a"]', True, False),
        (b'"a"', True, False),
        (b"\xff{", True, False),
        (None, True, False),
    ],
)
async def test_a_job_is_held_by_who_lives_and_has_it(
    side: Side, commands: Any, inside: bytes | None, *, alive: bool, has: bool
) -> None:
    other = side.keys.slot("w2", "text-0")
    if alive:
        await side.scripts.beat(side.keys, "w2", 60, {"state": "test"})
    if inside is not None:
        await commands.lpush(other.key, inside)
    assert await side.slots.holder_has("w2", "text-0", "a") is has


async def test_a_large_result_over_a_slow_line_is_sent_once_and_arrives(
    side: Side, commands: Any, redis_url: str
) -> None:
    """Eight megabytes take two seconds; a client that waits for a second and a half would begin anew for ever."""
    sent = 0
    open_lines: list[object] = []
    address = urlsplit(redis_url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(64 * 1024):
                writer.write(data)
                await writer.drain()
                if counted:
                    sent += len(data)
                    await asyncio.sleep(len(data) / 4_000_000)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_lines.append(writer)
        back, forth = await asyncio.open_connection(address.hostname, address.port)
        await asyncio.gather(pump(reader, forth, counted=True), pump(back, writer, counted=False))
        open_lines.remove(writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, limit=64 * 1024) as line:
        url = f"redis://127.0.0.1:{line.sockets[0].getsockname()[1]}"
        hasty = connect(url, name="w1", socket_timeout=1.5)
        claims = Claims(side.linked(hasty), side.slots, result_ttl=100, stream_ttl=100)
        reply = await claims.claim("large", side.slot(), 3)
        await claims.finish(Held("other", side.slot(), b"", 1), b"now the script is known")
        with anyio.fail_after(100):
            assert await claims.finish(Held("large", side.slot(), b"", reply.attempt), b"x" * 8_000_000)
        assert 8_000_000 < sent < 12_000_000, "a part may have been sent twice, the whole was not"
        assert await commands.strlen("result:large") == 8_000_000
        assert 0 < await commands.ttl("result:large") <= 100
        await hasty.aclose()
        await until(lambda: not open_lines)
