"""A soak with faults: jobs, readers and workers, of which one or other is killed, frozen or cut off every few seconds.

Every job is followed from its first entry to its last and judged by the rules of the wire protocol (judge.py).
One job may be hit by several faults here, so each may be attempted 10 times, which is the most ("max_attempts"). A
push whose reply was lost is made again, as producers do; readers are cut off together with the workers. The same seed
draws the same jobs and faults; what those hit depends on the machine's pace.

Usage: python bench/chaos.py [--minutes 5] [--replicas 3] [--jobs 1000] [--faults worker-kill,freeze,…]
Exit code: 0; 1: a job was lost, doubled, wrong or hung, or a worker did what it may not; 130: stopped by a signal.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio

from fleet import Fleet, Kind
from judge import Entry, Violation, Watched, judge
from processes import connect, insist, until
from report import dump, print_table, summarise

READERS: Final = 4
PATIENCE: Final = 60.0
"""Nobody has ended for so many seconds, or four leases, with no fault left: what is still open never will."""

PROMPTS: Final = (
    "One, two, three, four,",
    "The capital of France is",
    "Once upon a time there was a lighthouse keeper who",
    "List the planets of the solar system, one a line.",
    "Why is the sky blue? Answer in two sentences.",
    "Schreibe einen Satz über Bären, Öl und Käse.",
)


class Plan(argparse.Namespace):
    """What the command line asks for."""

    minutes: float
    replicas: int
    jobs: int
    seed: int
    fault_every: float
    faults: list[Kind]
    lease: int
    drain: float
    keep_logs: Path | None
    json: bool

    def settings(self) -> dict[str, str]:
        """The workers' environment variables."""
        return {
            "RUN_SD": "false",
            "GPU_LAYERS": "0",
            "LLM_CONCURRENCY": "2",
            "CONTEXT_SIZE": "512",
            "LOG_FORMAT": "json",
            "LEASE_SECONDS": str(self.lease),
            "DRAIN_SECONDS": str(self.drain),
        }

    def chance(self, name: str) -> random.Random:
        """A source of chance that is the same each time for one seed."""
        return random.Random(f"{name} {self.seed}")  # noqa: S311 (to be repeated, not to be secret)


def make_job(number: int, chance: random.Random) -> tuple[Watched, bytes]:
    """Draw a job; returns what is to be watched, and what is to be pushed."""
    prompt = chance.choice(PROMPTS)
    chat = chance.random() < 0.5
    watched = Watched(
        id=f"chaos-{number}",
        type="chat_completion" if chat else "completion",
        streamed=chance.random() < 0.85,
        max_tokens=chance.randint(4, 48),
    )
    data: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    data |= {"max_tokens": watched.max_tokens, "stream": watched.streamed, "seed": chance.randrange(2**32)}
    job: dict[str, Any] = {"id": watched.id, "type": watched.type, "max_attempts": 10, "data": data}
    if chance.random() < 0.6:  # the others lie in the list that there has always been
        job |= {"tenant": chance.choice("abc"), "priority": chance.choice(("high", "normal", "low"))}
    if chance.random() < 0.3:
        job["session"] = chance.choice("xyz")
    return watched, json.dumps(job).encode()


@dataclass(slots=True)
class Soak:
    """One run: who submits, who reads, who does harm.

    Attributes:
        watched: the jobs that were submitted.
        pushed_again: how many of them were pushed more than once, since Redis did not answer.
        began: when the first job was submitted, in monotonic seconds.
        _shares: each reader's jobs whose end and result it has not got yet.
    """

    plan: Plan
    fleet: Fleet
    watched: list[Watched] = field(default_factory=list[Watched])
    pushed_again: int = 0
    began: float = 0.0
    _shares: list[list[Watched]] = field(default_factory=lambda: [[] for _ in range(READERS)])

    async def run(self) -> None:
        """Submit and do harm for the plan's time; then wait for every job's end."""
        self.began = time.monotonic()
        async with anyio.create_task_group() as readers:
            for share in self._shares:
                readers.start_soon(self._read, share)
            readers.start_soon(self._say_how_far)
            async with anyio.create_task_group() as harm:
                harm.start_soon(self._do_harm, harm)
                await self._submit()
            await self._wait_for_ends()
            readers.cancel_scope.cancel()

    @property
    def _over(self) -> float:
        return self.began + self.plan.minutes * 60

    async def _submit(self) -> None:
        chance = self.plan.chance("jobs")
        for number in range(self.plan.jobs):
            due = self.began + number * self.plan.minutes * 60 / self.plan.jobs
            await anyio.sleep(max(0.0, due - time.monotonic()))
            watched, payload = make_job(number, chance)
            self.watched.append(watched)
            self._shares[number % READERS].append(watched)
            _, failures = await insist(lambda payload=payload: self.fleet.client.lpush("llama_queue", payload))
            self.pushed_again += failures > 0

    async def _do_harm(self, harm: anyio.abc.TaskGroup) -> None:
        chance = self.plan.chance("faults")
        while self.plan.faults:
            await anyio.sleep(chance.uniform(0.5, 1.5) * self.plan.fault_every)
            if time.monotonic() > self._over:
                return
            kind = chance.choice(self.plan.faults)
            victim = self._running_job(chance) if kind is Kind.CANCEL else None
            if victim is not None:
                victim.cancelled_at = time.monotonic()
            harm.start_soon(self.fleet.strike, kind, victim.id if victim else None)

    def _running_job(self, chance: random.Random) -> Watched | None:
        run = [job for job in self.watched if job.entries and not job.ended and job.cancelled_at is None]
        return chance.choice(run) if run else None

    async def _read(self, share: list[Watched]) -> None:
        """Follow some jobs for ever: what Redis does not answer is asked again, after the last id that is known."""
        async with connect(self.fleet.redis.url) as client:
            while True:
                share[:] = [job for job in share if not job.ended]
                open_ = {f"stream:{job.id}": job for job in share}
                if not open_:
                    await anyio.sleep(0.05)
                    continue
                after = {key: job.entries[-1].id if job.entries else "0-0" for key, job in open_.items()}
                reply, _ = await insist(lambda after=after: client.xread(after, block=200))
                now = time.monotonic()
                for key, entries in reply or ():
                    job = open_[key]
                    job.entries += [Entry.parsed(entry_id, fields, now) for entry_id, fields in entries]
                    if job.ended:
                        stored, _ = await insist(lambda job=job: client.get(f"result:{job.id}"))
                        job.result = None if stored is None else json.loads(stored)

    async def _wait_for_ends(self) -> None:
        patience = max(PATIENCE, 4.0 * self.plan.lease)
        while left := sum(map(len, self._shares)):
            if not await until(lambda left=left: sum(map(len, self._shares)) < left, limit=patience):
                return

    async def _say_how_far(self) -> None:
        while True:
            await anyio.sleep(10)
            now, ended = time.monotonic() - self.began, sum(job.ended for job in self.watched)
            text = f"{len(self.watched)} jobs submitted, {ended} ended, {len(self.fleet.faults)} faults"
            print(f"{now:6.0f} s  {text}", file=sys.stderr, flush=True)


async def look_at_the_end(run: Soak, folder: Path) -> dict[str, list[Violation]]:
    """End the workers, read every stream once more and look at what is left in Redis; returns what is wrong, by job."""
    fleet, client = run.fleet, run.fleet.client
    places = {job.id: await _places(client, job.id) for job in run.watched if not job.ended}
    await _nobody_holds_a_job(client, limit=3.0 * run.plan.lease + 5)
    await fleet.close()
    bad: dict[str, list[Violation]] = {}
    for job in run.watched:
        entries, _ = await insist(lambda job=job: client.xrange(f"stream:{job.id}"))
        job.stored = [Entry.parsed(entry_id, fields) for entry_id, fields in entries]
        if violations := judge(job):
            bad[job.id] = violations
            dump(folder, job, violations, fleet.faults, places.get(job.id, []))
    for key in (await insist(client.keys))[0]:
        life, _ = await insist(lambda key=key: client.ttl(key))
        if life < 0 and key not in {"{llama_queue}:control", "last_job_time"}:
            fleet.problems.append(f"left in Redis for ever: {key}")
    return bad


async def _places(client: Any, job_id: str) -> list[str]:
    """Return where a job is: the lists that hold it, and its hash."""
    state, _ = await insist(lambda: client.hgetall(f"{{result:{job_id}}}:job"))
    places = [f"hash {state}"]
    keys, _ = await insist(lambda: client.keys("*llama_queue*"))
    for key in keys:
        if (await insist(lambda key=key: client.type(key)))[0] == "list":
            payloads, _ = await insist(lambda key=key: client.lrange(key, 0, -1))
            places += [f"list {key}" for payload in payloads if f'"{job_id}"' in payload]
    return places


async def _nobody_holds_a_job(client: Any, *, limit: float) -> None:
    """Wait: a job that is over may lie in a lost worker's slot until that worker is reaped."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        held, _ = await insist(lambda: client.keys("{llama_queue}:active:*"))
        if not held:
            return
        await anyio.sleep(0.5)


async def soak(plan: Plan, folder: Path) -> dict[str, Any] | None:
    """Run the soak; returns what it found, or None if a signal stopped it."""
    found: dict[str, Any] | None = None
    fleet = Fleet(folder, plan.replicas, plan.settings(), plan.chance("victims"))
    async with anyio.create_task_group() as group:

        async def stop_on_signals() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    group.cancel_scope.cancel()

        group.start_soon(stop_on_signals)
        async with fleet.running():
            run = Soak(plan, fleet)
            await run.run()
            bad = await look_at_the_end(run, folder)
            found = summarise(run.watched, bad, fleet, began=run.began)
            found |= {"plan": vars(plan), "pushed_again": run.pushed_again}
            longest = {gap["job_id"] for gap in found["longest"]} - bad.keys()
            for job in run.watched:
                if job.id in longest:
                    dump(folder, job, [], fleet.faults, [])
        group.cancel_scope.cancel()
    return found


def fault_kinds(names: str) -> list[Kind]:
    return [Kind(name) for name in names.split(",") if name]


def read_plan(argv: list[str] | None) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000))
    parser.add_argument("--fault-every", type=float, default=4, metavar="SECONDS")
    parser.add_argument("--faults", type=fault_kinds, default=list(Kind), metavar="KIND,…", help=", ".join(Kind))
    parser.add_argument("--lease", type=int, default=15, metavar="SECONDS", help="LEASE_SECONDS, default %(default)s")
    parser.add_argument("--drain", type=float, default=1, metavar="SECONDS", help="DRAIN_SECONDS, default %(default)s")
    parser.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="for logs and the jobs that went wrong")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser.parse_args(argv, namespace=Plan())


def main() -> int:
    plan = read_plan(sys.argv[1:])
    folder = plan.keep_logs or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    found = anyio.run(soak, plan, folder)
    if found is None:
        if plan.keep_logs is None:
            shutil.rmtree(folder)
        return 128 + signal.SIGINT
    if plan.json:
        print(json.dumps(found, indent=2, default=str))
    else:
        print_table(found)
    good = not found["bad"] and not found["problems"]
    if good and plan.keep_logs is None:
        shutil.rmtree(folder)
    else:
        print(f"logs: {folder}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
