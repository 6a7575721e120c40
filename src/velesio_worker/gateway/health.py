"""How the gateway is: for orchestrators, proxies and Prometheus."""

from __future__ import annotations

from typing import Any

import anyio
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from velesio_worker import __version__
from velesio_worker.gateway import metrics
from velesio_worker.gateway.app_state import Gateway, gateway_of
from velesio_worker.gateway.errors import ApiError

_ASK_SECONDS = 5.0


async def live(_: Request) -> Response:
    """Say that the process answers."""
    return JSONResponse({"alive": True})


async def ready(request: Request) -> Response:
    """Say whether requests would be served: Redis answers, a worker lives, and the gateway does not end."""
    reasons = await _reasons(gateway_of(request))
    return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


async def health(request: Request) -> Response:
    """Say all of that, with 200 as long as the process answers."""
    reasons = await _reasons(gateway_of(request))
    status = "degraded" if reasons else "ok"
    return JSONResponse({"status": status, "ready": not reasons, "reasons": reasons, "version": __version__})


async def figures(request: Request) -> Response:
    """Answer with the metrics; where tokens are set, to who shows one."""
    gateway = gateway_of(request)
    gateway.caller_of(request)
    rows: list[tuple[str, int, float]] = []
    try:
        with anyio.fail_after(_ASK_SECONDS):
            depths: Any = (await gateway.jobs.fleet()).depths
        rows = [(name, one.jobs, one.oldest) for name, one in depths.waiting.items()]
    except (ApiError, TimeoutError):
        pass  # what is not known is left out
    content = await anyio.to_thread.run_sync(metrics.figures, metrics.Waiting(rows))
    return Response(content, media_type=CONTENT_TYPE_LATEST)


async def _reasons(gateway: Gateway) -> list[str]:
    """Return why requests would not be served."""
    reasons = ["the gateway ends"] if gateway.ending.is_set() else []
    try:
        with anyio.fail_after(_ASK_SECONDS):
            fleet = await gateway.jobs.fleet()
    except (ApiError, TimeoutError):
        return [*reasons, "Redis does not answer"]
    return reasons if fleet.workers else [*reasons, "no worker lives"]
