"""What a viewer costs: the gateway, and beside it in the same run what one writes first, with thousands of viewers.

One process of each server at a time, a Redis of its own, a writer that publishes jobs' entries at a pace as the worker
does, and viewers in a process of their own that check every frame. All of them share this machine's cores, so compare
ratios. Everything stays on 127.0.0.1. Usage: python bench/run.py gateway [--help]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

import peers
from chat import first_tokens
from gateway_table import print_table
from processes import RedisProcess
from writer import NchanWriter, StreamWriter, Writer, job_ids, write

HERE: Final = Path(__file__).parent
PARTS: Final = ("ours", "peers", "chat", "litellm")
SPARE_FILES: Final = 500
"""So many files a process may need beside those of viewers."""

CATCH_UP_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 40.0
SETTLE_SECONDS: Final = 6.0
"""A stream that was silent for longer than 5 s is read less often."""


class Case(NamedTuple):
    """So many viewers, each of whom is sent so many frames a second."""

    viewers: int
    rate: float


class Plan(argparse.Namespace):
    parts: list[str]
    cases: list[Case]
    jobs: int
    seconds: float
    idle_seconds: float
    requests: int
    nginx: str | None
    nchan: str | None
    json: bool


def _case(text: str) -> Case:
    viewers, _, rate = text.partition("x")
    return Case(int(viewers), float(rate))


def read_plan(argv: list[str]) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser("bench/run.py gateway", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--cases", type=lambda text: [_case(one) for one in text.split(",")],
                        default=[Case(2000, 10), Case(10_000, 2)], metavar="VIEWERSxRATE,…",
                        help="the gateway's cases, default 2000x10,10000x2; the peers are given the first")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=8, help="how long frames are sent, default %(default)s")
    parser.add_argument("--idle-seconds", type=float, default=15, help="how long the last case's viewers are idle")
    parser.add_argument("--requests", type=int, default=60, help="chat requests of each way, default %(default)s")
    parser.add_argument("--nginx", help="nginx, default: the one on PATH")
    parser.add_argument("--nchan", help="its ngx_nchan_module.so")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    plan = parser.parse_args(argv, namespace=Plan())
    if strange := set(plan.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(strange))}: {', '.join(PARTS)}")
    return plan


class Viewers:
    """The process of the viewers.

    Args:
        port: whom they ask.
        count: how many they are.
        jobs: whose streams they ask for.
    """

    def __init__(self, port: int, count: int, jobs: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "viewers.py"), str(port), str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=peers.environment(),
        )  # fmt: skip
        self._in, self._out = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self._tell("".join(f"/jobs/{job}/events\n" for job in jobs) + "\n")

    def _tell(self, text: str) -> None:
        self._in.write(text)
        self._in.flush()

    async def report(self) -> dict[str, Any]:
        """Return what they have seen."""
        self._tell("?\n")
        line = await anyio.to_thread.run_sync(self._out.readline)
        return json.loads(line)

    async def until(self, name: str, count: int, limit: float) -> dict[str, Any]:
        """Wait until a figure is so large, or the time is over; returns what they have seen then."""
        deadline = time.monotonic() + limit
        while True:
            seen = await self.report()
            if seen[name] >= count or time.monotonic() > deadline:
                return seen
            await anyio.sleep(0.1)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def watching(port: int, count: int, jobs: list[str]) -> Generator[Viewers]:
    viewers = Viewers(port, count, jobs)
    try:
        yield viewers
    finally:
        viewers.end()


class Measure:
    """One server with the viewers of one case.

    Args:
        server: the server.
        writer: what writes its jobs' entries.
        redis_port: where the Redis of both is.
        plan: how long.
    """

    def __init__(self, server: peers.Server, writer: Writer, redis_port: int, plan: Plan) -> None:
        self._server = server
        self._writer = writer
        self._redis_port = redis_port
        self._plan = plan

    async def run(self, case: Case, *, idle: bool) -> dict[str, Any]:
        """Measure a case; ``idle``: what viewers cost while nothing happens, too."""
        await self._warm_up()
        server, memory = self._server, self._server.memory()
        jobs = job_ids(min(self._plan.jobs, case.viewers))
        with watching(server.port, case.viewers, jobs) as viewers:
            began = time.monotonic()
            seen = await viewers.until("connected", case.viewers, CONNECT_SECONDS)
            if seen["connected"] < case.viewers or seen["trouble"]:
                return {"failed": f"{seen['connected']} of {case.viewers} connected {seen['trouble'] or ''}"}
            found: dict[str, Any] = {"connect_seconds": round(time.monotonic() - began, 1)}
            await self._writer.begin(jobs)
            await viewers.until("frames", case.viewers, CONNECT_SECONDS)
            found["idle_kb"] = (server.memory() - memory) / 1024 / case.viewers
            if idle:
                found["idle_cpu"] = await self._idle()
            else:
                await anyio.sleep(0.5)
            return found | await self._stream(viewers, case, jobs, memory)

    async def _warm_up(self) -> None:
        """Have what every server needs once: what it costs is no viewer's."""
        jobs = job_ids(4)
        with watching(self._server.port, 32, jobs) as viewers:
            await viewers.until("connected", 32, CONNECT_SECONDS)
            await self._writer.begin(jobs)
            await write(self._writer, jobs, rate=50, seconds=0.5)
            await self._writer.end(jobs)
            await viewers.until("ended", 32, CATCH_UP_SECONDS)

    async def _idle(self) -> float:
        await anyio.sleep(SETTLE_SECONDS)
        cpu, began = self._server.cpu(), time.monotonic()
        await anyio.sleep(self._plan.idle_seconds)
        return (self._server.cpu() - cpu) / (time.monotonic() - began)

    async def _stream(self, viewers: Viewers, case: Case, jobs: list[str], memory: int) -> dict[str, Any]:
        server = self._server
        took, pieces = self._writer.took()
        cpu, before, began = server.cpu(), await viewers.report(), time.monotonic()
        entries = await write(self._writer, jobs, rate=case.rate, seconds=self._plan.seconds)
        took_now, pieces_now = self._writer.took()
        per_job = entries // len(jobs)
        dealt = (case.viewers // len(jobs) + (at < case.viewers % len(jobs)) for at in range(len(jobs)))
        expected = per_job * sum(dealt)
        behind = expected + before["frames"]
        seen = await viewers.until("frames", behind, CATCH_UP_SECONDS)
        seconds, used = time.monotonic() - began, server.cpu() - cpu
        frames = seen["frames"] - before["frames"]
        found = {
            "frames": frames,
            "written_ms": 1000 * (took_now - took) / max(1.0, pieces_now - pieces),
            "behind": max(0, expected - frames),
            "frames_per_cpu_second": frames / used if used else 0.0,
            "cpu": used / seconds,
            "viewers_cpu": (seen["cpu"] - before["cpu"]) / seconds,
            "streaming_kb": (server.memory() - memory) / 1024 / case.viewers,
            "redis_connections": server.connections_to(self._redis_port),
        }
        await self._writer.end(jobs)
        if not found["behind"]:
            seen = await viewers.until("ended", case.viewers, CATCH_UP_SECONDS)
        return found | {name: seen[name] for name in ORDER} | {"load": os.getloadavg()[0]}


ORDER: Final = ("p50", "p99", "max", "ended", "missing", "doubled", "late", "lost", "trouble")


@asynccontextmanager
async def redis_running(folder: Path) -> AsyncGenerator[str]:
    """Have a Redis with nothing in it, for as many connections as this host allows."""
    redis = RedisProcess(folder, dict(os.environ), lasting=False)
    await redis.start()
    try:
        yield redis.url
    finally:
        await redis.kill()


Start = Callable[[Path, str], AbstractContextManager[peers.Server]]
PEERS: Final[dict[str, Start]] = {
    f"{response}, a reader per {readers}": partial(peers.python_peer, response=response, readers=readers)
    for response, readers in itertools.product(("starlette", "sse-starlette"), ("viewer", "job"))
}


async def measure(start: Start, case: Case, plan: Plan, folder: Path, *, idle: bool = False) -> dict[str, Any]:
    """Measure a server that reads Redis."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES
    if case.viewers > limit:
        return {"failed": f"{case.viewers} viewers are more than a process may have here (ulimit -Hn: {limit} fit)"}
    try:
        async with redis_running(folder) as url, StreamWriter(url) as writer:
            with start(folder, url) as server:
                return await Measure(server, writer, urlsplit(url).port or 0, plan).run(case, idle=idle)
    except peers.MissingPeerError as error:
        return {"failed": str(error)}


async def measure_nchan(case: Case, plan: Plan, folder: Path) -> dict[str, Any]:
    """Measure nchan, which is sent what it shows by HTTP and keeps it itself."""
    try:
        with peers.nchan(folder, plan.nginx, plan.nchan) as server:
            async with NchanWriter(server.port) as writer:
                return await Measure(server, writer, 0, plan).run(case, idle=False)
    except peers.MissingPeerError as error:
        return {"failed": str(error)}


async def everything(plan: Plan, folder: Path) -> dict[str, Any]:
    """Measure all parts; returns what was found, JSON-ready."""
    found: dict[str, Any] = {"jobs": plan.jobs, "seconds": plan.seconds, "cases": []}
    for number, case in enumerate(plan.cases):
        servers: dict[str, Any] = {}
        last = number == len(plan.cases) - 1
        if "ours" in plan.parts:
            servers["the gateway"] = await measure(peers.gateway, case, plan, _new(folder, f"ours-{number}"), idle=last)
        if "peers" in plan.parts and number == 0:
            for at, (name, start) in enumerate(PEERS.items()):
                servers[name] = await measure(start, case, plan, _new(folder, f"peer-{at}"))
            servers["nchan, written to by HTTP"] = await measure_nchan(case, plan, _new(folder, "nchan"))
        found["cases"].append({"viewers": case.viewers, "rate": case.rate, "servers": servers})
    if "chat" in plan.parts or "litellm" in plan.parts:
        found["chat"] = await first_tokens(_new(folder, "chat"), plan.requests, beside="litellm" in plan.parts)
    return found


def _new(folder: Path, name: str) -> Path:
    """Make a folder."""
    (folder / name).mkdir()
    return folder / name


async def gateway(argv: list[str]) -> None:
    """The benchmark."""
    plan = read_plan(argv)
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        found = await everything(plan, Path(folder))
    print(json.dumps(found, indent=1)) if plan.json else print_table(found)
