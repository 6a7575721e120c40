"""``GET /queue/status``: how much waits, and who is there to run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from velesio_worker.client import QueueDepths, Waiting, WorkerInfo
from velesio_worker.gateway.app_state import gateway_of


async def status(request: Request) -> Response:
    """Say how the queue and its workers are, as of a second ago at most."""
    gateway = gateway_of(request)
    gateway.caller_of(request)
    fleet = await gateway.jobs.fleet()
    depths: QueueDepths = fleet.depths
    content = {
        "waiting": _waiting(depths.waiting),
        "waiting_by_priority": {kind: _waiting(of) for kind, of in depths.by_priority.items()},
        "waiting_for_one_worker": depths.named,
        "slots": dict(depths.slots),
        "running": dict(depths.running),
        "workers": [_worker(worker) for worker in fleet.workers],
    }
    return Response(orjson.dumps(content), media_type="application/json")


def _waiting(of: Mapping[str, Waiting]) -> dict[str, Any]:
    return {name: {"jobs": one.jobs, "oldest_seconds": round(one.oldest, 1)} for name, one in of.items()}


def _worker(worker: WorkerInfo) -> dict[str, Any]:
    """Say what a client may know of a worker; why an engine failed is for operators."""
    engines = {
        kind: {
            "state": engine.state,
            "model": engine.model,
            "default_model": engine.default,
            "context": engine.context,
            "slots": engine.slots,
            "running": engine.running,
        }
        for kind, engine in worker.engines.items()
    }
    return {"id": worker.id, "version": worker.version, "running": worker.running, "engines": engines}
