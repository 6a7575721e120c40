"""The token path's benchmarks, and what they write. Usage: python -m bench.token_path PART [--help]."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import anyio

from bench.token_path import figures, first, scale, stand
from bench.token_path.contest import Case, contest, read_case
from bench.token_path.jobs import jobs
from bench.token_path.real import real
from bench.token_path.systems import PEERS, SYSTEMS
from bench.token_path.tables import TABLES

WATCHED: Final = 8
BESIDE: Final = (0, 8)


class Plan(argparse.Namespace):
    part: str
    seconds: float
    runs: int
    json: Path | None
    cases: list[Case]
    counts: list[int]
    systems: list[str]
    samples: int
    parts: list[str]
    redraw: bool


async def _contests(plan: Plan, folder: Path, names: Sequence[str], watched: int) -> list[dict[str, Any]]:
    return [
        await contest(case, names, folder / case.name, seconds=plan.seconds, runs=plan.runs, watched=watched)
        for case in plan.cases
    ]


async def run_relay(plan: Plan, folder: Path) -> Any:
    return await _contests(plan, folder, ("ours", "floor"), 0)


async def run_peers(plan: Plan, folder: Path) -> Any:
    return await _contests(plan, folder, plan.systems, WATCHED)


async def run_delay(plan: Plan, folder: Path) -> Any:
    cases = await _contests(plan, folder, ("ours", "direct"), WATCHED)
    firsts = [await first.first_tokens(folder / f"first-{n}", plan.samples, beside=n) for n in BESIDE]
    return {"cases": cases, "first": firsts}


async def run_jobs(plan: Plan, folder: Path) -> Any:
    return [await jobs(count, folder / str(count), seconds=plan.seconds, runs=plan.runs) for count in plan.counts]


async def run_real(plan: Plan, folder: Path) -> Any:
    return [await real(count, folder / str(count), runs=plan.runs) for count in plan.counts]


async def run_scale(plan: Plan, folder: Path) -> Any:
    found = [
        await scale.workers(count, folder / str(count), seconds=plan.seconds, runs=plan.runs) for count in plan.counts
    ]
    return {"workers": found, "memory": await scale.memory(folder / "memory")}


RUNS: Final[dict[str, Callable[[Plan, Path], Awaitable[Any]]]] = {
    "relay": run_relay,
    "delay": run_delay,
    "jobs": run_jobs,
    "real": run_real,
    "peers": run_peers,
    "scale": run_scale,
}
ABOUT: Final = {
    "relay": "CPU time of a token on the worker, Redis and the engine's double, beside the floor",
    "delay": "from the engine's write of a token to its reader, and what is added to the first token",
    "jobs": "short jobs a second, their CPU time, Redis commands and round trips",
    "real": "the real llama.cpp server: tokens/s through the worker and by direct HTTP",
    "peers": "the same relay on arq, taskiq-redis, SAQ and streaq, and LiteLLM's proxy",
    "scale": "several workers on one Redis, and what it keeps in memory",
    "figures": "all of these; writes docs/explain/speed.md and its plots",
}


def _cases(text: str) -> list[Case]:
    return [read_case(one) for one in text.split(",")]


def _counts(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def _names(text: str) -> list[str]:
    names = text.split(",")
    if strange := set(names) - set(SYSTEMS):
        raise argparse.ArgumentTypeError(f"no system {', '.join(sorted(strange))}: {', '.join(SYSTEMS)}")
    return names


CASES: Final = {"relay": "8x40,8x40s,64x40,256x40,256x40s,1024x40", "delay": "8x40,256x40", "peers": "8x40,64x40"}
COUNTS: Final = {"jobs": "1,8,32", "real": "1,4,8", "scale": "1,2,4"}


def read_plan(argv: Sequence[str]) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser("make bench ARGS=…", description="The token path, measured in whole processes.")
    parts = parser.add_subparsers(dest="part", required=True)
    for name, about in ABOUT.items():
        part = parts.add_parser(name, help=about, description=about)
        part.add_argument("--seconds", type=float, default=6.0, help="of each round, default %(default)s")
        part.add_argument("--runs", type=int, default=3, help="rounds, default %(default)s")
        part.add_argument("--json", type=Path, help="write the results there, beside those of other parts in it")
        if name in CASES:
            part.add_argument(
                "--cases",
                type=_cases,
                default=CASES[name],
                help="STREAMSxRATE[s],…, s: spread over time; default %(default)s",
            )
        if name in COUNTS:
            part.add_argument("--counts", type=_counts, default=COUNTS[name], help="how many, default %(default)s")
        if name in {"delay", "figures"}:
            part.add_argument("--samples", type=int, default=200, help="first tokens, default %(default)s")
        if name in {"peers", "figures"}:
            everybody = ",".join(("ours", "floor", *PEERS, "litellm", "direct"))
            part.add_argument("--systems", type=_names, default=everybody, help="default %(default)s")
        if name == "figures":
            part.add_argument("--parts", type=lambda text: text.split(","), default=list(RUNS), help=",".join(RUNS))
            part.add_argument("--redraw", action="store_true", help="measure nothing: write what --json holds")
    plan = parser.parse_args(argv, namespace=Plan())
    if plan.part == "figures" and (strange := set(plan.parts) - set(RUNS)):
        parser.error(f"no part {', '.join(sorted(strange))}")
    if plan.part == "figures" and plan.redraw and plan.json is None:
        parser.error("--redraw needs --json")
    return plan


def machine() -> dict[str, Any]:
    """Return what is to be known of the machine."""
    cpu, facts = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if facts.exists():
        lines = (line.partition(":") for line in facts.read_text().splitlines())
        cpu = next((value.strip() for name, _, value in lines if name.strip() == "model name"), cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "load_before": os.getloadavg()[0]}


async def measured(part: str, plan: Plan) -> dict[str, Any]:
    """Measure one part; returns it with what is to be known of how."""
    about = machine()
    with tempfile.TemporaryDirectory(prefix=f"bench-{part}-") as folder:
        found = await RUNS[part](plan, Path(folder))
    return {
        "plan": {"seconds": plan.seconds, "runs": plan.runs},
        "machine": about | {"load_after": os.getloadavg()[0]},
        "found": found,
    }


def _known(path: Path | None) -> dict[str, Any]:
    return json.loads(path.read_text()) if path is not None and path.exists() else {}


async def main(argv: Sequence[str]) -> None:
    """The benchmark."""
    plan = read_plan(argv)
    stand.raise_file_limit()
    known = _known(plan.json)
    wanted = [plan.part] if plan.part != "figures" else ([] if plan.redraw else plan.parts)
    for part in wanted:
        if plan.part == "figures":
            plan.cases, plan.counts = _cases(CASES.get(part, "1x1")), _counts(COUNTS.get(part, "1"))
        known[part] = await measured(part, plan)
        print(f"\n{ABOUT[part]}\n\n{TABLES[part](known[part]['found'])}\n", flush=True)
        if plan.json is not None:
            plan.json.write_text(json.dumps(known, indent=1) + "\n")
    if plan.part == "figures":
        for path in figures.write({part: known[part] for part in RUNS if part in known}):
            print(path)


if __name__ == "__main__":
    fast = importlib.util.find_spec("uvloop") is not None
    anyio.run(main, sys.argv[1:], backend_options={"use_uvloop": fast})
