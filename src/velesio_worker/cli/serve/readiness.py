"""When a request can be answered: an engine of ours is ready, and the gateway knows of it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Final

import anyio
from redis.exceptions import RedisError

from velesio_worker.cli.serve.keeping import Part
from velesio_worker.cli.serve.plan import Plan
from velesio_worker.cli.serve.voice import Journal, Voice
from velesio_worker.client import Client, EngineInfo, WorkerInfo
from velesio_worker.core.threads import aside
from velesio_worker.queue.remedies import remedy
from velesio_worker.wire.errors import VelesioError

_LOOK_SECONDS: Final = 0.25
_ANSWER_SECONDS: Final = 5.0
_READY: Final = "ready"
_FAILED: Final = "failed"
_OK: Final = 200


async def until_ready(plan: Plan, parts: Sequence[Part], voice: Voice, journal: Journal) -> None:
    """Wait until a request can be answered, and say what is waited for.

    Raises:
        VelesioError: no engine can be started, and why.
    """
    *workers, gateway = parts
    began = time.monotonic()
    queue = plan.environ.get("QUEUE_NAME") or "llama_queue"
    async with Client(plan.redis_url, queue_name=queue) as client:
        with voice.waiting():
            while True:
                engines, trouble = await _engines(client, {part.pid for part in workers}, plan.redis_url)
                ready = [engine for engine in engines if engine.state == _READY and engine.slots]
                if ready and await aside(lambda: _answers(plan)):
                    break
                if engines and all(engine.state == _FAILED for engine in engines):
                    raise VelesioError(f"no engine can be started. {engines[0].reason}")
                voice.doing(trouble or _doing(engines, journal), time.monotonic() - began)
                await anyio.sleep(_LOOK_SECONDS)
    for part in (*workers, gateway):
        part.proved = True
    slots = sum(engine.slots for engine in ready)
    names = ", ".join(sorted({engine.model or engine.default or "a model" for engine in ready}))
    voice.say(f"ready after {time.monotonic() - began:.1f} s: {names}, {slots} jobs at a time")


async def _engines(client: Client, ours: Iterable[int | None], redis_url: str) -> tuple[list[EngineInfo], str]:
    """Return the engines of these processes, and what is the matter with Redis; empty if nothing is."""
    try:
        workers: Sequence[WorkerInfo] = (await client.look()).workers
    except RedisError as error:
        return [], f"waiting for Redis: {remedy(error, redis_url)}"
    ours = set(ours)
    return [engine for worker in workers if worker.details.pid in ours for engine in worker.engines.values()], ""


def _doing(engines: Sequence[EngineInfo], journal: Journal) -> str:
    """Say what is waited for."""
    if journal.download:
        return journal.download
    if not engines:
        return "starting the workers"
    first = next((engine for engine in engines if engine.state != _READY), engines[0])
    if first.state == _READY:
        return "starting the gateway"
    why = f" ({first.reason.splitlines()[0]})" if first.reason else ""
    return f"loading {first.default or 'the model'}{why}"


def _answers(plan: Plan) -> bool:
    """Ask the gateway whether requests would be served."""
    host = plan.address.removeprefix("http://").rpartition(":")[0].strip("[]")
    try:
        with closing(http.client.HTTPConnection(host, plan.port, timeout=_ANSWER_SECONDS)) as gateway:
            gateway.request("GET", "/readyz")
            return gateway.getresponse().status == _OK
    except (OSError, http.client.HTTPException):
        return False
