"""Whatever a job holds: what it leaves in Redis is little, and a worker that dies of it is not followed by others."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.integration.test_intake import job, sort, the_end
from tests.support.redis_side import MAX_BYTES, Side
from velesio_worker.queue import scripts as scripts_module
from velesio_worker.queue.reaper import Reaper
from velesio_worker.wire.limits import CONTROL_ENTRIES, DEAD_LETTERS_TTL, MOST_RETURNS

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

LEASE = 60
DEAD = "{llama_queue}:dead"


async def lose_a_worker(side: Side, commands: Any, name: str, *, gone: bool = True) -> None:
    """Have a worker take the next job into a slot of this name, and die of it."""
    home = "llama_queue" if name == "intake" else "{llama_queue}:text"
    slot = side.keys.slot("w2", name, home=home)
    await side.scripts.beat(side.keys, "w2", LEASE, {"state": "test"}, [slot])
    assert await commands.lmove(home, slot.key, "RIGHT", "LEFT")
    if gone:
        await commands.zadd(side.keys.workers, {"w2": time.time() - LEASE})
        assert await Reaper(side.linked(commands), "w1", lease_seconds=LEASE).look() == 1


async def letters(commands: Any) -> list[dict[str, Any]]:
    return [json.loads(letter) for letter in await commands.lrange(DEAD, 0, -1)]


async def test_what_two_workers_died_of_at_intake_is_answered_and_stands_before_nobody(
    side: Side, commands: Any
) -> None:
    poison = job(id="p", data={"prompt": "x" * 1000})
    await commands.lpush("llama_queue", poison)
    await lose_a_worker(side, commands, "intake")
    assert await commands.lrange("llama_queue", 0, -1) == [poison]
    await commands.lpush("llama_queue", job(id="behind"))
    await lose_a_worker(side, commands, "intake")
    assert await commands.lrange("llama_queue", 0, -1) == [job(id="behind")]
    assert 0 < await commands.ttl("{llama_queue}:returned") <= 3600
    await sort(side, commands, job(id="last"))
    assert await commands.lrange("{llama_queue}:text", 0, -1) == [job(id="last"), job(id="behind")]
    event, data, result = await the_end(commands, "p")
    assert (event, data["code"], result["code"]) == ("error", "worker_lost", "worker_lost")
    (letter,) = await letters(commands)
    assert letter["payload"].encode() == poison
    assert "2 workers or more were lost" in letter["reason"]


async def test_what_has_no_id_is_put_aside_as_well(side: Side, commands: Any) -> None:
    await commands.lpush("llama_queue", b"\x01" * 1000)
    await lose_a_worker(side, commands, "intake")
    await lose_a_worker(side, commands, "intake")
    await sort(side, commands, job())
    (letter,) = await letters(commands)
    assert "2 workers or more were lost" in letter["reason"]


async def test_a_worker_that_ends_in_good_order_blames_no_job(side: Side, commands: Any) -> None:
    await commands.lpush("llama_queue", job())
    for _ in range(3):
        await lose_a_worker(side, commands, "intake", gone=False)
        (lease,) = [lease for lease in await side.scripts.leases(side.keys, 2 * LEASE) if lease.worker == "w2"]
        assert await side.scripts.reap(side.keys, "w2", lease.ends, gone=True, lost=False) == 1
    assert await commands.lrange("llama_queue", 0, -1) == [job()]


async def test_a_job_that_is_known_may_lose_more_workers_than_it_has_attempts_but_not_any_number(
    side: Side, commands: Any
) -> None:
    await commands.lpush("{llama_queue}:text", job())
    for _ in range(MOST_RETURNS - 1):
        await lose_a_worker(side, commands, "text-0")
    assert await commands.lrange("{llama_queue}:text", 0, -1) == [job()]
    await lose_a_worker(side, commands, "text-0")
    assert await commands.lrange("{llama_queue}:suspects", 0, -1) == [job()]


async def test_a_dead_letter_of_control_characters_is_not_many_times_as_large(side: Side, commands: Any) -> None:
    slot = side.slot()
    await commands.lpush(slot.key, b"\x01" * MAX_BYTES)
    await side.slots.bury(slot, b"\x01" * MAX_BYTES, "why")
    assert await commands.llen(DEAD) == 1
    assert len(await commands.lindex(DEAD, 0)) < 1.5 * MAX_BYTES


async def test_of_what_is_larger_than_a_job_may_be_a_dead_letter_keeps_the_beginning(side: Side, commands: Any) -> None:
    slot, payload = side.slot(), b"\x01" * 1_000_000
    await commands.lpush(slot.key, payload)
    await side.slots.bury(slot, payload, "why")
    assert len(await commands.lindex(DEAD, 0)) < 100_000
    (letter,) = await letters(commands)
    assert letter["bytes"] == 1_000_000
    assert "only the first 64 KiB are kept" in letter["reason"]


async def test_dead_letters_have_a_sum_of_bytes_and_a_life(
    side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts_module, "DEAD_LETTERS_BYTES", 20_000)
    slot = side.slot()
    for number in range(30):
        payload = str(number).encode() + b" " * 2000
        await commands.lpush(slot.key, payload)
        await side.slots.bury(slot, payload, "why")
        assert sum(map(len, await commands.lrange(DEAD, 0, -1))) <= 20_000
    kept = [int(letter["payload"]) for letter in await letters(commands)]
    assert kept == list(range(29, 29 - len(kept), -1))
    assert len(kept) >= 6
    assert 0 < await commands.ttl(DEAD) <= DEAD_LETTERS_TTL


@pytest.mark.parametrize("payload", [b'{"id": "a"}', b'{"id": "a", "type": "nope"}'])
async def test_of_a_job_that_is_refused_nothing_is_kept_for_a_day(side: Side, commands: Any, payload: bytes) -> None:
    await sort(side, commands, payload)
    event, _, _ = await the_end(commands)
    assert event == "error"
    longest = 260
    for key in ("{result:a}:job", "stream:a", "result:a"):
        assert 0 < await commands.ttl(key) <= longest, key


async def test_a_beat_keeps_the_requests_to_cancel_short(side: Side, commands: Any) -> None:
    for number in range(CONTROL_ENTRIES + 500):
        await commands.xadd("{llama_queue}:control", {"cancel": str(number)})
    await side.lease.beat()
    assert await commands.xlen("{llama_queue}:control") == CONTROL_ENTRIES
    await commands.delete("{llama_queue}:control")
    await commands.set("{llama_queue}:control", "no stream")
    await side.lease.beat()
