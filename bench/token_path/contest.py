"""Systems that relay the same streams in turn, round by round: whatever else the machine does meets them all."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio

from bench.token_path import stand
from bench.token_path.systems import NAMES, SYSTEMS, MissingPeerError, OnRedis, System
from bench.token_path.watch import delays

WATCHED: Final = 8
"""So many streams are followed while they run; to follow all would be a load of its own."""

_IDLE_SECONDS: Final = 3.0
_WARM_UP_TOKENS: Final = 8
_WARM_UP_STREAMS: Final = 8


SPREAD: Final = "spread"


class Case(NamedTuple):
    """So many streams at a time, of so many tokens a second each: all in one batch, or spread over time."""

    streams: int
    rate: float
    phase: str = "batch"

    @property
    def name(self) -> str:
        return f"{self.streams}x{self.rate:g}{' spread' if self.phase == SPREAD else ''}"


def read_case(text: str) -> Case:
    """Read STREAMSxRATE, or STREAMSxRATEs where the streams' tokens are spread over time. Raises ValueError."""
    streams, _, rate = text.partition("x")
    case = Case(int(streams), float(rate.removesuffix("s") or 40), SPREAD if rate.endswith("s") else "batch")
    if case.streams < 1 or case.rate <= 0:
        raise ValueError(f"no case: {text}")
    return case


def quantile(values: Sequence[float], share: float) -> float:
    """Return what so large a share of some values is within; nan of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


async def measure(
    system: System, engine_pid: int, case: Case, seconds: float, *, tag: str, watched: int
) -> dict[str, Any]:
    """Have a system relay a case once; returns what it took."""
    jobs, tokens = [f"{tag}-{number}" for number in range(case.streams)], max(1, int(case.rate * seconds))
    cpu, of_redis, of_engine = system.cpu(), await system.redis_cpu(), stand.cpu_of(engine_pid)
    ran = await system.run(jobs, tokens, (tokens - 1) / case.rate, watched)
    cpu = system.cpu() - cpu
    of_redis, of_engine = await system.redis_cpu() - of_redis, stand.cpu_of(engine_pid) - of_engine
    if isinstance(system, OnRedis):
        ran.faults += await system.check(jobs, tokens)
    total = case.streams * tokens
    late = delays([one for stream in ran.seen for one in stream])
    return {
        "tokens": total,
        "wall": ran.wall,
        "late": ran.wall / max(seconds, 1e-9),
        "tokens_per_cpu_second": total / cpu if cpu else 0.0,
        "cpu_us": 1e6 * cpu / total,
        "redis_us": 1e6 * of_redis / total,
        "engine_us": 1e6 * of_engine / total,
        "delays": late,
        "faults": ran.faults,
    }


def summarise(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of some rounds; delays are those of all together, in milliseconds."""
    names = ("tokens", "wall", "late", "tokens_per_cpu_second", "cpu_us", "redis_us", "engine_us")
    found: dict[str, Any] = {name: statistics.median(one[name] for one in rounds) for name in names}
    late = [delay for one in rounds for delay in one["delays"]]
    if late:
        found |= {"p50": quantile(late, 0.5), "p99": quantile(late, 0.99), "max": max(late)}
    return found | {"faults": [fault for one in rounds for fault in one["faults"]], "rounds": len(rounds)}


def ratios(rounds: dict[str, list[dict[str, Any]]], of: str, to: str, name: str) -> list[float]:
    """Return, round by round, how a figure of one system is to that of another; nothing where one has none."""
    pairs = zip(rounds.get(of, ()), rounds.get(to, ()), strict=False)
    return [one[name] / other[name] for one, other in pairs if other[name]]


async def _started(stack: AsyncExitStack, name: str, folder: Path, engine: tuple[int, int], case: Case) -> System:
    """Start a system and have it relay a little, which it has to do well."""
    port, pid = engine
    system = await stack.enter_async_context(SYSTEMS[name](folder, port, case.streams))
    warm_up = Case(min(_WARM_UP_STREAMS, case.streams), case.rate)
    first = await measure(system, pid, warm_up, _WARM_UP_TOKENS / case.rate, tag="warm-up", watched=0)
    if first["faults"]:
        raise MissingPeerError(first["faults"][0])
    return system


async def idle(systems: dict[str, System]) -> dict[str, float]:
    """Return what each system takes of a CPU while nothing runs, in milliseconds a second."""
    before, began = {name: system.cpu() for name, system in systems.items()}, time.monotonic()
    await anyio.sleep(_IDLE_SECONDS)
    took = time.monotonic() - began
    return {name: 1000 * (system.cpu() - before[name]) / took for name, system in systems.items()}


async def contest(
    case: Case, names: Sequence[str], folder: Path, *, seconds: float, runs: int, watched: int
) -> dict[str, Any]:
    """Measure some systems; returns by system its figures, or why there are none.

    The figure ``to_floor`` is the median of what the floor took of the CPU's time to what the system took, round by
    round: 1 is as good, and less is worse.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 (a moment)
    missing: dict[str, Any] = {}
    rounds: dict[str, list[dict[str, Any]]] = {}
    async with AsyncExitStack() as stack:
        port, process = await stack.enter_async_context(stand.engine(folder, case.rate, case.streams, case.phase))
        systems: dict[str, System] = {}
        for name in names:
            try:
                systems[name] = await _started(stack, name, folder, (port, process.pid), case)
            except (MissingPeerError, OSError) as error:
                missing[name] = {"failed": str(error)[:200]}
        quiet = await idle(systems)
        for number in range(runs):
            order = list(systems)[number % len(systems) :] + list(systems)[: number % len(systems)]
            for name in order:
                print(f"  {case.name}, round {number + 1} of {runs}: {NAMES[name]}", file=sys.stderr, flush=True)
                try:
                    one = await measure(systems[name], process.pid, case, seconds, tag=f"r{number}", watched=watched)
                except (OSError, TimeoutError, MissingPeerError) as error:
                    missing[name] = {"failed": f"in round {number + 1}: {error!r}"[:200]}
                    del systems[name]
                    continue
                rounds.setdefault(name, []).append(one)
    found = {name: summarise(some) for name, some in rounds.items()}
    for name, row in found.items():
        row["idle_ms"] = quiet[name]
        if name != "direct" and (to_floor := ratios(rounds, name, "floor", "tokens_per_cpu_second")):
            row["to_floor"] = statistics.median(to_floor)
        if name != "ours" and (to_ours := ratios(rounds, "ours", name, "tokens_per_cpu_second")):
            row["ours_to_it"] = statistics.median(to_ours)
    return {"case": case.name, "streams": case.streams, "rate": case.rate, "systems": found | missing}
