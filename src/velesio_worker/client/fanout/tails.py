"""Tails: what has been read of a job's stream while somebody watches it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple, Protocol

from velesio_worker.client.fanout.bounds import Bounds
from velesio_worker.client.fanout.frames import Entry, EntryId, entry_name
from velesio_worker.core.bell import Bell
from velesio_worker.queue.keys import stream_key

LIVELY_SECONDS: Final = 5.0
"""A stream that was silent for less is read all the time; another at times, the more seldom the longer it is silent."""

_SHARE: Final = 1 / 50
_PAUSES: Final = (0.5, 0.25, 0.1)
"""A silent stream is read again after this share of its silence at most, by a clock that ticks in one of these steps,
in seconds, so that streams are read together however long each has been silent."""

_LOOK_SECONDS: Final = 2.0
_LOOK_SHARE: Final = 1 / 4
_LONGEST_LOOK: Final = 30.0
"""The same for looking whether a silent stream is over, which it seldom is: its last entry would have been read."""

_id_of: Final = attrgetter("id")


class Chunk(NamedTuple):
    """What is handed to a viewer in one piece: the bytes, the position behind them, and the id of the last entry."""

    data: bytes
    upto: int
    after: EntryId


class Follower(Protocol):
    """Whoever takes a tail's entries, each at its own pace.

    Attributes:
        position: the position of the entry that it takes next.
        busy: whether it is still at those that it took last.
    """

    position: int
    busy: bool


class Tail:
    """The newest entries of a job's stream, from a point on without a gap.

    Positions count the entries since the tail was begun, so that they stay what they are when old ones are dropped.

    Args:
        job_id: the job.
        after: the entry behind which the tail begins.
        now: the time, in monotonic seconds.
        bounds: how much is kept.

    Attributes:
        start: the entry behind which everything is here.
        last: the newest entry that was read; ``last_name``: its name.
        key: its stream; ``name``: the same in bytes.
        base: the position of the oldest entry that is here.
        end: the position of the next entry that is read.
        over: whether no entry follows.
        failure: why the stream cannot be read; None if it can.
        followers: who takes its entries.
        news: is rung when there are new ones, and when there will be none.
        users: how many follow it, or are about to once they have caught up.
        shown: whether Redis was told that somebody reads.
        held: whether it was not read on because nobody has taken what is here.
        parked: whether the read that waits for silent streams has it.
    """

    def __init__(self, job_id: str, after: EntryId, now: float, bounds: Bounds) -> None:
        self.job_id = job_id
        self.key = stream_key(job_id)
        self.name = self.key.encode()
        self.start = self.last = after
        self.last_name = entry_name(after)
        self.base = self.end = 0
        self.over = False
        self.failure: Exception | None = None
        self.followers: dict[Follower, None] = {}
        self.news = Bell()
        self.users = 0
        self.shown = False
        self.held = False
        self.parked = False
        self._bounds = bounds
        self._entries: list[Entry] = []
        self._bytes = 0
        self._chunk: tuple[int, Chunk] | None = None
        self._heard_at = now
        self._read_at = now
        self._look_at = math.inf

    def append(self, entries: Sequence[Entry], after: EntryId, now: float) -> Sequence[Entry]:
        """Add what was read behind an entry; returns those that are new.

        None is, if the tail has begun further back since that read was sent: what lies between would be missing.
        """
        new = [] if self.over or after > self.last else [entry for entry in entries if entry.id > self.last]
        if not new:
            return new
        if new[-1].terminal:
            self.over = True
        elif any(entry.terminal for entry in new):  # others wrote behind the last entry
            new = new[: next(at for at, entry in enumerate(new) if entry.terminal) + 1]
            self.over = True
        self._drop_old(len(new), sum(len(entry.frame) for entry in new))
        self._entries += new
        self.end += len(new)
        self.last = new[-1].id
        self.last_name = entry_name(self.last)
        self._chunk = None
        self.parked = False
        self._heard_at = self._read_at = now
        self._look_at = now + _LOOK_SECONDS
        return new

    def _drop_old(self, entries: int, size: int) -> None:
        """Drop what the bounds leave no room for beside what comes now."""
        bounds, drop = self._bounds, 0
        self._bytes += size
        while drop < len(self._entries) and (
            len(self._entries) - drop + entries > bounds.ring_entries or self._bytes > bounds.ring_bytes
        ):
            self._bytes -= len(self._entries[drop].frame)
            drop += 1
        if drop:
            self.start = self._entries[drop - 1].id
            self.base += drop
            del self._entries[:drop]

    def reach_back(self, after: EntryId) -> bool:
        """Begin further back, if nothing was read yet: whoever came first may have named an entry that is none.

        Returns whether it does, and is to be read at once; what is being read from where it began is of no use then.
        """
        if self.end or after >= self.start:
            return False
        self.start = self.last = after
        self.last_name = entry_name(after)
        self.over = self.parked = False
        self._read_at, self._look_at = -math.inf, math.inf
        return True

    def position_after(self, after: EntryId) -> int | None:
        """Return the position of what follows an entry; None if that is not here any more."""
        if after < self.start:
            return None
        return self.base + bisect_right(self._entries, after, key=_id_of)

    def chunk(self, position: int) -> Chunk:
        """Return what stands at a position and behind it, as much as goes in one piece; the same for all viewers."""
        if self._chunk is not None and self._chunk[0] == position:
            return self._chunk[1]
        at, size = position - self.base, 0
        stop = at
        while stop < len(self._entries):
            size += len(self._entries[stop].frame)
            if size > self._bounds.send_bytes and stop > at:
                break
            stop += 1
        data = b"".join([entry.frame for entry in self._entries[at:stop]])
        chunk = Chunk(data, self.base + stop, self._entries[stop - 1].id)
        self._chunk = position, chunk
        return chunk

    def entries(self, position: int) -> Sequence[Entry]:
        """Return all entries from a position on."""
        return self._entries[position - self.base :]

    @property
    def size(self) -> int:
        """How many bytes its frames have."""
        return self._bytes

    def is_due(self, now: float) -> bool:
        """Whether it is to be read now: it is not parked, it can be, and somebody has taken all that is here."""
        return now >= self._read_at and not self.parked and self.is_wanted()

    def is_wanted(self) -> bool:
        """Whether it can be read, and somebody has taken all that is here."""
        if self.over or self.failure is not None:
            return False
        end = self.end
        for follower in self.followers:  # (asked of each tail before each read: nothing is as fast)
            if follower.position >= end and not follower.busy:
                self.held = False
                return True
        self.held = True
        return False

    def is_lively(self, now: float) -> bool:
        """Whether an entry came a moment ago, or it has just begun to be watched."""
        return now - self._heard_at < LIVELY_SECONDS

    @property
    def read_at(self) -> float:
        """When it is read next, in monotonic seconds; infinite if it is not."""
        rests = self.over or self.held or self.parked or self.failure is not None
        return math.inf if rests else self._read_at

    def was_silent(self, now: float) -> None:
        """Take note of a read that brought nothing."""
        silence = now - self._heard_at
        if silence >= LIVELY_SECONDS:
            step = next((pause for pause in _PAUSES if pause <= silence * _SHARE), _PAUSES[-1])
            self._read_at = (math.floor(now / step) + 1) * step
        if self._look_at == math.inf:
            self._look_at = now  # what is over already is said at once

    def wants_look(self, now: float) -> bool:
        """Whether to look if it is over, or its stream gone."""
        return now >= self._look_at and not self.over and self.failure is None

    def was_looked_at(self, now: float) -> None:
        """Take note of such a look."""
        self._look_at = now + min(max(_LOOK_SECONDS, (now - self._heard_at) * _LOOK_SHARE), _LONGEST_LOOK)
