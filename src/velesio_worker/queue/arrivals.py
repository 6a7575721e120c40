"""Since when jobs wait."""

from __future__ import annotations

import time
from typing import Final

from velesio_worker.wire.jobs import Job

MOST: Final = 10_000
"""The arrivals of so many jobs are remembered."""


class Arrivals:
    """Remembers when jobs came in, for those whose producers did not say when they were made.

    Only what this worker has sorted itself; a job that another one claims is forgotten after ``MOST`` more.
    """

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def note(self, job: Job) -> None:
        """Take note that a job came in now."""
        if job.submitted_at is None:
            self._seen.pop(job.id, None)
            self._seen[job.id] = time.time()
            if len(self._seen) > MOST:
                del self._seen[next(iter(self._seen))]

    def waited(self, job: Job) -> float | None:
        """Return how long a job has waited, in seconds, and forget it; None if that is not known."""
        since = self._seen.pop(job.id, None) if job.submitted_at is None else job.submitted_at
        return None if since is None else max(0.0, time.time() - since)
