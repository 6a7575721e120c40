"""What the WebUI says of the one generation that runs, and the queue in front of it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

_MILLI: Final = 1000


class GpuTurns:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @property
    def waiting(self) -> int:
        """How many have asked and do not have their turn yet."""
        return max(len(self._waiting) - 1, 0)

    @contextmanager
    def turn(self) -> Generator[None, None, None]:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket)
        try:
            yield
        finally:
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()


@dataclass
class State:
    """The state of AUTOMATIC1111: of whatever runs, and partly of what ran before."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    preview: str | None = None
    preview_step: int = 0
    started: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, job: str) -> None:
        """A generation starts: the count of its jobs is not known yet, the number of steps is the last one's."""
        with self.lock:
            self.skipped = self.interrupted = self.stopping_generation = False
            self.job, self.job_count, self.job_no = job, -1, 0
            self.job_timestamp = time.strftime("%Y%m%d%H%M%S")
            self.sampling_step = self.preview_step = 0
            self.preview, self.started = None, time.monotonic()

    def count(self, jobs: int) -> None:
        with self.lock:
            self.job_count = jobs

    def sample(self, steps: int) -> None:
        """A pass of so many steps starts."""
        with self.lock:
            self.sampling_step, self.sampling_steps = 0, steps

    def next_job(self) -> None:
        with self.lock:
            self.job_no += 1
            self.sampling_step = self.preview_step = 0

    def end(self) -> None:
        with self.lock:
            self.job, self.job_count = "", 0

    def report(self, *, with_image: bool) -> dict[str, Any]:
        """What GET /progress answers."""
        with self.lock:
            names = ("skipped", "interrupted", "stopping_generation", "job", "job_count", "job_timestamp")
            state = {name: getattr(self, name) for name in (*names, "job_no", "sampling_step", "sampling_steps")}
            progress = eta = 0.0
            if self.job_count != 0:
                done = self.sampling_step / self.sampling_steps if self.sampling_steps > 0 else 0.0
                progress = 0.01 + (max(self.job_no, 0) + done) / self.job_count if self.job_count > 0 else 0.01
                passed = time.monotonic() - self.started
                eta = passed / progress - passed
            return {
                "progress": min(progress, 1.0),
                "eta_relative": eta,
                "state": state,
                "current_image": self.preview if with_image and self.job_count != 0 else None,
                "textinfo": None,
            }


class Tasks:
    """The tasks by their ids, as the pages' own routes know them."""

    def __init__(self) -> None:
        self.pending: list[str] = []
        self.current: str | None = None
        self.finished: deque[str] = deque(maxlen=16)

    def waiting(self) -> dict[str, Any]:
        """What GET /internal/pending-tasks answers."""
        return {"size": len(self.pending), "tasks": list(self.pending)}

    def report(self, wanted: str | None, state: State) -> dict[str, Any]:
        """What POST /internal/progress answers."""
        active = wanted is not None and wanted == self.current
        queued = wanted in self.pending
        now = state.report(with_image=False) if active else None
        place = self.pending.index(wanted) + 1 if wanted in self.pending else 0
        waiting = f"In queue: {place}/{len(self.pending)}" if queued else "Waiting..."
        return {
            "active": active,
            "queued": queued,
            "completed": wanted in self.finished,
            "progress": now["progress"] if now else None,
            "eta": round(now["eta_relative"] * _MILLI) / _MILLI if now else None,
            "live_preview": None,
            "id_live_preview": -1,
            "textinfo": None if active else waiting,
        }
