"""The reader: when which tail is read, and what becomes of those that are silent."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel
from redis.exceptions import RedisError

from velesio_worker.client.fanout.bounds import Counters
from velesio_worker.client.fanout.frames import Entry
from velesio_worker.client.fanout.lines import Lines, News
from velesio_worker.client.fanout.pump import Pump
from velesio_worker.client.fanout.tails import Tail
from velesio_worker.core.bell import Bell
from velesio_worker.queue.outage import Backoff, Outage

_SHOW_SECONDS: Final = 5.0
"""How often it is said that somebody reads, which holds for 15 s."""

_CARE_SECONDS: Final = 0.5
"""How often it is looked whether a tail is silent."""

_REST: Final = 10
"""How long the reader pauses after a round, as a multiple of the time that the loop's thread read: reading takes
a tenth of a core at most. What is handed on meanwhile does not count: pausing for it makes the next round larger, and
so the pause, up to the tick."""

_SILENCE_SECONDS: Final = 0.05
"""How often it is noted which tails had nothing."""

_BLOCKING_KEYS: Final = 256
"""How many streams a blocking read has at most: Redis keeps a list for each meanwhile."""

_PARKED_KEYS: Final = 512
"""How many silent streams one read waits for at most."""

_PARKED_SECONDS: Final = 2.0
"""How long it waits; streams that have become silent meanwhile are read as before until it is sent again."""

_TURN_SECONDS: Final = 0.005
"""How long the pump works before others have a turn."""


class _Round(NamedTuple):
    """What a round of reading was: whether anything came, and for how many seconds the loop's thread worked."""

    came: bool
    took: float


class Reader:
    """Reads the tails.

    Args:
        lines: what asks Redis.
        outage: whom to tell when it does not answer.
        tails: by job, those that are watched; the hub's.
        pump: who hands on what came.
        counters: what is counted.
        tick: the longest pause between two rounds, and how long a round waits for an entry, in seconds.
    """

    def __init__(
        self,
        lines: Lines,
        outage: Outage,
        tails: Mapping[str, Tail],
        *,
        pump: Pump,
        counters: Counters,
        tick: float,
    ) -> None:
        self._lines = lines
        self._outage = outage
        self._tails = tails
        self._pump = pump
        self._counters = counters
        self._tick = tick
        self._due = Bell()
        self._care = Bell()
        self._silence_at = -math.inf

    def wake(self) -> None:
        """Have a tail looked at that has just begun to be watched, or that was held."""
        self._due.ring()

    def has_new(self) -> None:
        """Take note that a job has just begun to be watched: it is read at once, whatever the reader waits for."""
        self._due.ring()
        self._care.ring()

    async def run(self) -> None:
        """Read for ever; idle while nobody watches."""
        backoff = Backoff(first=0.05)
        while True:
            rung, now = self._due.listen(), time.monotonic()
            due = [tail for tail in self._tails.values() if tail.is_due(now)]
            if not due:
                next_at = min((tail.read_at for tail in self._tails.values()), default=math.inf)
                await rung.wait(next_at - now)
                continue
            found = await self._read(due, self._block(due, now), backoff)
            if found is None:
                continue
            if not found.came or now >= self._silence_at:
                self._silence_at = now + _SILENCE_SECONDS
                self._note_silence(due)
            await anyio.sleep(self._rest(found, tails=len(due)))

    async def wait_for_silent(self) -> None:
        """Wait for ever for entries of silent streams, which cost next to nothing as long as they are that.

        In a Cluster, and of more than ``_PARKED_KEYS``, they are read now and then by :meth:`run`.
        """
        backoff = Backoff(first=0.05)
        while not self._lines.is_cluster:
            rung = self._care.listen()
            parked = self._park(time.monotonic())
            if not parked:
                await rung.wait(_PARKED_SECONDS if self._tails else math.inf)
                continue
            found = await self._read(parked, round(_PARKED_SECONDS * 1000), backoff)
            if found is None:
                continue
            self._note_silence([tail for tail in parked if tail.parked])
            if found.came:
                self._due.ring()
                await anyio.sleep(self._rest(found, tails=len(parked)))

    async def _read(self, tails: Sequence[Tail], block: int | None, backoff: Backoff) -> _Round | None:
        """Read tails and hand on what came; None, a pause later, if Redis does not answer."""
        began = time.thread_time()
        try:
            news = await self._lines.news(tails, block)
        except RedisError as error:
            self._outage.noticed(error)
            await backoff.pause(self._outage)
            return None
        self._outage.over()
        backoff.reset()
        took = time.thread_time() - began
        await self._hand_on(news)
        return _Round(bool(news), took)

    def _park(self, now: float) -> list[Tail]:
        """Return the silent tails that one read waits for; all others are the other reader's."""
        parked: list[Tail] = []
        for tail in self._tails.values():
            tail.parked = len(parked) < _PARKED_KEYS and not tail.is_lively(now) and tail.is_wanted()
            if tail.parked:
                parked.append(tail)
        return parked

    def _block(self, due: Sequence[Tail], now: float) -> int | None:
        """How long a round waits for the first entry, in milliseconds."""
        waits = len(due) <= _BLOCKING_KEYS and any(tail.is_lively(now) for tail in due)
        return max(1, round(self._tick * 1000)) if waits else None

    def _rest(self, found: _Round, *, tails: int) -> float:
        """How long to pause after a round: not at all where that round waited by itself."""
        if self._lines.is_cluster:
            return min(self._tick, max(_REST * found.took, self._tick / 5))
        if found.came:
            return min(self._tick, _REST * found.took)
        return self._tick if tails > _BLOCKING_KEYS else 0.0

    async def _hand_on(self, news: Sequence[News]) -> None:
        """Add what was read to the tails, and hand it to their viewers."""
        self._counters.reads += 1
        turn = time.monotonic()
        for tail, after, entries, error in news:
            now = time.monotonic()
            if error is not None:
                self.fail(tail, error)
            elif new := tail.append(entries, after, now):
                self._note(new)
                self.deliver(tail)
            if now - turn > _TURN_SECONDS:
                await anyio.lowlevel.checkpoint()
                turn = time.monotonic()

    def _note_silence(self, tails: Sequence[Tail]) -> None:
        """Take note that tails were read; those that brought something are known as lively."""
        now = time.monotonic()
        for tail in tails:
            tail.was_silent(now)
            if tail.wants_look(now):
                self._care.ring()

    def _note(self, entries: Sequence[Entry]) -> None:
        self._counters.entries += len(entries)
        for entry in entries:
            if entry.created is not None:
                self._counters.delays.append(max(0.0, time.time() - entry.created))

    def deliver(self, tail: Tail) -> None:
        """Hand on what a tail has, to viewers and to those who watch."""
        self._pump.deliver(tail)
        tail.news.ring()

    def fail(self, tail: Tail, error: Exception) -> None:
        """Take note that a stream cannot be read, and tell all who follow it."""
        tail.failure = error
        self.deliver(tail)

    async def care(self) -> None:
        """Say that somebody reads, read new tails at once, and look at silent ones; for ever."""
        show_at = -math.inf
        while True:
            rung, now = self._care.listen(), time.monotonic()
            if not self._tails:
                await rung.wait()
                continue
            try:
                await self._care_once(everybody=now >= show_at)
            except RedisError as error:
                self._outage.noticed(error)
            if now >= show_at:
                show_at = now + _SHOW_SECONDS
            await rung.wait(_CARE_SECONDS)

    async def _care_once(self, *, everybody: bool) -> None:
        new = [tail for tail in self._tails.values() if not tail.shown]
        shown = list(self._tails.values()) if everybody else new
        for tail in new:
            tail.shown = True
        if new:
            await self._hand_on(await self._lines.news_aside(new))
            self._note_silence(new)
        if shown:
            await self._lines.show([tail.job_id for tail in shown])
        now = time.monotonic()
        silent = [tail for tail in self._tails.values() if tail.wants_look(now)]
        if silent:  # then also those that will soon want it: one look at many costs little more
            silent = [tail for tail in self._tails.values() if tail.wants_look(now + _CARE_SECONDS)]
        for tail in silent:
            tail.was_looked_at(now)
        for look in await self._lines.look(silent) if silent else ():
            if look.over:
                if look.last is not None:
                    look.tail.append([look.last], look.tail.last, now)
                look.tail.over = True
                self.deliver(look.tail)
