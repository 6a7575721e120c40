"""Which jobs are shown, in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final

from velesio_worker.cli.top.watch import JobRow


class Order(StrEnum):
    """What jobs are sorted by."""

    AGE = "age"
    TOKENS = "tokens"
    TTFT = "ttft"
    ATTEMPT = "attempt"
    WORKER = "worker"
    TYPE = "type"

    @property
    def next(self) -> Order:
        """The one after it; the first after the last."""
        every = list(Order)
        return every[(every.index(self) + 1) % len(every)]


_LARGEST_FIRST: Final = {Order.AGE, Order.TOKENS, Order.TTFT, Order.ATTEMPT}
_KEYS: Final[dict[Order, Callable[[JobRow], Any]]] = {
    Order.AGE: lambda job: job.age,
    Order.TOKENS: lambda job: job.tokens,
    Order.TTFT: lambda job: -1.0 if job.ttft is None else job.ttft,
    Order.ATTEMPT: lambda job: job.attempt,
    Order.WORKER: lambda job: job.worker,
    Order.TYPE: lambda job: job.type,
}


def arranged(jobs: Sequence[JobRow], order: Order, *, turned: bool = False, words: str = "") -> list[JobRow]:
    """Return the jobs to show.

    Args:
        jobs: the jobs that run.
        order: what to sort them by: numbers from the largest on, names from A on.
        turned: the other way round.
        words: each of them must stand in a job's id, type or worker, whatever the case.
    """
    wanted = words.lower().split()
    found = [job for job in jobs if all(word in f"{job.id} {job.type} {job.worker}".lower() for word in wanted)]
    return sorted(found, key=_KEYS[order], reverse=(order in _LARGEST_FIRST) != turned)
