"""How often an engine has failed, and when it is tried again."""

from __future__ import annotations

import random
from math import inf
from typing import Final

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import RESTARTS, START_FAILURES, count_engines
from velesio_worker.engines.base import TAIL, E
from velesio_worker.engines.supervision.leases import Leases
from velesio_worker.engines.supervision.lifecycle import Ended
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.wire.errors import ModelUnavailableError, OutOfMemoryError

LONGEST_DELAY: Final = 60.0

log = get_logger(__name__)


class Failures:
    """What has gone wrong with one engine, and what not; all times are in seconds, on one clock.

    Attributes:
        count: how often it has failed in a row.
        reason: why it was given up; empty if it was not.
        told: the same for those who submit jobs.
        pause_until: when it may be tried again.
        last_error: what happened last; empty if nothing did since it was ready.
        starts: how often it was ready.
        losses: how often it went away while it served.
    """

    def __init__(self, name: str, kind: str, patience: Patience) -> None:
        count_engines(kind)
        self._name = name
        self._kind = kind
        self._patience = patience
        self.count = 0
        self.reason = ""
        self.told = ""
        self.pause_until = 0.0
        self.last_error = ""
        self.starts = 0
        self.losses = 0
        self._retry_at = inf
        self._fingerprint: object = None

    def started(self, *, with_default: bool) -> None:
        """It is ready; if with its default model, that can be started after all."""
        self.starts += 1
        self.last_error = ""
        if with_default:
            self.reason = ""

    def retry(self, *, with_default: bool) -> None:
        """Have it tried at once, and if with its default model, that as well."""
        self.pause_until = 0.0
        if with_default:
            self.reason = ""

    def forgive(self) -> None:
        """Begin anew: it may be tried again."""
        self.reason = ""
        self.count = 0

    def compare(self, fingerprint: object, now: float) -> None:
        """Begin anew if somebody mended it since it was given up, or enough time has gone by."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint
        if now > self._retry_at or fingerprint != self._fingerprint:
            self.forgive()

    def conclude(self, ended: Ended, leases: Leases[E], now: float) -> None:
        """Draw the conclusions from the end of an engine; those who wait for a model that it has not are refused."""
        model = ended.spec.name
        if ended.error is not None:
            START_FAILURES.labels(self._kind).inc()
            shown, public = str(ended.error), ended.error.public
            self.last_error = public
            if ended.spec == leases.default:
                self._failed(shown, shown, public, now, final=ended.error.final)
                return
            log.error(shown, action="model_failed", model=model)
            kind = OutOfMemoryError if ended.error.out_of_memory else ModelUnavailableError
            leases.refuse(ended.spec, kind, f"The model {model or 'that is the default'} cannot be loaded: {public}")
            return
        if ended.steady or not ended.lost:
            self.count = 0
        if ended.hangs:
            self.last_error = f"{self._name} {ended.lost or f'is not used until it works again: it {ended.reason}'}"
        if not ended.lost:
            log.info(f"{self._name} was stopped: {ended.reason}", action="engine_stopped", model=model)
            return
        if ended.exchanged:
            self.last_error = f"{self._name} {ended.lost}"
            log.warning(self.last_error, action="engine_exchanged", model=model)
            return
        RESTARTS.labels(self._kind).inc()
        self.losses += 1
        shown = f"{self._name} {ended.lost}"
        brief = self.last_error = shown.partition(TAIL)[0].rstrip()  # an engine that has run jobs may quote them
        if ended.by_job:
            log.error(f"while it read a job's request, {shown}", action="engine_lost", by_job=True)
            return
        if ended.spec == leases.default or self.count + 1 < self._patience.failures:
            self._failed(brief, shown, brief, now)
        else:
            self.count = 0
            leases.refuse(ended.spec, ModelUnavailableError, f"With the model {model or 'that is the default'} {brief}")

    def _failed(self, reason: str, shown: str, told: str, now: float, *, final: bool = False) -> None:
        """Have it tried again after a pause, longer each time, or give it up.

        The reason is ``shown`` in the log, and ``told`` to jobs.
        """
        self.count += 1
        if not final and self.count < self._patience.failures:
            delay = min(LONGEST_DELAY, 2.0 ** (self.count - 1)) * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)
            self.pause_until = now + delay
            log.error(shown, action="engine_lost", failures=self.count, retry_seconds=round(delay, 1))
            return
        often = "" if final else f"it failed {self.count} times in a row; the last time: "
        self.reason, self.told = often + reason, often + told
        self._retry_at = now + self._patience.retry
        self._fingerprint = None
        log.critical(f"{self._name} cannot be started: {often}{shown}", action="engine_failed")
