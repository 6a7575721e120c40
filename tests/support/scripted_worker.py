"""A worker that answers jobs by scripts, as a real one writes streams and results, and a gateway in front of it."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import httpx
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import BaseRoute

from velesio_worker.client import Client, EngineInfo, QueueDepths, Waiting, WorkerInfo
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.jobs import Fleet, Jobs, Model
from velesio_worker.queue.keys import cancel_key, result_key, stream_key
from velesio_worker.wire.errors import JobError
from velesio_worker.wire.events import StreamEvent, terminal_of
from velesio_worker.wire.jobs import Kind, parse_job
from velesio_worker.wire.transcript import Transcript

USAGE: Final = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
TIMINGS: Final = {"cache_n": 0, "prompt_n": 4, "predicted_n": 2}
HI: Final[list[Any]] = [{"role": "user", "content": "Hi."}]
CHAT: Final[dict[str, Any]] = {"model": "tiny", "messages": HI}
MODELS: Final = (Model("tiny", "text", default=True, context=512), Model("org/big", "text"), Model("sd", "image"))


class Desk:
    """One job, as its worker sees it."""

    def __init__(self, commands: Any, job: dict[str, Any]) -> None:
        self._commands = commands
        self.id: str = job["id"]
        self.type: str = job["type"]
        self.data: dict[str, Any] = job["data"]
        self.job = job
        self._attempt, self._next, self._said = 1, 0, False

    async def start(self, mode: str = "fresh") -> None:
        if mode != "fresh":
            self._attempt, self._next = self._attempt + 1, 0
        start = {"type": self.type, "attempt": self._attempt, "worker": "w", "model": "tiny", "mode": mode}
        await self.write("start", start)

    def attempt(self, number: int) -> None:
        """Write what follows as this attempt."""
        self._attempt, self._next = number, 0

    async def write(self, event: str, data: dict[str, Any]) -> None:
        entry_id, self._next = f"{self._attempt}-{self._next}", self._next + 1
        self._said |= event == "token"
        await self._commands.xadd(stream_key(self.id), {"event": event, "data": orjson.dumps(data)}, id=entry_id)

    async def keep(self, key: str, value: bytes) -> None:
        """Store something beside the stream for a while."""
        await self._commands.set(key, value, ex=100)

    async def end(self, result: dict[str, Any]) -> None:
        await self._commands.set(result_key(self.id), orjson.dumps(result), ex=100)
        await self.write(*terminal_of(result, partial=self._said))

    async def fail(self, error: JobError) -> None:
        await self.end(error.result())

    async def cancelled(self) -> None:
        """Wait until somebody wants the job to be stopped."""
        while not await self._commands.exists(cancel_key(self.id)):
            await anyio.sleep(0.01)

    async def stream(self, choices: Iterable[dict[str, Any]], reason: str = "stop", **more: Any) -> None:
        """Answer a job that writes text with these choices."""
        transcript = Transcript()
        await self.start()
        for choice in choices:
            transcript.add(choice)
            if self.data.get("stream"):
                await self.write("token", {"choices": [choice]})
        result = transcript.result(reason, USAGE, TIMINGS, chat=self.type == "chat_completion")
        await self.end(result | more)


Script = Callable[[Desk], Coroutine[Any, Any, None]]


def delta(said: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"delta": said, "index": 0, "finish_reason": None, **more}


def piece(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "index": 0, "finish_reason": None, **more}


ROLE: Final = delta({"role": "assistant", "content": None})


def says(*choices: dict[str, Any], reason: str = "stop", **more: Any) -> Script:
    """Return a script of an answer that is known from the beginning."""

    async def script(desk: Desk) -> None:
        await desk.stream(choices, reason, **more)

    return script


def fails(error: JobError, *choices: dict[str, Any]) -> Script:
    """Return a script of an answer that ends with an error."""

    async def script(desk: Desk) -> None:
        await desk.start()
        for choice in choices:
            await desk.write("token", {"choices": [choice]})
        await desk.fail(error)

    return script


def answers(result: dict[str, Any]) -> Script:
    """Return a script of a job that has one answer."""

    async def script(desk: Desk) -> None:
        await desk.start()
        await desk.end(result)

    return script


class ScriptedWorker:
    """Takes jobs off the queue, has them checked as a worker does, and answers them by its script.

    Attributes:
        script: how jobs are answered.
        jobs: those that came, in order.
    """

    def __init__(self, commands: Any) -> None:
        self._commands = commands
        self.script: Script = says(ROLE, delta({"content": "Hi."}))
        self.jobs: list[dict[str, Any]] = []
        self.desks: list[Desk] = []

    @property
    def data(self) -> list[dict[str, Any]]:
        """The parameters of the jobs that came."""
        return [job["data"] for job in self.jobs]

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                payload = await self._commands.rpop("llama_queue")
                if payload is None:
                    await anyio.sleep(0.005)
                    continue
                parse_job(payload, max_bytes=10**8)
                job = orjson.loads(payload)
                self.jobs.append(job)
                self.desks.append(Desk(self._commands, job))
                tasks.start_soon(self.script, self.desks[-1])


def fleet_of(models: Sequence[Model], kinds: Sequence[str] = ("text", "image"), waiting: int = 0) -> Fleet:
    """Return what is known of one worker, and of so many jobs of each kind that wait."""
    engine = EngineInfo("ready", None, (), 0, None, None, exchanges=True, slots=1, running=0, reason="")
    worker = WorkerInfo("w", "0", dict.fromkeys(kinds, engine), 0, 60.0)
    lists = {"incoming": Waiting(0, 0.0)} | {kind.value: Waiting(waiting, 3.0) for kind in Kind}
    return Fleet((worker,), QueueDepths(lists, 0, 0, {}, {}, 0), tuple(models))


class EachByItself:
    """Follows each stream by itself."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def watch(self, job_id: str, after: str = "0-0") -> AsyncGenerator[Sequence[StreamEvent], None]:
        async for event in self._client.events(job_id, after):
            yield [event]


class KnownFleet(Jobs):
    """Jobs for workers of which is known what they have.

    Attributes:
        models: the models that there are.
        kinds: the kinds of job that somebody takes.
        waiting: how many jobs wait.
    """

    models: tuple[Model, ...] = MODELS
    kinds: tuple[str, ...] = ("text", "image")
    waiting = 0

    async def fleet(self) -> Fleet:
        return fleet_of(self.models, self.kinds, self.waiting)


@dataclass(frozen=True)
class ScriptedGateway:
    """What a dialect's routes need, and where they are reached."""

    jobs: KnownFleet
    worker: ScriptedWorker
    url: str = ""

    def caller_of(self, request: Request) -> Caller:
        return Caller("tester", b"key", request.headers.get("x-session-id"))


async def post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    return await http.post(path, content=orjson.dumps(body), headers={"content-type": "application/json"})


@asynccontextmanager
async def served(app: Starlette) -> AsyncGenerator[str, None]:
    """Serve an app; yields its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            server.should_exit = True


@asynccontextmanager
async def scripted_gateway(
    redis_url: str, commands: Any, routes: Callable[[Any], Sequence[BaseRoute]]
) -> AsyncGenerator[ScriptedGateway, None]:
    """Serve a dialect's routes in front of a worker that answers by scripts."""
    async with Client(redis_url) as client:
        numbers = iter(range(10**6))
        jobs = KnownFleet(client, EachByItself(client), max_queue=1000, new_id=lambda _: f"job-{next(numbers)}")
        gateway = ScriptedGateway(jobs, ScriptedWorker(commands))
        async with served(Starlette(routes=routes(gateway))) as url, anyio.create_task_group() as tasks:
            tasks.start_soon(gateway.worker.run)
            yield ScriptedGateway(jobs, gateway.worker, url)
            tasks.cancel_scope.cancel()
