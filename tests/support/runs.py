"""Runs that need no worker."""

from __future__ import annotations

import json
import time
from typing import Any, cast

from velesio_worker.execution.run import Run, Timeline
from velesio_worker.job_stream import JobStream
from velesio_worker.queue.claims import Claim, Held
from velesio_worker.queue.keys import Keys
from velesio_worker.wire.jobs import parse_job

MODEL = "model-of-test-report"


def make_run(*, attempt: int = 1, last: bool = False, waited: float | None = None, **fields: Any) -> Run:
    """A run that began two seconds ago."""
    payload = {"id": "a", "type": "completion", "data": {"prompt": "the PROMPT", "stream": True}, **fields}
    job = parse_job(json.dumps(payload).encode(), max_bytes=10_000_000)
    held = Held(job.id, Keys("q").slot("w1", "text-0"), b"", attempt, job.type)
    claim = Claim(job, held, first=attempt == 1, last=last, waited=waited)
    run = Run(claim, cast("JobStream", None), times=Timeline(began=time.monotonic() - 2))
    run.mode = "fresh" if attempt == 1 else "continue"
    run.model, run.ended = MODEL, True
    return run
