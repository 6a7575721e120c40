"""What is measured: the worker, the floor, the same relay on other queues, a proxy, and the engine read directly."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread

from bench.environments import MissingPeerError, interpreter
from bench.processes import free_port
from bench.token_path import stand
from bench.token_path.watch import Seen, faults_in, follow, request, tokens_in, watching

APPS: Final = Path(__file__).parent / "apps"
PEERS: Final = ("arq", "taskiq", "saq", "streaq")
LATEST_SECONDS: Final = 180.0
"""How long what is late may take beyond its pace, before it is given up."""

_AT_ONCE: Final = 64


@dataclass(slots=True)
class Ran:
    """What came of some jobs.

    Attributes:
        seen: the tokens of the jobs that were watched, by job.
        faults: what is wrong with streams, in words.
        wall: how long all took, in seconds.
    """

    seen: list[list[Seen]]
    faults: list[str]
    wall: float


class System(Protocol):
    """Something that relays streams."""

    def cpu(self) -> float:
        """Return the CPU time that it has had, in seconds."""
        ...

    async def redis_cpu(self) -> float:
        """Return the CPU time that its Redis has had, in seconds; 0 where it has none."""
        ...

    async def run(self, jobs: Sequence[str], tokens: int, seconds: float, watched: int) -> Ran:
        """Have jobs run to their ends.

        Args:
            jobs: their ids.
            tokens: how many each has.
            seconds: how long they take at their pace.
            watched: how many of them are followed while they run.

        Raises:
            TimeoutError: they do not end.
            ConnectionError: an answer was cut.
        """
        ...


class OnRedis:
    """What publishes streams to a Redis of its own.

    Args:
        redis: the Redis.
        submit: submits jobs: their ids, and how many tokens each has.
        pid: whose CPU time it is.
    """

    def __init__(self, redis: stand.Redis, submit: Callable[[Sequence[str], int], Any], pid: int) -> None:
        self.redis = redis
        self._submit = submit
        self._pid = pid

    def cpu(self) -> float:
        return stand.cpu_with_children(self._pid)

    async def redis_cpu(self) -> float:
        return await self.redis.cpu()

    async def run(self, jobs: Sequence[str], tokens: int, seconds: float, watched: int) -> Ran:
        sample = jobs[:: max(1, len(jobs) // watched)][:watched] if watched else ()
        if not sample:
            return Ran([], [], await self._finish(jobs, tokens, seconds))
        async with watching(self.redis.port, sample) as watch:
            wall = await self._finish(jobs, tokens, seconds)
            with anyio.move_on_after(1):
                await watch.over.wait()
        return Ran(list(watch.seen.values()), [], wall)

    async def _finish(self, jobs: Sequence[str], tokens: int, seconds: float) -> float:
        began = time.monotonic()
        answer = self._submit(jobs, tokens)
        if answer is not None:
            await answer
        await anyio.sleep(max(0.05, seconds - (time.monotonic() - began)))
        left = list(jobs)
        while left and time.monotonic() < began + seconds + LATEST_SECONDS:
            left = await self._open(left)
            if left:
                await anyio.sleep(0.05)
        if left:
            took = time.monotonic() - began
            raise TimeoutError(f"{len(left)} of {len(jobs)} streams of {seconds:.0f} s have no end after {took:.0f} s")
        return time.monotonic() - began

    async def _open(self, jobs: Sequence[str]) -> list[str]:
        """Return the jobs that have not ended; the first ones answer for all while they have not."""
        first = await self._last_events(jobs[:_AT_ONCE])
        if any(event not in {"done", "error"} for event in first):
            return list(jobs)
        events = first + await self._last_events(jobs[_AT_ONCE:])
        return [job for job, event in zip(jobs, events, strict=True) if event not in {"done", "error"}]

    async def _last_events(self, jobs: Sequence[str]) -> list[str]:
        pipe = self.redis.client.pipeline(transaction=False)
        for job in jobs:
            pipe.xrevrange(f"stream:{job}", count=1)
        return [entries[0][1]["event"] if entries else "" for entries in await pipe.execute()]

    async def check(self, jobs: Sequence[str], tokens: int) -> list[str]:
        """Read all streams; returns what is wrong with them, and removes them."""
        wrong: list[str] = []
        for at in range(0, len(jobs), _AT_ONCE):
            some = jobs[at : at + _AT_ONCE]
            pipe = self.redis.client.pipeline(transaction=False)
            for job in some:
                pipe.xrange(f"stream:{job}")
            for job, entries in zip(some, await pipe.execute(), strict=True):
                told = (fields["data"].encode() for _, fields in entries if fields["event"] == "token")
                numbers = [one.number for data in told for one in tokens_in(data, 0)]
                ends = [fields for _, fields in entries if fields["event"] in {"done", "error"}]
                if len(ends) != 1 or ends[0]["event"] != "done" or entries[-1][1] is not ends[0]:
                    wrong.append(f"{job} ends with {ends}")
                elif fault := faults_in(numbers, tokens):
                    wrong.append(f"{job}: {fault}")
            await self.redis.client.unlink(*(f"{what}:{job}" for job in some for what in ("stream", "result")))
        return wrong


class OverHttp:
    """What answers each request with a stream.

    Args:
        port: where it listens.
        path: what is asked for.
        body: the request's body, but for its length.
        length: the name of the field that has the number of tokens.
        pid: whose CPU time it is; None: nobody's.
        token: what it asks for, if it asks for one.
    """

    def __init__(
        self, port: int, path: str, body: dict[str, Any], length: str, pid: int | None = None, token: str = ""
    ) -> None:
        self._port, self._path, self._body, self._length = port, path, body, length
        self._pid, self._token = pid, token

    def cpu(self) -> float:
        return 0.0 if self._pid is None else stand.cpu_with_children(self._pid)

    async def redis_cpu(self) -> float:
        return 0.0

    async def run(self, jobs: Sequence[str], tokens: int, seconds: float, watched: int) -> Ran:
        del watched
        what = request(self._path, self._body | {self._length: tokens, "stream": True}, self._token)
        began = time.monotonic()
        with anyio.fail_after(seconds + LATEST_SECONDS):
            found = await follow(self._port, what, len(jobs))
        faults = [faults_in([one.number for one in watch.seen], tokens) for watch in found]
        return Ran([watch.seen for watch in found], [one for one in faults if one], time.monotonic() - began)


def job_payload(job: str, tokens: int) -> str:
    """Return a job as a producer pushes it."""
    data = {"prompt": "go", "max_tokens": tokens, "stream": True}
    return json.dumps({"id": job, "type": "completion", "data": data})


@asynccontextmanager
async def ours(folder: Path, engine: int, streams: int) -> AsyncGenerator[System]:
    """Have the worker."""
    async with stand.redis(folder, "ours") as redis:

        def submit(jobs: Sequence[str], tokens: int) -> Any:
            return redis.client.lpush("llama_queue", *(job_payload(job, tokens) for job in jobs))

        url = f"http://127.0.0.1:{engine}"
        async with stand.worker(folder, redis.url, streams, LLAMA_SERVER_URL=url) as pid:
            yield OnRedis(redis, submit, pid)


@asynccontextmanager
async def floor(folder: Path, engine: int, streams: int) -> AsyncGenerator[System]:
    """Have the floor."""
    del streams
    async with stand.redis(folder, "floor") as redis:
        command = [sys.executable, str(stand.HERE / "floor.py"), f"http://127.0.0.1:{engine}", str(redis.port)]
        with stand.spawned("floor", command, folder) as process:

            def submit(jobs: Sequence[str], tokens: int) -> None:
                process.tell(json.dumps({"ids": list(jobs), "tokens": tokens}))

            yield OnRedis(redis, submit, process.pid)


def peer(name: str) -> Callable[[Path, int, int], AbstractAsyncContextManager[System]]:
    """Return what has a peer's worker: a queue of tasks with the relay as it is usually written."""

    @asynccontextmanager
    async def running(folder: Path, engine: int, streams: int) -> AsyncGenerator[System]:
        python = await anyio.to_thread.run_sync(interpreter, f"bench-{name}")
        app = str(APPS / f"{name}_app.py")
        async with stand.redis(folder, name) as redis:
            env = stand.worker_environment(
                BENCH_REDIS_URL=redis.url, BENCH_ENGINE_URL=f"http://127.0.0.1:{engine}", BENCH_CONCURRENCY=str(streams)
            )
            env["PYTHONPATH"] = str(APPS)
            command = [python, app, "work"]
            if name == "taskiq":
                command = [str(Path(python).with_name("taskiq")), "worker", "taskiq_app:broker", "--workers", "1"]
                command += ["--max-async-tasks", str(streams), "--log-level", "ERROR"]
            with (
                stand.spawned(name, command, folder, env) as process,
                stand.spawned(f"{name}-submit", [python, app, "submit"], folder, env) as producer,
            ):

                def submit(jobs: Sequence[str], tokens: int) -> None:
                    process.check()
                    producer.tell(json.dumps({"ids": list(jobs), "tokens": tokens}))

                yield OnRedis(redis, submit, process.pid)

    return running


@asynccontextmanager
async def direct(folder: Path, engine: int, streams: int) -> AsyncGenerator[System]:
    """Have nothing at all: the engine's streams are read as they are."""
    del folder, streams
    yield OverHttp(engine, "/completion", {"prompt": "go"}, "n_predict")


@asynccontextmanager
async def litellm(folder: Path, engine: int, streams: int) -> AsyncGenerator[System]:
    """Have LiteLLM's proxy, one process. Raises MissingPeerError."""
    del streams
    python = await anyio.to_thread.run_sync(interpreter, "bench-litellm")
    port, config, key = free_port(), folder / "litellm.yaml", f"sk-{secrets.token_urlsafe(32)}"
    parameters = {"model": "openai/double", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "double", "litellm_params": parameters}]}))
    command = [str(Path(python).with_name("litellm")), "--config", str(config), "--host", "127.0.0.1"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    env = stand.worker_environment(**quiet, LITELLM_MASTER_KEY=key)
    del env["PYTHONPATH"]
    with stand.spawned("litellm", [*command, "--port", str(port), "--telemetry", "False"], folder, env) as process:
        await stand.listening(process, port)
        body = {"model": "double", "messages": [{"role": "user", "content": "go"}]}
        yield OverHttp(port, "/v1/chat/completions", body, "max_tokens", process.pid, key)


Start = Callable[[Path, int, int], AbstractAsyncContextManager[System]]
"""Has a system: the folder of its logs, the engine's port, the most streams at a time."""

SYSTEMS: Final[dict[str, Start]] = {
    "ours": ours,
    "floor": floor,
    "direct": direct,
    **{name: peer(name) for name in PEERS},
    "litellm": litellm,
}
NAMES: Final = {
    "ours": "velesio-worker",
    "floor": "the floor",
    "direct": "the engine, read directly",
    "arq": "arq",
    "taskiq": "taskiq-redis",
    "saq": "SAQ",
    "streaq": "streaq",
    "litellm": "LiteLLM's proxy",
}

__all__ = ["NAMES", "PEERS", "SYSTEMS", "MissingPeerError", "OnRedis", "Ran", "System"]
