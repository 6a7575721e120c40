"""What is attacked, and what has to hold after each draw."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import anyio
from hypothesis import strategies as st
from redis.exceptions import RedisError

import hostile
from findings import MIB, BrokenError, Findings, Memory
from fleet import Fleet
from strange_engine import StrangeEngine

BEGINS: Final = 2.0
"""How soon the first token of a small job has to come, in seconds."""

ENDS: Final = 45.0
"""How soon a job has to end, in seconds; its own time and the engine's silence are bounded by the settings below."""

WORKER_GROWS: Final = 150 * MIB
ENGINE_GROWS: Final = 768 * MIB
LISTS: Final = ("llama_queue", "{llama_queue}:text", "{llama_queue}:manage", "{llama_queue}:dead")
TYPES: Final = dict.fromkeys(LISTS, "list") | {
    "{llama_queue}:control": "stream",
    "{llama_queue}:workers": "zset",
    "{llama_queue}:slots:fake": "hash",
    "{llama_queue}:worker:fake": "hash",
    "last_job_time": "string",
}


class Target(ABC):
    """What is attacked: a fleet of its own, and what has to hold after each draw."""

    replicas = 1
    strategy: st.SearchStrategy[Any]
    more: dict[str, str] = {}  # noqa: RUF012 (settings of the workers)

    def __init__(self, folder: Path, findings: Findings) -> None:
        self.findings = findings
        folder.mkdir()
        self.fleet = Fleet(
            folder,
            self.replicas,
            {
                "RUN_SD": "false", "GPU_LAYERS": "0", "LLM_CONCURRENCY": "4", "CONTEXT_SIZE": "512",
                "WORKER_TIMEOUT": "10", "STALL_SECONDS": "20", "IDLE_UNLOAD_SECONDS": "0", "LOG_FORMAT": "json",
                "LEASE_SECONDS": "15", "DRAIN_SECONDS": "1", "LLAMA_ARGS": "--cache-ram 64", **self.more,
            },
            Random(0),  # noqa: S311 (nobody is struck)
        )  # fmt: skip
        self.memory = Memory(self.fleet)
        self.pushed = 0

    def running(self) -> AbstractAsyncContextManager[Any]:
        """Have the fleet, and whatever it needs."""
        return self.fleet.running()

    @abstractmethod
    async def attack(self, drawn: Any) -> None:
        """Do what was drawn and look at what has to hold. Raises BrokenError."""

    def next_id(self) -> str:
        self.pushed += 1
        return f"fuzz-{self.pushed:010}"

    async def push(self, payload: bytes) -> None:
        await self.fleet.client.lpush("llama_queue", payload)

    async def small_job(self, prompt: str = "Hello") -> float:
        """Run a small job; returns how long its first token took, in seconds. Raises BrokenError."""
        job_id, began = self.next_id(), time.monotonic()
        data = {"prompt": prompt, "max_tokens": 2, "stream": True, "cache_prompt": False}
        await self.push(json.dumps({"id": job_id, "type": "completion", "cache": False, "data": data}).encode())
        after = "0-0"
        while time.monotonic() < began + ENDS:
            for _, entries in await self.fleet.client.xread({f"stream:{job_id}": after}, block=500) or ():
                for entry_id, fields in entries:
                    after = entry_id
                    if fields.get("event") == "token":
                        return time.monotonic() - began
                    if fields.get("event") in {"done", "error"}:
                        raise BrokenError(f"a small job ended without a token: {fields}")
        raise BrokenError(f"a small job has no token after {ENDS:g} s")

    async def ends(self, job_id: str) -> list[dict[str, str]]:
        """Return the last entries of a job's stream; none if the stream cannot be read."""
        with suppress(RedisError):
            entries = await self.fleet.client.xrange(f"stream:{job_id}")
            return [fields for _, fields in entries if fields.get("event") in {"done", "error"}]
        return []

    def nobody_ended(self) -> None:
        """Raises BrokenError: a worker ended by itself."""
        if self.fleet.problems:
            problems, self.fleet.problems = self.fleet.problems, []
            raise BrokenError("; ".join(problems))


class HostileJobs(Target):
    """A worker with the real llama.cpp server. Its four slots have room for three hostile jobs and a small one."""

    strategy = st.lists(hostile.payloads(), min_size=1, max_size=3)

    async def attack(self, drawn: list[bytes]) -> None:
        jobs = {
            job_id: payload.replace(hostile.ID.encode(), job_id.encode())
            for payload in drawn
            if (job_id := self.next_id())
        }
        memory, engines = self.memory, self._engines()
        waited = 0.0
        async with anyio.create_task_group() as group:
            group.start_soon(memory.watch)
            for payload in jobs.values():
                await self.push(payload)
            waited = await self.small_job()
            self.findings.note("a small job's first token, s", waited)
            await self._ended({job_id for job_id, payload in jobs.items() if _named(payload, job_id)})
            group.cancel_scope.cancel()
        self.nobody_ended()
        for name, grown, most in zip(("worker", "engine"), memory.grown, (WORKER_GROWS, ENGINE_GROWS), strict=True):
            self.findings.note(f"the {name} grew by, MiB", grown / MIB)
            if grown > most:
                raise BrokenError(f"the {name} grew by {grown // MIB} MiB")
        if self._engines() != engines:
            raise BrokenError("an engine died")
        if waited > BEGINS:
            raise BrokenError(f"a small job began after {waited:.1f} s")

    def _engines(self) -> list[int]:
        worker = self.fleet.replicas[0].now
        return [engine.pid for engine in worker.engines()] if worker else []

    async def _ended(self, open_: set[str]) -> None:
        began = time.monotonic()
        while open_ or await self._busy():
            for job_id in [*open_]:
                if await self.fleet.client.exists(f"result:{job_id}") and (last := await self.ends(job_id)):
                    if len(last) != 1:
                        raise BrokenError(f"{job_id} has {len(last)} last entries")
                    data = json.loads(last[0]["data"])
                    self.findings.ended[str(data.get("code") or data.get("finish_reason"))] += 1
                    open_.discard(job_id)
            if time.monotonic() > began + ENDS:
                raise BrokenError(f"no end after {ENDS:g} s: {sorted(open_)}")
            await anyio.sleep(0.05)
        self.findings.note("all ended after, s", time.monotonic() - began)

    async def _busy(self) -> bool:
        """Whether a payload waits or is held."""
        client = self.fleet.client
        return bool(await client.exists(*LISTS[:3])) or bool(await client.keys("{llama_queue}:active:*"))


def _named(payload: bytes, job_id: str) -> bool:
    """Whether a payload is JSON with this id."""
    try:
        job = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(job, dict) and cast("dict[str, Any]", job).get("id") == job_id


class DamagedKeys(Target):
    """Two workers whose keys are written by somebody else while jobs run."""

    replicas = 2
    strategy = st.lists(st.tuples(st.integers(0, 2**16), hostile.DAMAGE), min_size=1, max_size=8)

    async def attack(self, drawn: list[tuple[int, tuple[Any, ...]]]) -> None:
        jobs = [self.next_id() for _ in range(3)]
        async with anyio.create_task_group() as group:
            group.start_soon(self._redis_answers)
            for job_id in jobs:
                data = {"prompt": "One, two, three,", "max_tokens": 24, "stream": True}
                await self.push(json.dumps({"id": job_id, "type": "completion", "data": data}).encode())
            for where, damage in drawn:
                await anyio.sleep(0.02)
                await self._damage(where, damage, jobs)
            await anyio.sleep(0.5)
            await self._repair()
            await self._each_ends(jobs)
            group.cancel_scope.cancel()
        self.nobody_ended()

    async def _damage(self, where: int, damage: tuple[Any, ...], jobs: list[str]) -> None:
        client = self.fleet.client
        there = set(await client.keys("*")) | TYPES.keys()
        for job_id in jobs:
            there |= {f"stream:{job_id}", f"result:{job_id}", f"{{result:{job_id}}}:job", f"{{result:{job_id}}}:cancel"}
        key = sorted(there)[where % len(there)]
        command, *rest = damage
        if key in LISTS or ":active:" in key or ":only:" in key:
            if command in {"del", "pexpire"}:  # would take away the jobs that lie there
                return
            rest += ["NX"] if command == "set" else []
        with suppress(RedisError):
            await client.execute_command(command, key, *rest)

    async def _repair(self) -> None:
        """Do what an operator does when the log names a key of another type; what is no payload goes, too."""
        for key in await self.fleet.client.keys("{llama_queue}*") + ["llama_queue"]:
            wanted = TYPES.get(key) or next((type_ for part, type_ in _BY_PART if part in key), None)
            if wanted and await self.fleet.client.type(key) not in {wanted, "none"}:
                await self.fleet.client.delete(key)

    async def _redis_answers(self) -> None:
        while True:
            began = time.monotonic()
            with anyio.move_on_after(5) as scope:
                await self.fleet.client.ping()
            self.findings.note("Redis answered after, s", time.monotonic() - began)
            if scope.cancelled_caught:
                raise BrokenError("Redis does not answer any more")
            await anyio.sleep(0.1)

    async def _each_ends(self, jobs: list[str]) -> None:
        began, open_ = time.monotonic(), set(jobs)
        while open_:
            dead = await self.fleet.client.lrange("{llama_queue}:dead", 0, 50)
            for job_id in [*open_]:
                ended = await self.fleet.client.exists(f"result:{job_id}") or await self.ends(job_id)
                if ended or any(job_id in letter for letter in dead):
                    open_.discard(job_id)
            if time.monotonic() > began + ENDS:
                raise BrokenError(f"no end after {ENDS:g} s: {sorted(open_)}")
            await anyio.sleep(0.05)
        self.findings.note("jobs with damaged keys ended after, s", time.monotonic() - began)


_BY_PART: Final = ((":active:", "list"), (":only:", "list"), (":slots:", "hash"), (":worker:", "hash"))


class LyingEngine(Target):
    """A worker of an engine that is nobody's friend."""

    strategy = st.tuples(hostile.ANSWERS, st.none() | hostile.VALUES)

    def __init__(self, folder: Path, findings: Findings) -> None:
        self.engine = StrangeEngine()
        self.more = {"LLAMA_SERVER_URL": self.engine.url, "STALL_SECONDS": "3", "WORKER_TIMEOUT": "8"}
        super().__init__(folder, findings)
        self._stack: Any = None

    def running(self) -> AbstractAsyncContextManager[Any]:
        return self.engine.serving(self.fleet.running())

    async def attack(self, drawn: tuple[tuple[bytes, list[bytes]], Any]) -> None:
        answer, about = drawn
        memory = self.memory
        job_id = self.next_id()
        waited = 0.0
        async with anyio.create_task_group() as group:
            group.start_soon(memory.watch)
            with self.engine.lying(answer, about):
                data = {"prompt": "lie", "max_tokens": 50, "stream": True}
                await self.push(
                    json.dumps({"id": job_id, "type": "completion", "max_attempts": 1, "data": data}).encode()
                )
                await self._ended(job_id)
            waited = await self._works_again()
            group.cancel_scope.cancel()
        self.nobody_ended()
        self.findings.note("a good answer's first token after a lie, s", waited)
        self.findings.note("the worker of a lying engine grew by, MiB", memory.grown[0] / MIB)
        if memory.grown[0] > WORKER_GROWS:
            raise BrokenError(f"the worker grew by {memory.grown[0] // MIB} MiB")

    async def _works_again(self) -> float:
        """Wait until a small job is done: an engine that lied is not believed at once. Raises BrokenError."""
        began = time.monotonic()
        while True:
            try:
                return await self.small_job() and time.monotonic() - began
            except BrokenError:
                if time.monotonic() > began + ENDS:
                    raise
                await anyio.sleep(0.5)

    async def _ended(self, job_id: str) -> None:
        began = time.monotonic()
        while not (await self.fleet.client.exists(f"result:{job_id}") and await self.ends(job_id)):
            if time.monotonic() > began + ENDS:
                raise BrokenError(f"no end after {ENDS:g} s")
            await anyio.sleep(0.05)
