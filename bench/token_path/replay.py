"""A fixed replay through the token path in one process, to be run under valgrind: the same work at every run.

The worker's own client of the engine, performer and publisher, between two doubles on sockets in the same event loop:
an engine that writes the next token of every stream only once Redis's double has got the one before. So nothing
depends on how fast anything is, and what both doubles take is the same for every token.

Usage: python -m bench.token_path.replay STREAMS TOKENS
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from typing import Any, Final, cast

import anyio
import hiredis
from tests.doubles.source import SourceDouble

from velesio_worker.core.settings import CacheMode
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.execution.cache import PromptCache
from velesio_worker.execution.performer import Performer
from velesio_worker.execution.published import Published
from velesio_worker.execution.results.images import ImageOutput
from velesio_worker.execution.run import Run
from velesio_worker.queue.claims import Claim, Held
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Outage
from velesio_worker.stream import Publisher
from velesio_worker.wire.events import Done
from velesio_worker.wire.jobs import Job, Kind, parse_job

LONGEST: Final = 3600.0
"""Under valgrind everything takes fifty times as long."""

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(document: dict[str, Any]) -> bytes:
    data = b"data: " + json.dumps(document).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


class Doubles:
    """What the engine's and Redis's connections have in common.

    Attributes:
        taken: how many tokens Redis has got.
    """

    def __init__(self, streams: int, tokens: int) -> None:
        self.taken = 0
        self._streams = streams
        self._tokens = tokens
        self._written = 0
        self._wires: list[Any] = []

    def begin(self, wire: Any) -> None:
        """Take note of a request; once all are there, the first tokens leave."""
        wire.write(_HEAD)
        self._wires.append(wire)
        if len(self._wires) == self._streams:
            self._next()

    def took(self, tokens: int) -> None:
        """Take note of tokens that are in Redis; once all that were written are, the next leave."""
        self.taken += tokens
        if self.taken == self._written * self._streams:
            self._next()

    def _next(self) -> None:
        number, self._written = self._written, self._written + 1
        counts = {"tokens_predicted": number + 1, "tokens_evaluated": 7}
        if number < self._tokens:
            piece = {"index": 0, "content": f" word{number % 10}", "tokens": [number % 1000], "stop": False}
            data = _chunk(piece | {"id_slot": -1} | counts)
        else:
            last = {"index": 0, "content": "", "stop": True, "stop_type": "limit", "tokens_evaluated": 7}
            data = _chunk(last | {"tokens_predicted": self._tokens}) + b"0\r\n\r\n"
        for wire in self._wires:
            wire.write(data)


class EngineWire(asyncio.Protocol):
    """A connection to the engine."""

    def __init__(self, doubles: Doubles) -> None:
        self._doubles = doubles
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        if self._read.endswith(b"}"):
            self._read = b""
            self._doubles.begin(self._transport)


class RedisWire(asyncio.Protocol):
    """A connection to Redis, which takes whatever it is given."""

    def __init__(self, doubles: Doubles) -> None:
        self._doubles = doubles
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        answers: list[bytes] = []
        tokens = 0
        while (command := self._reader.gets()) is not False:
            parts = cast("list[bytes]", command)
            tokens += parts.count(b"token")
            answers.append(_answer(parts))
        self._transport.write(b"".join(answers))
        if tokens:
            self._doubles.took(tokens)


def _answer(parts: list[bytes]) -> bytes:
    """Answer as Redis does where all goes well: the script that publishes says what it wrote up to."""
    name = parts[0].upper()
    if name in {b"EVALSHA", b"EVAL"}:
        first, entries = int(parts[5]), (len(parts) - 7) // 2
        return b"*2\r\n$7\r\nwritten\r\n:%d\r\n" % (first + entries - 1)
    if name == b"XADD":
        return b"$%d\r\n%b\r\n" % (len(parts[2]), parts[2])
    return b"+OK\r\n"


async def _nobody(job: Job, on_wait: Callable[[EngineState], None]) -> dict[str, Any]:
    del on_wait
    raise AssertionError(job.id)


async def _nothing(job_id: str) -> Published:
    raise AssertionError(job_id)


def _run(publisher: Publisher, number: int, tokens: int) -> Run:
    data = {"prompt": "go", "max_tokens": tokens, "stream": True}
    payload = json.dumps({"id": f"job-{number}", "type": "completion", "data": data}).encode()
    job = parse_job(payload, max_bytes=1 << 20)
    slot = Slot(f"slot-{number}", "replay", f"text-{number}", "ready")
    claim = Claim(job, Held(job.id, slot, payload, 1), first=True, last=False)
    return Run(claim, publisher.open(job.id, 1))


async def _perform(performer: Performer, run: Run) -> None:
    outcome = await performer.perform(run)
    if not isinstance(outcome, Done):
        raise outcome
    await run.stream.end("done", b"{}", run.times.began)


async def replay(streams: int, tokens: int) -> int:
    """Relay so many streams of so many tokens; returns how many came to Redis."""
    doubles, loop = Doubles(streams, tokens), asyncio.get_running_loop()
    engine = await loop.create_server(lambda: EngineWire(doubles), "127.0.0.1", 0)
    redis = await loop.create_server(lambda: RedisWire(doubles), "127.0.0.1", 0)
    engine_port, redis_port = (server.sockets[0].getsockname()[1] for server in (engine, redis))
    url = f"redis://127.0.0.1:{redis_port}"
    client = connect(url, name="replay", socket_timeout=LONGEST)
    publisher = Publisher(Link(client, Keys("llama_queue"), Outage(url)), ttl=600)
    async with engine, redis, EngineHTTP(f"http://127.0.0.1:{engine_port}") as http:
        source = SourceDouble(LlamaEngine(http, LlamaProperties("double", 4096, streams)))
        output, cache = ImageOutput(client, None, inline_bytes=0), PromptCache(client, CacheMode.OFF)
        performer = Performer({Kind.TEXT: source}, _nobody, cache, output, _nothing, longest=LONGEST)
        async with anyio.create_task_group() as publishing:
            publishing.start_soon(publisher.run)
            async with anyio.create_task_group() as performing:
                for number in range(streams):
                    performing.start_soon(_perform, performer, _run(publisher, number, tokens))
            publishing.cancel_scope.cancel()
        await client.aclose()
    return doubles.taken


def main() -> None:
    streams, tokens = map(int, sys.argv[1:])
    fast = importlib.util.find_spec("uvloop") is not None
    taken = anyio.run(replay, streams, tokens, backend_options={"use_uvloop": fast})
    if taken != streams * tokens:
        sys.exit(f"{taken} tokens came to Redis, of {streams * tokens}")
    print(taken)


if __name__ == "__main__":
    main()
