"""The end of a job: its result is readable before its last entry is, whatever Redis loses in between."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.redis_side import Side
from velesio_worker.queue.claims import Held
from velesio_worker.wire.events import Done

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]


@pytest.mark.parametrize("lost", [("result:a", "{result:a}:job"), ("result:a", "{result:a}:job", "stream:a")])
@pytest.mark.parametrize("entries", [0, 9])
async def test_a_result_that_a_failover_lost_is_stored_again_before_the_last_entry(
    side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch, lost: tuple[str, ...], entries: int
) -> None:
    """Where the job is ended step by step, as in a Cluster."""
    side.claims.at_once = False
    assert (await side.scripts.claim("a", side.slot(), "n", 9)).attempt == 1
    stream = side.publisher.open("a", 1)
    stream.put("start", b"{}")
    await stream.flushed()
    seen: list[list[bytes]] = []
    finish = side.claims.finish

    async def finish_and_fail_over(held: Held, result: bytes) -> bool:
        seen.append([fields[b"event"] for _, fields in await commands.xrange("stream:a")])
        stored = await finish(held, result)
        if len(seen) == 1:
            for key in lost:
                await commands.delete(key)
            for number in range(entries):
                await commands.xadd("stream:a", {"event": "token", "data": b"{}"}, id=f"9-{number}")
            side.outage.noticed(RedisConnectionError("failing over"))
            side.outage.over()
        return stored

    monkeypatch.setattr(side.claims, "finish", finish_and_fail_over)
    held = Held("a", side.slot(), b'{"id":"a"}', 1)
    assert await side.closer.done(held, Done({"text": "x"}, "stop"), stream)
    assert len(seen) == 2, "the result was stored again"
    assert b"done" not in seen[1], "the last entry was readable while the result was not"
    assert await commands.get("result:a")
    assert (await commands.xrevrange("stream:a", count=1))[0][1][b"event"] == b"done"
