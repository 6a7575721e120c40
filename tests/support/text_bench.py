"""A worker's text side on a real Redis, whose engine is scripted."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

from tests.doubles.engine import Answer, End, EngineDouble, document, sse
from tests.doubles.source import SourceDouble
from tests.support.llama_chunks import COMPLETION, last_piece, piece
from tests.support.redis_side import Side
from velesio_worker.core.settings import CacheMode
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.engines.requests import Blame, EngineRequest
from velesio_worker.execution.cache import PromptCache
from velesio_worker.execution.executor import Executor
from velesio_worker.execution.performer import Performer
from velesio_worker.execution.published import Published, read_published
from velesio_worker.execution.results.images import ImageOutput
from velesio_worker.queue.claims import Claim
from velesio_worker.wire.errors import JobError
from velesio_worker.wire.jobs import Job, Kind

TOKENIZE: Final = "/tokenize"
USER: Final = {"role": "user", "content": "hi"}
READY: Final = "{llama_queue}:text"
DEAD: Final = "{llama_queue}:dead"
PATIENCE: Final = 60.0


def start(mode: str) -> tuple[str, Any]:
    return "start", {"mode": mode}


def text(piece_: str) -> tuple[str, Any]:
    return "token", {"choices": [{"text": piece_, "index": 0, "finish_reason": None}]}


def delta(**fields: Any) -> tuple[str, Any]:
    return "token", {"choices": [{"delta": fields, "index": 0, "finish_reason": None}]}


FRESH, GO_ON, ANEW = start("fresh"), start("continue"), start("restart")
ROLE = delta(role="assistant", content=None)


async def write(side: Side, attempt: int, *entries: tuple[str, Any]) -> None:
    stream = side.publisher.open("a", attempt)
    for event, data in entries:
        stream.put(event, json.dumps(data).encode())
    with anyio.fail_after(PATIENCE):
        await stream.flushed()


class Source(SourceDouble):
    """A scripted llama-server in the supervisor's place, and who asked for it."""

    def __init__(self, engine: LlamaEngine) -> None:
        super().__init__(engine)
        self.unavailable: JobError | None = None
        self.leased: list[str | None] = []
        self.known_as: str | None = "tiny of 1 byte"
        self.requests: list[EngineRequest] = []
        self.alone: list[bool] = []
        """Whether each was to be read alone when it came."""
        self.blame = Blame.NOBODYS

    def asked_for(self, model: str | None, on_wait: Callable[[EngineState], None], request: EngineRequest) -> None:
        self.requests.append(request)
        self.alone.append(request.alone)
        request.blame = self.blame
        self.leased.append(model)
        if self.unavailable is not None:
            on_wait(EngineState.BACKOFF)
            raise self.unavailable

    async def identity(self, model: str | None) -> str | None:
        return self.known_as and (model or self.known_as)


class Manager:
    """Runs jobs that look after models as it is told, and says which."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.answer: dict[str, Any] | JobError = {"success": True}

    async def run(self, job: Job, on_wait: Callable[[EngineState], None]) -> dict[str, Any]:
        self.jobs.append(job)
        on_wait(EngineState.STARTING)
        if isinstance(self.answer, JobError):
            raise self.answer
        return self.answer


class Bench:
    """An executor between the real Redis and a scripted engine, and one job."""

    def __init__(self, side: Side, commands: Any, double: EngineDouble, http: EngineHTTP) -> None:
        self.side = side
        self.double = double
        self.http = http
        self.source = Source(LlamaEngine(http, LlamaProperties("tiny", 2048, 2)))
        self.manager = Manager()
        self.stall = math.inf
        self.cache_mode = CacheMode.OFF
        self.served_elsewhere = False
        self._commands = commands
        self.payload = b""

    def executor(self) -> Executor:
        async def elsewhere(_: Kind) -> bool:
            return self.served_elsewhere

        engines = {Kind.TEXT: self.source}
        cache = PromptCache(self._commands, self.cache_mode)
        output = ImageOutput(self._commands, None, inline_bytes=0)
        performer = Performer(engines, self.manager.run, cache, output, self.published, longest=PATIENCE)
        self.side.admission.announced = performer.announced
        return Executor(performer, self.side.closer, elsewhere, stall=self.stall)

    async def published(self, job_id: str) -> Published:
        (_, fields) = (await self._commands.xrevrange(f"stream:{job_id}", count=1))[0]
        assert fields[b"event"] == b"start", "what is published is read once nobody else can add to it"
        return await read_published(self._commands, job_id)

    async def submit(self, type_: str = "completion", *, stream: bool = True, **fields: Any) -> None:
        prompt: dict[str, Any] = {"prompt": "hi"} if type_ == "completion" else {"messages": [USER]}
        await self.push(type_, prompt | {"stream": stream, "max_tokens": 20} | fields.pop("data", {}), **fields)

    async def push(self, type_: str, data: dict[str, Any] | None, **fields: Any) -> None:
        self.payload = json.dumps({"id": "a", "type": type_, "data": data} | fields).encode()
        await self._commands.lpush(READY, self.payload)

    async def claim(self) -> Claim:
        """Take the job, which has to be there, and claim its next attempt."""
        slot = self.side.slot()
        assert await self.side.slots.take(READY, slot) == self.payload
        claim = await self.side.admission.admit(slot, self.payload)
        assert claim is not None
        return claim

    async def lose(self, *entries: tuple[str, Any]) -> None:
        """Make an attempt that publishes this, and is lost."""
        claim = await self.claim()
        await write(self.side, claim.held.attempt, *entries)
        await self.side.claims.hand_back(claim.held, in_good_order=False)

    async def run(self, executor: Executor | None = None) -> None:
        """Make an attempt; whatever becomes of the job, its slot is free then."""
        executor = executor or self.executor()
        claim = await self.claim()
        with anyio.fail_after(PATIENCE):
            await executor.run(claim)
        assert not await self._commands.exists(self.side.slot().key)

    async def waits(self) -> bool:
        """Whether the job lies in its list, to be taken again."""
        return await self._commands.lrange(READY, 0, -1) == [self.payload]

    async def result(self) -> dict[str, Any]:
        return json.loads(await self._commands.get("result:a") or b"{}")

    async def entries(self, attempt: int) -> list[tuple[str, Any]]:
        """What one attempt said."""
        found = await self._commands.xrange("stream:a", f"{attempt}-0", f"{attempt}-999999")
        return [(fields[b"event"].decode(), json.loads(fields[b"data"])) for _, fields in found]

    async def modes(self) -> list[str]:
        found = await self._commands.xrange("stream:a")
        return [json.loads(fields[b"data"])["mode"] for _, fields in found if fields[b"event"] == b"start"]

    async def text(self) -> str:
        return (await read_published(self._commands, "a")).text

    async def letters(self) -> list[dict[str, Any]]:
        return [json.loads(letter) for letter in await self._commands.lrange(DEAD, 0, -1)]

    def counted(self, tokens: int) -> None:
        """Have the engine find so many tokens in the text so far."""
        self.double.answers[TOKENIZE] = [document({"tokens": list(range(tokens))})]

    def asked(self) -> list[str]:
        return [request.path for request in self.double.requests]

    def prompts(self) -> list[str]:
        return [request.body["prompt"] for request in self.double.requests if request.path == COMPLETION]


@asynccontextmanager
async def scripted() -> AsyncGenerator[tuple[EngineDouble, EngineHTTP], None]:
    async with EngineDouble().serving() as double, EngineHTTP(double.url) as http:
        yield double, http


def whole(*pieces: str) -> Answer:
    return Answer([sse(piece(one)) for one in pieces] + [sse(last_piece(tokens_evaluated=9))])


def cut(*pieces: str) -> Answer:
    return Answer([sse(piece(one)) for one in pieces], End.CUT)


def refused(message: str, kind: str = "invalid_request_error", status: int = 400) -> Answer:
    return document({"error": {"code": status, "message": message, "type": kind}}, status)


ONCE: Final = [FRESH, text("Once"), text(" upon")]
QUIET: Final = Answer([sse(piece(" a"))], End.OPEN)
