"""Short jobs: how many a second, what each takes of the CPU, and how often Redis is asked for it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio

from bench.token_path import stand
from bench.token_path.systems import job_payload

IDLE_SECONDS: Final = 3.0
_LONGEST: Final = 120.0
_POLL_SECONDS: Final = 0.1
_OWN: Final = frozenset({"info", "lpush", "exists", "unlink", "client", "config", "memory"})
"""What this benchmark asks itself."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What Redis has been asked so far.

    Attributes:
        at: when, in monotonic seconds.
        calls: by command, those of scripts among them.
        reads: how often Redis found something to read on a connection: round trips.
    """

    at: float
    calls: Mapping[str, int]
    reads: int


async def asked(client: Any) -> Asked:
    """Ask Redis what it was asked."""
    stats, commands = await client.info("stats"), await client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): said["calls"] for name, said in commands.items()}
    return Asked(time.monotonic(), calls, stats["total_reads_processed"])


def per_job(before: Asked, after: Asked, idle: tuple[Asked, Asked], jobs: int, own_reads: int) -> dict[str, Any]:
    """Return commands and round trips a job: what was asked, less what is asked while nothing runs, and less our own.

    Args:
        before: at the beginning.
        after: at the end.
        idle: at the beginning and the end of a time in which nothing ran.
        jobs: how many there were.
        own_reads: how often the benchmark itself asked between ``before`` and ``after``.
    """
    share = (after.at - before.at) / (idle[1].at - idle[0].at)

    def more(name: str) -> float:
        quiet = idle[1].calls.get(name, 0) - idle[0].calls.get(name, 0)
        return (after.calls[name] - before.calls.get(name, 0) - quiet * share) / jobs

    commands = {name: round(more(name), 3) for name in after.calls if name.partition("|")[0] not in _OWN}
    quiet_reads = idle[1].reads - idle[0].reads - 2  # what asks is asked, too
    reads = after.reads - before.reads - own_reads - max(0, quiet_reads) * share
    used = {name: count for name, count in sorted(commands.items(), key=lambda one: -one[1]) if count >= 0.01}
    return {"commands": used, "commands_per_job": sum(used.values()), "round_trips_per_job": reads / jobs}


async def _finished(client: Any, ids: list[str]) -> int:
    """Wait until all jobs have a result; returns how often that was asked."""
    polls, names = 0, [f"result:{job}" for job in ids]
    with anyio.fail_after(_LONGEST):
        while True:
            polls += 1
            if await client.exists(*names[-64:]) == len(names[-64:]):
                polls += 1
                if await client.exists(*names) == len(names):
                    return polls
            await anyio.sleep(_POLL_SECONDS)


async def _batch(client: Any, pid: int, count: int, tag: str, idle: tuple[Asked, Asked] | None) -> dict[str, Any]:
    """Have so many jobs run; returns what they took."""
    ids = [f"{tag}-{number}" for number in range(count)]
    payloads = [job_payload(job, 1) for job in ids]
    before, cpu, began = await asked(client), stand.cpu_of(pid), time.monotonic()
    await client.lpush("llama_queue", *payloads)
    polls = await _finished(client, ids)
    wall, cpu, after = time.monotonic() - began, stand.cpu_of(pid) - cpu, await asked(client)
    await client.unlink(*(f"{what}:{job}" for job in ids for what in ("stream", "result")))
    said = {"jobs_per_second": count / wall, "cpu_us": 1e6 * cpu / count}
    return said | (per_job(before, after, idle, count, polls + 3) if idle else {})


async def jobs(consumers: int, folder: Path, *, seconds: float, runs: int) -> dict[str, Any]:
    """Measure jobs of one token on so many consumers; about ``seconds`` of them a run."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 (a moment)
    async with (
        stand.engine(folder, 0, consumers) as (port, _),
        stand.redis(folder, "jobs") as redis,
        stand.worker(folder, redis.url, consumers, LLAMA_SERVER_URL=f"http://127.0.0.1:{port}") as pid,
    ):
        client = redis.client
        await anyio.sleep(1)
        quiet = await asked(client)
        await anyio.sleep(IDLE_SECONDS)
        idle = (quiet, await asked(client))
        warm = await _batch(client, pid, 50 * consumers, "warm-up", None)
        count = max(50, min(20_000, int(warm["jobs_per_second"] * seconds)))
        rounds: list[dict[str, Any]] = []
        for number in range(runs):
            print(f"  jobs, {consumers} consumers, round {number + 1} of {runs}", file=sys.stderr, flush=True)
            rounds.append(await _batch(client, pid, count, f"r{number}", idle))
    names = ("jobs_per_second", "cpu_us", "commands_per_job", "round_trips_per_job")
    found: dict[str, Any] = {name: statistics.median(one[name] for one in rounds) for name in names}
    return found | {"consumers": consumers, "jobs": count, "commands": rounds[-1]["commands"]}
