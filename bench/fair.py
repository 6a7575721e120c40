"""What taking the next job costs Redis, by how many tenants wait."""

from __future__ import annotations

import statistics
import time
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.scripts import Scripts
from velesio_worker.wire.jobs import Kind
from velesio_worker.wire.share import Share

TENANTS: Final = (1, 100, 10_000)
_TAKES: Final = 500
_RUNS: Final = 3
_KEYS: Final = Keys("bench_queue")
_SLOT: Final = Slot(_KEYS.slot("w1", "text-0").key, "w1", "text-0", _KEYS.ready(Kind.TEXT))


async def fair(url: str) -> None:
    """Print the cost of a take with a job each of so many tenants, and its ratio to that with one of them.

    Args:
        url: a Redis of one's own; nothing else is to use it meanwhile.
    """
    async with Redis.from_url(url) as redis:  # pyright: ignore[reportUnknownMemberType]
        rounds: dict[int, list[tuple[float, float]]] = {count: [] for count in TENANTS}
        for _ in range(_RUNS):  # in turns: a shared machine is not as fast all the time
            for count in TENANTS:
                rounds[count].append(await _takes(redis, count))
    print(f"fair, medians of {_TAKES} takes, each followed by its tenant's next job, and of {_RUNS} rounds")
    base = statistics.median(inside for inside, _ in rounds[TENANTS[0]])
    for count, taken in rounds.items():
        inside, trip = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"  {count:6,} tenants with a job each  {inside:6.1f} µs in Redis  {trip:6.1f} µs round trip", end="")
        print(f"  ratio {inside / base:.2f}")


async def _takes(redis: Redis, count: int) -> tuple[float, float]:
    """Return what a take costs inside Redis, and with its way there and back, in µs."""
    commands: Any = redis
    scripts = Scripts(redis)
    await commands.flushall()
    for number in range(count):
        await _push(commands, scripts, f"tenant-{number}")
    inside: list[float] = []
    trips: list[float] = []
    for _ in range(_TAKES):
        await commands.config_resetstat()
        began = time.perf_counter()
        taken = await scripts.take(_KEYS, Kind.TEXT, _SLOT)
        trips.append((time.perf_counter() - began) * 1e6)
        inside.append((await commands.info("commandstats"))["cmdstat_evalsha"]["usec"])
        tenant = orjson.loads(taken[0] if taken else b"null")["tenant"]
        await scripts.ack(_SLOT, [_KEYS.beginning, Kind.TEXT.value, _SLOT.field, "", ""])
        await _push(commands, scripts, tenant)
    return statistics.median(inside), statistics.median(trips)


async def _push(commands: Any, scripts: Scripts, tenant: str) -> None:
    job = {"id": "a", "type": "completion", "tenant": tenant, "data": {"prompt": "x" * 400}}
    await commands.lpush(_SLOT.key, orjson.dumps(job))
    await scripts.send(_KEYS, Kind.TEXT, _SLOT, Share("normal", tenant, 400))
