"""Streams that are struck in the middle: submit, follow, strike, judge."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Self

import anyio
import anyio.to_thread
import psutil
from bench.judge import Entry, Pause, Watched, judge, pauses
from redis.exceptions import RedisError

from tests.support.processes import WorkerProcess
from velesio_worker.queue.connection import connect

Strike = Callable[[str], Awaitable[None]]
"""What is done to a stream, given the worker whose it is."""

MAX_TOKENS: Final = 48
LATEST: Final = 30
"""The last token upon which a stream is struck."""

NO_END: Final = [[0, False], [2, False]]
"""The small model's tokens that end a text: without them a stream is as long as it was asked to be."""


TICK: Final = 0.02
"""How often the noise of the machine is looked at, in seconds."""


class Noise:
    """How late this process gets to run: a reader on a machine that is held up waits for the machine."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []

    async def listen(self) -> None:
        """Listen until cancelled."""
        while True:
            due = time.monotonic() + TICK
            await anyio.sleep(TICK)
            self._late.append((due, time.monotonic()))

    def during(self, pause: Pause) -> float:
        """How much of a pause was the machine's, in seconds."""
        return sum(max(0.0, min(pause.end, came) - max(pause.begin, due)) for due, came in self._late)


class Pair:
    """Two workers on one queue; whoever is gone is replaced before the next stream.

    Args:
        folder: where their logs go.
        settings: environment variables of both.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        self.settings: dict[str, str] = {"LLM_CONCURRENCY": "2", "CONTEXT_SIZE": "512", **settings}
        self.queue = settings.get("QUEUE_NAME", "llama_queue")
        self.redis: Any = connect(settings["REDIS_URL"], name="reader")
        self.workers: list[WorkerProcess] = []
        self.everybody: list[WorkerProcess] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.everybody:
            worker.end()
        await self.redis.aclose()

    async def whole(self, count: int = 2) -> None:
        """Have ``count`` workers that take jobs."""
        await anyio.to_thread.run_sync(self._whole, count)

    def _whole(self, count: int) -> None:
        self.workers = [worker for worker in self.workers if worker.process and worker.process.poll() is None]
        while len(self.workers) < count:
            self.start_one()
        for worker in self.workers:
            worker.wait_for("worker_ready")

    def start_one(self) -> WorkerProcess:
        """Start one more worker."""
        worker = WorkerProcess(self._folder / f"{self.queue}-{len(self.everybody)}.log", **self.settings)
        worker.start()
        self.workers.append(worker)
        self.everybody.append(worker)
        return worker

    async def owner(self, worker_id: str) -> WorkerProcess:
        """The process of a worker."""
        pid = int(await self.redis.hget(f"{{{self.queue}}}:worker:{worker_id}", "pid"))
        return next(worker for worker in self.workers if worker.pid == pid)

    def lost_engines(self) -> list[dict[str, Any]]:
        """What all workers have logged of engines that they lost, and of their own ends."""
        told = {"engine_lost", "engine_ready", "worker_stopping", "worker_stopped"}
        return [line for worker in self.everybody for line in worker.lines() if line.get("action") in told]

    async def kill_worker(self, worker_id: str) -> None:
        (await self.owner(worker_id)).process.kill()  # pyright: ignore[reportOptionalMemberAccess]

    async def kill_engine(self, worker_id: str) -> None:
        """Kill the engine; after the third time the worker is replaced, since it would soon give up, and rightly."""
        worker = await self.owner(worker_id)
        lost = sum(line.get("action") == "engine_lost" for line in worker.lines())
        for child in psutil.Process(worker.pid).children():
            child.kill()
        if lost == 2:
            worker.process.terminate()  # pyright: ignore[reportOptionalMemberAccess]

    async def submit(
        self, job_id: str, *, stream: bool = True, max_tokens: int = MAX_TOKENS, **envelope: Any
    ) -> Watched:
        """Submit a job, a chat every second time."""
        data: dict[str, Any] = {"max_tokens": max_tokens, "stream": stream, "logit_bias": NO_END}
        job_type = random.choice(["completion", "chat_completion"])
        if job_type == "completion":
            data["prompt"] = "One, two, three,"
        else:
            data["messages"] = [{"role": "user", "content": "Tell me of the sea – and of 東京."}]
        payload = {"id": job_id, "type": job_type, "max_attempts": 10, **envelope, "data": data}
        await self.redis.lpush(self.queue, json.dumps(payload))
        return Watched(job_id, job_type, streamed=stream, max_tokens=max_tokens)

    async def submit_all(self, name: str, count: int) -> list[Watched]:
        """Submit streamed jobs whose ids begin with ``name``."""
        return [await self.submit(f"{name}-{number}") for number in range(count)]

    async def follow(self, job: Watched, strike: Strike | None = None, *, limit: float = 200) -> None:
        """Read a stream to its end, and strike at a random moment."""
        at_token, seen, owner = random.randint(1, LATEST), 0, ""
        struck = False
        with anyio.fail_after(limit):
            async for entry in self.entries(job):
                owner = entry.data["worker"] if entry.event == "start" else owner
                seen += bool(entry.text)
                if strike is not None and not struck and seen >= at_token:
                    struck = True
                    await strike(owner)
        assert strike is None or struck, "the stream ended before it could be struck"

    async def follow_all(self, jobs: list[Watched], strike: Strike) -> list[Pause]:
        """Read streams at the same time and strike once, in the middle of the first.

        Returns:
            the longest pause of each since then.
        """
        struck = 0.0

        async def once(owner: str) -> None:
            nonlocal struck
            struck = time.monotonic()
            await strike(owner)

        async with anyio.create_task_group() as group:
            group.start_soon(self.follow, jobs[0], once)
            for job in jobs[1:]:
                group.start_soon(self.follow, job)
        none = Pause(struck, struck, ())
        return [max((one for one in pauses(job) if one.end > struck), key=seconds, default=none) for job in jobs]

    async def entries(self, job: Watched) -> AsyncGenerator[Entry, None]:
        """Read a stream to its end, through whatever happens to Redis."""
        after = "0-0"
        while not job.ended:
            try:
                reply = await self.redis.xread({f"stream:{job.id}": after}, block=500)
            except RedisError:
                await anyio.sleep(0.02)
                continue
            for entry_id, fields in reply[0][1] if reply else ():
                after = entry_id.decode()
                plain = {name.decode(): value.decode() for name, value in fields.items()}
                job.entries.append(Entry.parsed(after, plain, time.monotonic()))
                if job.ended:
                    job.result = await self._result(job.id)
                yield job.entries[-1]

    async def _result(self, job_id: str) -> Any:
        while True:
            try:
                stored = await self.redis.get(f"result:{job_id}")
            except RedisError:
                await anyio.sleep(0.02)
            else:
                return stored and json.loads(stored)


def assert_right(jobs: list[Watched]) -> None:
    """Every job ended once, with the text that its tokens make."""
    wrong = {job.id: violations for job in jobs if (violations := judge(job))}
    assert not wrong, wrong


def modes(job: Watched) -> list[str]:
    """How the attempts of a job began."""
    return [entry.data["mode"] for entry in job.entries if entry.event == "start"]


def seconds(pause: Pause) -> float:
    """How long a pause was."""
    return pause.end - pause.begin


def first_token(job: Watched) -> float:
    """How long the engine took for a job's first token on its first attempt, in seconds."""
    return job.entries[1].at - job.entries[0].at


def report(what: str, pauses: list[Pause]) -> None:
    """Print what readers had to wait (pytest shows it with -s, and when the test fails)."""
    gaps = [seconds(pause) for pause in pauses]
    print(f"\n{what}: {len(gaps)} streams, gap median {statistics.median(gaps):.2f} s, max {max(gaps):.2f} s")  # noqa: T201
