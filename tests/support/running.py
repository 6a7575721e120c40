"""Jobs that run as far as Redis knows."""

from __future__ import annotations

import json
from typing import Any

from tests.support.redis_side import Side
from velesio_worker.queue.claims import Claim, Held
from velesio_worker.wire.jobs import parse_job


class Running:
    """Jobs that are said to run here, and what was asked of them."""

    def __init__(self) -> None:
        self.now: list[Claim] = []
        self.cancelled: list[str] = []
        self.fenced: list[tuple[str, int]] = []

    def claims(self) -> list[Claim]:
        return list(self.now)

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def fence(self, job_id: str, attempt: int) -> None:
        self.fenced.append((job_id, attempt))


async def run_here(side: Side, running: Running, job_id: str = "a", slot: str = "text-0", **fields: Any) -> Claim:
    """Claim the job's next attempt for this worker, and say that it runs."""
    payload = json.dumps({"id": job_id, "type": "completion", "data": {"prompt": "hi"}} | fields).encode()
    place = side.slot(slot)
    reply = await side.claims.claim(job_id, place, 9)
    held = Held(job_id, place, payload, reply.attempt)
    claim = Claim(parse_job(payload, max_bytes=10_000), held, first=reply.first, last=False)
    running.now.append(claim)
    return claim
