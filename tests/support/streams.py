"""Jobs and their streams, through a plain client."""

from __future__ import annotations

import json
import time
from typing import Any

Entries = list[tuple[str, str, dict[str, Any]]]

NO_END = [[0, False], [2, False]]
"""The small model's tokens that end a text: without them a text is as long as it was asked to be."""


def push(redis: Any, job_id: str, *, job_type: str = "completion", endless: bool = False, **data: Any) -> None:
    if job_type == "completion":
        data = {"prompt": "One, two,", **({"logit_bias": NO_END} if endless else {}), **data}
    redis.lpush("llama_queue", json.dumps({"id": job_id, "type": job_type, "data": data}))


def entries(redis: Any, job_id: str) -> Entries:
    """All entries of a job's stream so far: id, event, data."""
    return [
        (entry_id, fields["event"], json.loads(fields["data"])) for entry_id, fields in redis.xrange(f"stream:{job_id}")
    ]


def read(redis: Any, job_id: str, *, until: str, limit: float = 100) -> Entries:
    """Read a stream until an entry of this event is there; returns all entries so far."""
    deadline = time.monotonic() + limit
    while True:
        found = entries(redis, job_id)
        if any(event == until for _, event, _ in found):
            return found
        assert time.monotonic() < deadline, (job_id, until, found[-3:])
        assert until in {"error", "done"} or not any(event == "error" for _, event, _ in found), found[-1]
        assert until != "done" or not any(event == "error" for _, event, _ in found), found[-1]
        time.sleep(0.02)


def joined(found: Entries) -> str:
    """The text of a completion's stream."""
    return "".join(data["choices"][0]["text"] for _, event, data in found if event == "token")


def result(redis: Any, job_id: str) -> dict[str, Any]:
    return json.loads(redis.get(f"result:{job_id}"))


LONG = {"prompt": "One, two,", "max_tokens": 450, "stream": True, "logit_bias": NO_END}
"""A job that goes on for some seconds, whatever the model would like."""
