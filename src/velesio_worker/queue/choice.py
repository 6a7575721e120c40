"""Which image job is next: those of the loaded model before others, within limits; and which are run together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final

from velesio_worker.wire.errors import UnusablePayloadError
from velesio_worker.wire.image_parameters import Txt2ImgParameters
from velesio_worker.wire.jobs import Job, JobType, RefusedJobError, parse_job

LARGEST: Final = 64 * 1024
"""Jobs of more bytes are not looked at, nor are they shown by a list."""

PASSES: Final = 8
"""So often in a row a job that needs another model is passed over; then it is its turn."""


class Affinity:
    """Chooses image jobs; a :class:`velesio_worker.queue.consumer.Choice`.

    Args:
        max_bytes: the largest job that is accepted, in bytes.
        loaded: returns what is loaded; None if nothing is.
        known_as: returns what a job's ``model`` stands for, to be compared with that.
        most: returns how many images may be made at once for several jobs.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        loaded: Callable[[], Hashable | None],
        known_as: Callable[[str | None], Hashable],
        most: Callable[[], int],
    ) -> None:
        self._read = partial(_read, max_bytes=max_bytes)
        self._loaded = loaded
        self._known_as = known_as
        self._most = most
        self._passed = 0

    def first(self, waiting: Sequence[bytes]) -> bytes | None:
        """Return the job to take; None for the one that is next, whatever it is."""
        loaded = self._loaded()
        head = self._read(waiting[0]) if waiting and loaded is not None and self._passed < PASSES else None
        if head is not None and self._known_as(head.model) != loaded:
            for payload in waiting[1:]:
                job = self._read(payload)
                if job is not None and self._known_as(job.model) == loaded:
                    self._passed += 1
                    return payload
        self._passed = 0
        return None

    def has_mates(self, payload: bytes) -> bool:
        """Whether there may be others that are to be run together with a job that was taken."""
        return len(payload) <= LARGEST and self._mergeable(payload) is not None

    def _mergeable(self, payload: bytes) -> Txt2ImgParameters | None:
        job = self._read(payload)
        asked = job.parameters if job is not None else None
        return asked if isinstance(asked, Txt2ImgParameters) and asked.mergeable else None

    def mates(self, payload: bytes, waiting: Sequence[bytes]) -> Sequence[bytes]:
        """Return those of the waiting jobs that ask for the same as ``payload``, as many as fit into one request."""
        asked = self._mergeable(payload)
        if asked is None:
            return []
        room = self._most() - asked.batch_size
        mates: list[bytes] = []
        for other in waiting:
            job = self._read(other) if room >= asked.batch_size else None
            if job is None or job.worker is not None or not isinstance(job.parameters, Txt2ImgParameters):
                continue
            if asked.same_but_for_seed(job.parameters):
                mates.append(other)
                room -= job.parameters.batch_size
        return mates


def first_check(waiting: Sequence[bytes], *, max_bytes: int) -> bytes | None:
    """Return the first of the jobs that wait which is a health check; any worker can answer it."""
    for payload in waiting:
        job = _read(payload, max_bytes=max_bytes)
        if job is not None and job.type is JobType.HEALTH_CHECK:
            return payload
    return None


def _read(payload: bytes, *, max_bytes: int) -> Job | None:
    """Read a job; None if it is too large to be looked at here, or wrong, which whoever takes it will say."""
    try:
        return parse_job(payload, max_bytes=max_bytes)
    except (UnusablePayloadError, RefusedJobError):
        return None
