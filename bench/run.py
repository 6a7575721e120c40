"""What a token costs on its way from the engine's socket to the Redis Stream, and how long it takes.

Every figure stands beside that of the plain way, measured in the same run: machines differ and are shared, so
compare ratios, not numbers.

Usage: make bench [ARGS="…"]
    sse path pace images        any of them, parts of the path in one process; all of them if none is named
    warm                        what it saves that conversations go on where they were read; some minutes
    gateway [--help]            what a viewer of the gateway costs
    paint [--help]              how smoothly the chat page paints 100,000 tokens (it takes chromium)
    fair                        what taking the next job costs Redis, by how many tenants wait
    relay delay jobs real peers scale figures [--help]
                                the token path in whole processes, one at a time; figures: all, and the pages' tables
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx
import orjson
import redis.asyncio as aioredis

from environments import environment
from fair import fair
from gateway import gateway
from images import images
from paint import paint
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.runs import CompletionGeneration
from velesio_worker.engines.llama.sse import SSEDecoder
from velesio_worker.engines.models.wheels import redis_server
from velesio_worker.job_stream import JobStream
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Outage
from velesio_worker.stream import Publisher
from velesio_worker.wire.events import EngineEvent
from velesio_worker.wire.text_parameters import CompletionParameters
from warm import warm

HERE = Path(__file__).parent
TOKEN_PATH = ("relay", "delay", "jobs", "real", "peers", "scale", "figures")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing answers on port {port}")


@contextlib.contextmanager
def process(*command: str, port: int) -> Generator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            wait_for_port(port)
            yield
        finally:
            child.kill()


@contextlib.contextmanager
def redis_running() -> Generator[str]:
    program = redis_server()
    if program is None:
        sys.exit("no redis-server: make setup")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = (str(program), "--port", str(port), "--save", "", "--dir", folder)
        with process(*command, port=port):
            yield f"redis://127.0.0.1:{port}"


@contextlib.contextmanager
def source(tokens: int, rate: float = 0) -> Generator[str]:
    port = free_port()
    arguments = ("--port", str(port), "--tokens", str(tokens), "--rate", str(rate))
    with process(sys.executable, str(HERE / "source.py"), *arguments, port=port):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def publishing(url: str) -> AsyncGenerator[Publisher]:
    client = connect(url, name="bench")
    publisher = Publisher(Link(client, Keys("llama_queue"), Outage(url)), ttl=600)
    async with anyio.create_task_group() as group:
        group.start_soon(publisher.run)
        yield publisher
        group.cancel_scope.cancel()
    await client.aclose()


class Straight:
    """A sink that publishes, and does nothing else."""

    def __init__(self, stream: JobStream) -> None:
        self._stream = stream
        self.room = stream.room

    def token(self, choice: dict[str, Any], *, has_output: bool) -> None:
        if has_output:
            self._stream.put("token", orjson.dumps({"choices": [choice]}))

    def tell(self, event: EngineEvent) -> None:
        pass

    def heard(self) -> bool:
        return self._stream.has_room


async def our_job(http: EngineHTTP, publisher: Publisher, job_id: str) -> None:
    stream = publisher.open(job_id, 1)
    stream.put("start", b"{}")
    generation = CompletionGeneration(http, CompletionParameters(prompt="x", stream=True, max_tokens=1_000_000), 4096)
    await generation.run(Straight(stream))
    stream.put("done", b"{}")
    await stream.flushed()


async def plain_job(http: httpx.AsyncClient, redis: Any, job_id: str) -> None:
    """What one writes first: lines of text, json, and an awaited XADD for each token."""
    async with http.stream("POST", "/completion", json={"prompt": "x", "stream": True}) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                chunk = json.loads(line[6:])
                data = json.dumps({"choices": [{"text": chunk["content"], "index": 0, "finish_reason": None}]})
                await redis.xadd(f"stream:{job_id}", {"event": "token", "data": data})


async def path(streams: int = 64, tokens: int = 300) -> None:
    """Tokens per second of this process's CPU time, parsing and publishing included."""
    total = streams * tokens
    with redis_running() as url, source(tokens) as engine:
        async with httpx.AsyncClient(base_url=engine, timeout=None) as http, aioredis.Redis.from_url(url) as redis:  # pyright: ignore[reportUnknownMemberType]
            began, cpu = time.perf_counter(), time.process_time()
            async with anyio.create_task_group() as group:
                for number in range(streams):
                    group.start_soon(plain_job, http, redis, f"plain-{number}")
            plain = total / (time.process_time() - cpu)
            plain_wall = total / (time.perf_counter() - began)
        async with publishing(url) as publisher, EngineHTTP(engine) as http:
            began, cpu = time.perf_counter(), time.process_time()
            async with anyio.create_task_group() as group:
                for number in range(streams):
                    group.start_soon(our_job, http, publisher, f"ours-{number}")
            ours = total / (time.process_time() - cpu)
            ours_wall = total / (time.perf_counter() - began)
    print(f"path, {streams} streams of {tokens} tokens, unpaced")
    print(f"  plain: httpx lines, awaited XADD   {plain:9,.0f} tokens/CPU-s  {plain_wall:9,.0f} tokens/s")
    print(f"  ours:  SSE decoder, publisher      {ours:9,.0f} tokens/CPU-s  {ours_wall:9,.0f} tokens/s")
    print(f"  ratio                              {ours / plain:9.2f}               {ours_wall / plain_wall:9.2f}")


async def pace(streams: int = 8, tokens: int = 200, rate: float = 20) -> None:
    """How long a token is on its way at 20 tokens/s: from its making to a reader that blocks on the stream."""
    ids = [f"paced-{number}" for number in range(streams)]
    with redis_running() as url, source(tokens, rate) as engine:
        async with publishing(url) as publisher, EngineHTTP(engine) as http:
            reader = await anyio.open_process([sys.executable, str(HERE / "reader.py"), url, *ids], stdin=None)
            output = reader.stdout
            if output is None:
                sys.exit("the reader has no output")
            await output.receive()  # it is ready
            async with anyio.create_task_group() as group:
                for job_id in ids:
                    group.start_soon(our_job, http, publisher, job_id)
            delays = [float(line) for line in b"".join([chunk async for chunk in output]).split()]
    cuts = statistics.quantiles(delays, n=1000)
    late = sum(delay > 50 for delay in delays)
    print(f"pace, {streams} streams of {tokens} tokens at {rate:g} tokens/s: from made to read")
    print(f"  median {cuts[499]:.1f} ms, 99 % {cuts[989]:.1f} ms, most {max(delays):.1f} ms")
    print(f"  later than 50 ms: {late} of {len(delays)}")


def sse(events: int = 50_000) -> None:
    """Events per second of CPU time: bytes in, data out; fed in pieces of 4 KiB."""
    from httpx_sse._decoders import SSEDecoder as LineDecoder  # noqa: PLC0415

    chunk = {"index": 0, "content": " word", "tokens": [1], "stop": False, "id_slot": -1, "tokens_predicted": 1}
    data = (b"data: " + orjson.dumps(chunk) + b"\n\n") * events
    pieces = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    began = time.process_time()
    lines = LineDecoder()
    count = sum(lines.decode(line) is not None for line in data.decode().split("\n"))
    plain = count / (time.process_time() - began)
    began = time.process_time()
    decoder = SSEDecoder()
    count = sum(len(decoder.feed(piece)) for piece in pieces)
    ours = count / (time.process_time() - began)
    print(f"sse, {events} events")
    print(f"  httpx-sse's decoder, lines given   {plain:9,.0f} events/CPU-s")
    print(f"  ours, from bytes                   {ours:9,.0f} events/CPU-s\n  ratio {ours / plain:.2f}")


WHOLE: Final = {"path": path, "pace": pace, "images": images, "warm": warm}
"""What is run with no more than itself."""


def main() -> None:
    wanted = sys.argv[1:] or ["sse", "path", "pace", "images"]
    fast = importlib.util.find_spec("uvloop") is not None
    if wanted[0] in {"-h", "--help"}:
        print(__doc__)
        return
    if wanted[0] in TOKEN_PATH:
        os.execve(sys.executable, [sys.executable, "-m", "bench.token_path", *wanted], environment())  # noqa: S606
    if wanted[0] == "gateway":
        anyio.run(gateway, wanted[1:], backend_options={"use_uvloop": fast})
    elif wanted[0] == "paint":
        paint(wanted[1:])
    else:
        in_one_process(wanted, fast=fast)


def in_one_process(wanted: list[str], *, fast: bool) -> None:
    """Run benchmarks one after another; ``fast``: on uvloop."""
    for name in wanted:
        if name == "sse":
            sse()
        elif name in WHOLE:
            anyio.run(WHOLE[name], backend_options={"use_uvloop": fast})
        elif name == "fair":
            with redis_running() as url:
                anyio.run(fair, url, backend_options={"use_uvloop": fast})
        else:
            sys.exit(f"no benchmark {name!r}; --help tells which there are")


if __name__ == "__main__":
    main()
