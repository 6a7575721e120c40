"""Whose the lines are that a llama-server writes, and which of them a healthy one writes for any job."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Generator
from typing import Any, Final

from velesio_worker.core.logs import field_in_log, get_logger

LATE_SECONDS: Final = 1.0
"""So long after a job's end a line may still be of it: it comes by another way than the answer."""

_LOG_LEVEL: Final = re.compile(r"^[\d.]+ ([DIWE]) ")
_LEVELS: Final = {"D": logging.DEBUG, "W": logging.WARNING, "E": logging.ERROR}
_ROUTINE: Final = re.compile(
    r"need to evaluate at least \d+ token|n_past was set to|cancel task, id_task|empty prompt - releasing slot"
    r"|security: no API key is set"  # a server of the worker's own listens on 127.0.0.1 alone
    r"|forcing full prompt re-processing|erased invalidated context checkpoint"
)

server_log = get_logger("llama-server")


class RunningJobs:
    """Knows which jobs a line may be of: llama-server names its own tasks only, and not even those in each line."""

    def __init__(self) -> None:
        self._running: dict[str, float | None] = {}

    @contextlib.contextmanager
    def running(self) -> Generator[None, None, None]:
        """Count the job of the log's context as one that runs."""
        job = field_in_log("job_id")
        if job is None:
            yield
            return
        self._running[job] = None
        try:
            yield
        finally:
            self._running[job] = time.monotonic()

    def fields(self) -> dict[str, Any]:
        """Return what a line says of its job: ``job_id``, or ``job_ids`` where it may be of several."""
        since = time.monotonic() - LATE_SECONDS
        for job in [job for job, ended in self._running.items() if ended is not None and ended < since]:
            del self._running[job]
        jobs = list(self._running)
        return {"job_id": jobs[0]} if len(jobs) == 1 else {"job_ids": jobs} if jobs else {}


JOBS: Final = RunningJobs()
"""Those of this process, which has one text engine at a time."""


def pass_on(line: str) -> None:
    """Pass a line of the server's log on, with its level, and if it is none of routine with its job."""
    match = _LOG_LEVEL.match(line)
    level = _LEVELS.get(match.group(1), logging.INFO) if match else logging.INFO
    if _ROUTINE.search(line):
        level = logging.DEBUG
    server_log.log(level, line, action="engine_log", **(JOBS.fields() if level >= logging.WARNING else {}))
