"""What is looked at all the time, so that a question about it is answered at once: the loop, the queue, the GPUs."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import anyio
from redis.exceptions import RedisError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import LOOP_LAG
from velesio_worker.engines.gpu import ANSWER_SECONDS, Gpu, Gpus, read_soon
from velesio_worker.queue.outage import Outage
from velesio_worker.queue.remedies import remedy
from velesio_worker.queue.survey import QueueView, Survey

BEAT_SECONDS: Final = 0.5
STUCK_SECONDS: Final = 10.0
"""An event loop that did not beat for so long is stuck."""

LOOP_SECONDS: Final = 1.0
_LOOKS: Final = 2
"""At the first look the whole process may just have been woken, and the loop with it."""

_FRAMES: Final = 6

QUEUE_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 2.0
"""How long a look at the queue may take before Redis counts as away."""

GPU_SECONDS: Final = 5.0
GPU_HANGS_SECONDS: Final = 60.0
"""How long GPUs that did not answer are left alone."""

log = get_logger(__name__)


class Monitor:
    """Looks at the event loop, the queue and the GPUs. Its answers may be read from any thread.

    Attributes:
        queue: the queue as it was seen last; None while Redis does not answer.
        gpus: the GPUs as they were read last; empty where they cannot be.
        last_job: the last job that ended here and was not about models, as ``metrics:<second>`` has it; who runs jobs
            writes it.
    """

    def __init__(self, survey: Survey, gpus: Gpus, outage: Outage, redis_url: str) -> None:
        self._survey = survey
        self._reader = gpus
        self._outage = outage
        self._redis_url = redis_url
        self._look_failed = "Redis was not asked yet"
        self._beat_at = time.monotonic()
        self._read_once = anyio.Event()
        self.queue: QueueView | None = None
        self.gpus: Sequence[Gpu] = ()
        self.last_job: Mapping[str, Any] | None = None

    @property
    def stuck_for(self) -> float:
        """For how long the event loop has not moved, in seconds; 0 while that is not worth a word."""
        silent = time.monotonic() - self._beat_at
        return silent if silent > STUCK_SECONDS else 0.0

    @property
    def redis_trouble(self) -> str:
        """What is the matter with Redis, for people; empty if it answers."""
        return self._outage.trouble or self._look_failed

    @property
    def utilisation(self) -> int | None:
        """How much the busiest GPU works, 0 to 100; None if that is not known."""
        return max((gpu.utilisation for gpu in self.gpus if gpu.utilisation is not None), default=None)

    async def known_gpus(self) -> Sequence[Gpu]:
        """Return the GPUs, which at the very beginning are waited for."""
        with anyio.move_on_after(ANSWER_SECONDS):
            await self._read_once.wait()
        return self.gpus

    async def beat(self) -> None:
        """Show for ever that the event loop moves, and measure how late it does."""
        while True:
            began = time.monotonic()
            await anyio.sleep(BEAT_SECONDS)
            self._beat_at = time.monotonic()
            LOOP_LAG.observe(max(0.0, self._beat_at - began - BEAT_SECONDS))

    async def watch_gpus(self) -> None:
        """Read the GPUs for ever."""
        while True:
            began = time.monotonic()
            self.gpus = await read_soon(self._reader)
            self._read_once.set()
            hung = not self.gpus and time.monotonic() - began >= ANSWER_SECONDS
            await anyio.sleep(GPU_HANGS_SECONDS if hung else GPU_SECONDS)

    async def watch_queue(self) -> None:
        """Look at the queue for ever."""
        while True:
            try:
                self.queue = await self._survey.look()
            except RedisError as error:
                self.queue = None
                self._look_failed = remedy(error, self._redis_url)
            else:
                self._look_failed = ""
            await anyio.sleep(QUEUE_SECONDS)


@contextmanager
def loop_watched(stuck_for: Callable[[], float], *, look_seconds: float = LOOP_SECONDS) -> Generator[None, None, None]:
    """Have a thread say in the log where this thread's event loop is stuck, as long as the context lasts.

    Args:
        stuck_for: for how long the loop has not moved, in seconds; 0 while that is not worth a word.
        look_seconds: how often that is looked at.
    """
    over = threading.Event()
    loop = threading.get_ident()
    arguments = (stuck_for, loop, over, look_seconds)
    threading.Thread(target=_watch, args=arguments, name="loop-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(stuck_for: Callable[[], float], loop: int, over: threading.Event, look_seconds: float) -> None:
    looks = 0
    while not over.wait(look_seconds):
        silent = stuck_for()
        if silent:
            looks += 1
            if looks == _LOOKS:
                log.critical(
                    f"the worker's event loop has not moved for {silent:.0f} s: restart the worker. "
                    f"It is at {_place(loop)}",
                    action="loop_stuck",
                )
        elif looks:
            if looks >= _LOOKS:
                log.warning("the worker's event loop moves again", action="loop_moves")
            looks = 0


def _place(loop: int) -> str:
    """Return where a thread is, innermost call first: files, lines and functions, and no values."""
    frame = sys._current_frames().get(loop)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] (the documented way)
    calls = traceback.extract_stack(frame)[-_FRAMES:] if frame is not None else []
    return " < ".join(f"{call.filename}:{call.lineno} {call.name}" for call in reversed(calls)) or "an unknown place"
