"""The names of all keys (wire protocol, section 2). Braces are Redis Cluster hash tags and part of the name."""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass
from typing import Final

from velesio_worker.wire.jobs import PRIORITIES, Kind

_WORKER: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")  # no colon, which parts it from what follows in keys
_SLOT: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_COUNT: Final = re.compile(rb"[0-9]{1,10}")
_LARGEST: Final = 2**31 - 1


def metrics_key(second: int) -> str:
    """The string with what was the last job of a second, counted from the Unix epoch."""
    return f"metrics:{second}"


LAST_JOB_TIME: Final = "last_job_time"
"""The string with the Unix time at which a worker last ended a job."""


def result_key(job_id: str) -> str:
    """The string that holds a job's result."""
    return f"result:{job_id}"


def job_key(job_id: str) -> str:
    """The hash with a job's attempt, owner and cancel flag; in the Cluster slot of its result."""
    return f"{{result:{job_id}}}:job"


def parts_key(job_id: str, attempt: int) -> str:
    """The string in which an attempt's large result gathers until it is whole; in the Cluster slot of the result."""
    return f"{{result:{job_id}}}:parts:{attempt}"


def cancel_key(job_id: str) -> str:
    """The key that is there if somebody wants the job to be stopped; in the Cluster slot of its result."""
    return f"{{result:{job_id}}}:cancel"


def preview_key(job_id: str) -> str:
    """The string that holds the latest preview of a job's image, a JPEG; in the Cluster slot of its result."""
    return f"{{result:{job_id}}}:preview"


def stream_key(job_id: str) -> str:
    """The stream of everything that happened to a job."""
    return f"stream:{job_id}"


def reader_key(job_id: str) -> str:
    """The key that is there as long as somebody reads a job's stream; readers set it, with a short life."""
    return f"{{result:{job_id}}}:reader"


def new_worker_id() -> str:
    """Name this process: host name plus a nonce, so that a restarted container inherits nothing."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "worker"
    return f"{host}-{secrets.token_hex(4)}"


def worker_name(name: bytes) -> str:
    """Read a worker's id that Redis has; empty if it is none, whoever wrote it."""
    text = name.decode("ascii", errors="replace")
    return text if _WORKER.fullmatch(text) else ""


def slot_name(name: bytes) -> str:
    """Read the name of a slot that Redis has; empty if it is none."""
    text = name.decode("ascii", errors="replace")
    return text if _SLOT.fullmatch(text) else ""


def count_in_redis(value: bytes | None) -> int | None:
    """Read a count that Redis has, from 0 to 2^31 - 1; None if it is none."""
    if value is None or not _COUNT.fullmatch(value):
        return None
    return int(value) if int(value) <= _LARGEST else None


LINED: Final = (Kind.TEXT, Kind.IMAGE)
"""The kinds whose jobs wait by priority and tenant (``scripts/fair.lua``)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A list of at most one job: what one consumer of one worker holds.

    Attributes:
        key: the list's name.
        name: which of its slots, such as ``text-0``.
        home: the list to whose front a job goes that is handed back.
    """

    key: str
    worker: str
    name: str
    home: str

    @property
    def field(self) -> str:
        """What it is called where all slots of all workers are."""
        return f"{self.worker}:{self.name}"


@dataclass(frozen=True, slots=True)
class Keys:
    """The queue's keys, all named after ``QUEUE_NAME``.

    Attributes:
        incoming: the list that producers push to.
    """

    incoming: str

    def _derived(self, suffix: str) -> str:
        return f"{{{self.incoming}}}:{suffix}"

    @property
    def beginning(self) -> str:
        """What all keys but the incoming list begin with."""
        return self._derived("")

    def lined(self, source: str) -> Kind | None:
        """The kind whose jobs wait in a list and in the lines beside it; None if it is another list."""
        return next((kind for kind in LINED if source == self.ready(kind)), None)

    def share(self, kind: Kind) -> str:
        """The hash of what was served of each priority, and how many jobs wait in lines (field ``lined``)."""
        return self._derived(f"fair:{kind.value}")

    def shares(self, kind: Kind) -> dict[str, str]:
        """The keys by which it is seen whose turn it is, and their types (``scripts/fair.lua``)."""
        by_priority = [f"{self.share(kind)}:{priority}" for priority in PRIORITIES]
        had = [f"{key}:had" for key in by_priority]
        lines = [self.lines(kind, priority) for priority in ("", *PRIORITIES)]
        sets = [*by_priority, *had, *lines, self._derived(f"idle:{kind.value}"), self.kept(kind)]
        hashes = [self.share(kind), self.running(kind)]
        return {self.ready(kind): "list", **dict.fromkeys(hashes, "hash"), **dict.fromkeys(sets, "zset")}

    def running(self, kind: Kind) -> str:
        """The hash of what runs: slot -> when its job was taken, and what it counts for."""
        return self._derived(f"running:{kind.value}")

    def lines(self, kind: Kind, priority: str = "") -> str:
        """The sorted set of the jobs that wait in lines of their tenants, and since when: all, or of one priority."""
        return self._derived(f"lines:{kind.value}:{priority}" if priority else f"lines:{kind.value}")

    def kept(self, kind: Kind) -> str:
        """The sorted set of the workers for which jobs are kept for a moment, and until when (``scripts/kept.lua``)."""
        return self._derived(f"kept:{kind.value}")

    def bell(self, worker: str) -> str:
        """The stream that tells a worker that a job is kept for it."""
        return self._derived(f"bell:{worker}")

    def line(self, kind: Kind, priority: str, tenant: str) -> str:
        """The list in which a tenant's jobs of one priority wait; that of those with neither is the kind's own."""
        if (priority, tenant) == ("normal", ""):
            return self.ready(kind)
        return self._derived(f"line:{kind.value}:{priority}:{tenant}")

    def ready(self, kind: Kind) -> str:
        """The list of jobs that wait for one kind of capacity."""
        return self._derived(kind.value)

    @property
    def waiting(self) -> dict[str, str]:
        """The lists of jobs that wait for whoever comes, by what they are called: ``incoming`` or a kind."""
        return {"incoming": self.incoming, **{kind.value: self.ready(kind) for kind in Kind}}

    def only(self, worker: str) -> str:
        """The list of jobs that name this worker."""
        return self._derived(f"only:{worker}")

    def slot(self, worker: str, name: str, *, home: str | None = None) -> Slot:
        """The slot ``name`` of a worker; what is handed back from it goes to ``home``, or to the incoming list."""
        return Slot(self._derived(f"active:{worker}:{name}"), worker, name, home or self.incoming)

    @property
    def workers(self) -> str:
        """The sorted set of workers and the ends of their leases."""
        return self._derived("workers")

    def worker(self, worker: str) -> str:
        """The hash with what a worker is and does."""
        return self._derived(f"worker:{worker}")

    def slots(self, worker: str) -> str:
        """The hash of a worker's slots and the lists that their jobs came from."""
        return self._derived(f"slots:{worker}")

    def of_lease(self, worker: str) -> list[str]:
        """The keys by which it is seen whether a worker lives."""
        return [self.workers, self.worker(worker)]

    @property
    def control(self) -> str:
        """The stream of cancel and control messages."""
        return self._derived("control")

    def drain(self, worker: str) -> str:
        """The key that is there if somebody wants this worker to end."""
        return self._derived(f"drain:{worker}")

    @property
    def returned(self) -> str:
        """The hash of how many workers were lost with a job, by what identifies its bytes."""
        return self._derived("returned")

    @property
    def suspects(self) -> str:
        """The list of jobs that too many workers were lost with."""
        return self._derived("suspects")

    @property
    def dead_bytes(self) -> str:
        """The string with about how many bytes the dead letters have."""
        return self._derived("dead:bytes")

    @property
    def dead(self) -> str:
        """The list of dead letters."""
        return self._derived("dead")
