"""What bounds the fan-out, and what it counts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a hub may keep, and how long it waits for whom.

    Attributes:
        ring_entries: how many entries of a job are kept at most for viewers that are behind.
        ring_bytes: the same in bytes; what was read last is kept all the same, until the fastest viewer has it.
        send_bytes: how much is handed to a viewer in one piece, in bytes; an entry that is larger goes alone.
        stall_seconds: how long a viewer's send may wait before the viewer is given up.
        keep_alive_seconds: after how long without an entry a viewer is sent a comment.
    """

    ring_entries: int = 2048
    ring_bytes: int = 512 * 1024
    send_bytes: int = 256 * 1024
    stall_seconds: float = 20.0
    keep_alive_seconds: float = 15.0


@dataclass(slots=True)
class Counters:
    """What a hub has done since it began, and how it stands; to be read by whoever makes metrics of it.

    Attributes:
        viewers: how many :meth:`velesio_worker.client.fanout.Hub.show` and
            :meth:`velesio_worker.client.fanout.Hub.watch` there are now.
        tails: how many jobs are watched now.
        lagging: how many viewers' sends wait now.
        frames: how many frames were handed to viewers' sends.
        sends: in how many pieces.
        sent_bytes: with how many bytes.
        entries: how many entries were read off streams as they came.
        reads: in how many reads.
        late_reads: how many reads were of what had come before.
        dropped: how many viewers were given up since they were too slow.
        delays: the newest times from an entry's being written to its being handed to the first viewer, in seconds, by
            the two machines' clocks; of ``start`` entries alone, which are the ones that carry the time.
    """

    viewers: int = 0
    tails: int = 0
    lagging: int = 0
    frames: int = 0
    sends: int = 0
    sent_bytes: int = 0
    entries: int = 0
    reads: int = 0
    late_reads: int = 0
    dropped: int = 0
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
