"""Which image jobs of whom run through this process, and how far they are.

The WebUI's ``progress`` and ``interrupt`` name no job. Here they mean the caller's own jobs, those that came through
this very process: it keeps them in mind only as long as they run, and another process of the gateway knows nothing of
them.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from velesio_worker.gateway.caller import Caller
from velesio_worker.wire.events import PROGRESS, START, StreamEvent


@dataclass(slots=True)
class RunningImage:
    """An image job whose client waits for it.

    Attributes:
        job_id: its id.
        steps: how many steps an image of it takes; 0 where that is the engine's choice and not known yet.
        since: when it came, in Unix time.
        runs: whether a worker has begun with it.
        stopped: whether its caller interrupted it.
        ended: whether its stream is over.
    """

    job_id: str
    steps: int = 0
    since: float = field(default_factory=time.time)
    runs: bool = False
    stopped: bool = False
    ended: bool = False
    _sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _loading: str | None = None

    def note(self, event: StreamEvent) -> None:
        """Take note of an entry of its stream."""
        if event.terminal:
            self.ended = True
        elif event.event == START:
            self.runs, self._sampling, self._loading = True, {}, None
        elif event.event == PROGRESS and event.data.get("stage") == "sampling":
            self.runs, self._sampling, self._loading = True, event.data, None
        elif event.event == PROGRESS and event.data.get("stage") == "loading":
            self._loading = str(event.data.get("state") or "loading")

    @property
    def fraction(self) -> float:
        """How much of it is done, 0 to 1."""
        return _number(self._sampling.get("fraction"))

    @property
    def eta(self) -> float:
        """How many seconds it may still take; 0 where nobody knows."""
        return _number(self._sampling.get("eta"))

    @property
    def step(self) -> int:
        """How many steps are done."""
        return int(_number(self._sampling.get("step")))

    @property
    def steps_of(self) -> int:
        """How many steps there are."""
        return int(_number(self._sampling.get("steps"))) or self.steps

    @property
    def has_preview(self) -> bool:
        """Whether there is a picture of the image so far."""
        return bool(self._sampling.get("preview"))

    @property
    def words(self) -> str | None:
        """What is the matter where it is not being made; None where it is."""
        if self._loading is not None:
            return f"The engine is {self._loading}…"
        return None if self.runs else "Waiting in the queue…"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


class RunningImages:
    """The image jobs that run through this process, by caller."""

    def __init__(self) -> None:
        self._images: dict[bytes, dict[str, RunningImage]] = {}

    @contextmanager
    def kept(self, caller: Caller, image: RunningImage) -> Generator[RunningImage, None, None]:
        """Keep a caller's job in mind for the length of the block."""
        mine = self._images.setdefault(caller.key, {})
        mine[image.job_id] = image
        try:
            yield image
        finally:
            del mine[image.job_id]
            if not mine:
                self._images.pop(caller.key, None)

    def of(self, caller: Caller) -> list[RunningImage]:
        """Return a caller's jobs, the oldest first."""
        return list(self._images.get(caller.key, {}).values())


def shown(images: Sequence[RunningImage]) -> RunningImage | None:
    """Return the job whose progress is told: the oldest that runs, or else the oldest; None if there is none."""
    return next((image for image in images if image.runs and not image.ended), images[0] if images else None)


def progress_answer(images: Sequence[RunningImage], picture: bytes | None) -> dict[str, Any]:
    """Return the answer to ``GET /sdapi/v1/progress``.

    Args:
        images: the caller's jobs, the oldest first.
        picture: a JPEG of the image so far of the one that is told of; None: there is none.
    """
    image = shown(images)
    return {
        "progress": image.fraction if image else 0.0,
        "eta_relative": image.eta if image else 0.0,
        "state": {
            "skipped": False,
            "interrupted": bool(image and image.stopped),
            "stopping_generation": False,
            "job": image.job_id if image else "",
            "job_count": len(images),
            "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.gmtime(image.since)) if image else "0",
            "job_no": 0,
            "sampling_step": image.step if image else 0,
            "sampling_steps": image.steps_of if image else 0,
        },
        "current_image": base64.b64encode(picture).decode() if picture else None,
        "textinfo": image.words if image else None,
    }
