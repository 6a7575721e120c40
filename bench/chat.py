"""How long the first token of an OpenAI chat stream takes: of the engine, of the job's stream, of the gateway.

The engine is bench/source.py, whose first token leaves at once: a real one's takes so long, and varies so much, that
nothing of what stands in front of it would be seen. The ways take turns request by request, so that whatever else the
machine does meets them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import anyio

import peers
from processes import RedisProcess, free_port, start_worker, until
from velesio_worker.client import Client

HERE: Final = Path(__file__).parent
TOKENS: Final = 4
RATE: Final = 100
WARM_UP: Final = 5
MODEL: Final = "source"
MARK: Final = b" word0"
BODY: Final = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS}

Way = Callable[[], Awaitable[float]]
"""Asks once; returns how long the first token took, in milliseconds."""


class HttpWay:
    """A server that streams in OpenAI's form, over a connection that is kept. Raw: a client's own time is no server's.

    Args:
        port: where it listens.
        keeps: whether it keeps connections.
        token: what it asks for, if it asks for one.
    """

    def __init__(self, port: int, *, keeps: bool = True, token: str = "") -> None:
        body = json.dumps(BODY | {"model": MODEL, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {token}\r\n" if token else ""
        self._request = head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        self._port = port
        self._keeps = keeps
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __call__(self) -> float:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        began = time.perf_counter()
        self._writer.write(self._request)
        text, first = b"", 0.0
        while b"[DONE]" not in text or (self._keeps and not text.endswith(b"\r\n0\r\n\r\n")):
            piece = await self._reader.read(65536)
            if not piece:
                break
            text += piece
            if not first and MARK in text:
                first = time.perf_counter()
        if not first:
            raise peers.MissingPeerError(f"it streams no token: {text[-200:]!r}")
        if not self._keeps:
            self._writer.close()
            self._reader = None
        return (first - began) * 1000


class StreamWay:
    """A chat job that is pushed and whose stream is read without a gateway, by the project's own client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self) -> float:
        began, first = time.perf_counter(), 0.0
        job_id = await self._client.submit("chat_completion", BODY | {"stream": True})
        async for event in self._client.events(job_id):
            if not first and event.event == "token" and MARK.decode() in json.dumps(event.data):
                first = time.perf_counter()
        if not first:
            raise peers.MissingPeerError("the job has no token")
        return (first - began) * 1000


async def take_turns(ways: dict[str, Way], requests: int) -> dict[str, list[float]]:
    """Ask each way in turn; returns how long their first tokens took."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-WARM_UP, requests):
        for name, way in ways.items():
            with anyio.fail_after(30):
                took = await way()
            if number >= 0:
                found[name].append(took)
    return found


def spread(values: list[float]) -> tuple[float, float]:
    """Return the median, and what 99 of 100 are within."""
    return round(statistics.median(values), 2), round(statistics.quantiles(values, n=100)[98], 2)


async def first_tokens(folder: Path, requests: int, *, beside: bool) -> dict[str, Any]:
    """Measure all ways; ``beside``: LiteLLM's proxy on the same engine as well.

    Returns:
        By way, median and 99th percentile in milliseconds, or why it was not measured.
    """
    said: dict[str, Any] = {}
    async with contextlib.AsyncExitStack() as stack:
        engine, redis_url = await stack.enter_async_context(running(folder))
        gateway = stack.enter_context(peers.gateway(folder, redis_url))
        client = await stack.enter_async_context(Client(redis_url))
        ways: dict[str, Way] = {
            "the engine itself": HttpWay(engine, keeps=False),
            "the job's stream, read directly": StreamWay(client),
            "the gateway": HttpWay(gateway.port),
        }
        if beside:
            try:
                key = f"sk-{secrets.token_urlsafe(32)}"
                proxy = await litellm(stack, folder, engine, key)
                ways["LiteLLM's proxy"] = HttpWay(proxy.port, token=key)
            except peers.MissingPeerError as error:
                said["LiteLLM's proxy"] = f"not measured: {error}"
        found = await take_turns(ways, requests)
    rows: dict[str, Any] = {name: spread(values) for name, values in found.items()}
    rows |= said
    rows["added by the gateway to reading the stream"] = _added(found, "the gateway", "the job's stream, read directly")
    rows["added by worker, Redis and gateway to the engine"] = _added(found, "the gateway", "the engine itself")
    if "LiteLLM's proxy" in found:
        rows["added by LiteLLM's proxy to the engine"] = _added(found, "LiteLLM's proxy", "the engine itself")
    return rows


def _added(found: dict[str, list[float]], way: str, to: str) -> tuple[float, float]:
    """Compare two ways' medians, and their 99th percentiles."""
    (median, most), (other_median, other_most) = spread(found[way]), spread(found[to])
    return round(median - other_median, 2), round(most - other_most, 2)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[tuple[int, str]]:
    """Have an engine, a Redis, and a worker that uses both; gives the engine's port and Redis' address."""
    env, port = peers.environment(), free_port()
    redis = RedisProcess(folder, env, lasting=False)
    await redis.start()
    source = [sys.executable, str(HERE / "source.py"), "--port", str(port), "--tokens", str(TOKENS)]
    with peers.started("source", [*source, "--rate", str(RATE)], port, folder, env):
        settings = {"REDIS_URL": redis.url, "LLAMA_SERVER_URL": f"http://127.0.0.1:{port}", "RUN_SD": "false"}
        worker = await start_worker(folder / "worker.log", env | settings)
        try:
            if not await until(lambda: worker.ready, limit=60):
                sys.exit(f"the worker is not ready: {worker.last_words()}")
            yield port, redis.url
        finally:
            worker.process.kill()
            await worker.process.wait()
            await redis.kill()


async def litellm(stack: contextlib.AsyncExitStack, folder: Path, engine: int, key: str) -> peers.Server:
    """Have LiteLLM's proxy, one process, which asks for a key. Raises MissingPeerError."""
    python = await anyio.to_thread.run_sync(peers.interpreter, "bench-litellm")
    port, config = free_port(), folder / "litellm.yaml"
    parameters = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}
    models = {"model_list": [{"model_name": MODEL, "litellm_params": parameters}]}
    config.write_text(json.dumps(models))  # which is YAML
    command = [str(Path(python).with_name("litellm")), "--config", str(config), "--host", "127.0.0.1"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    env = {**os.environ, **quiet, "LITELLM_MASTER_KEY": key}
    env.pop("PYTHONPATH", None)
    return stack.enter_context(
        peers.started("litellm", [*command, "--port", str(port), "--telemetry", "False"], port, folder, env, limit=90)
    )
