"""What viewers of server-sent events see: frames out of bytes, their order, and how long they were on their way.

Knows nothing of sockets, and nothing of who sent the bytes. A frame's data has its number in its job (``n``) and when
it was made (``at``, in monotonic nanoseconds); where a frame's id is that of an entry, it has to say the same.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

_FRAME: Final = re.compile(rb"(?:[^\r\n]+\r?\n)+\r?\n|\r?\n")
_NUMBER: Final = re.compile(rb'"n":\s?(\d+)')
_MADE: Final = re.compile(rb'"at":\s?(\d+)')
_ID: Final = re.compile(rb"^id: ?1-(\d+)\r?$", re.MULTILINE)
_EVENT: Final = re.compile(rb"^event: ?(\w+)\r?$", re.MULTILINE)
_REMEMBERED: Final = 2048


class Frame(NamedTuple):
    """A frame: its number in its job, when it was made in nanoseconds, and whether nothing follows."""

    number: int
    made: int
    last: bool


def frames_in(data: bytes) -> tuple[list[Frame], int]:
    """Return the whole frames that bytes begin with, and how many bytes those are.

    Raises:
        ValueError: one has no number, or its id says another one.
    """
    frames: list[Frame] = []
    at = 0
    while found := _FRAME.match(data, at):
        at = found.end()
        text = found.group()
        if b"data:" not in text:
            continue  # a comment, or what a server begins with
        number, made = _NUMBER.search(text), _MADE.search(text)
        if number is None or made is None:
            raise ValueError(f"a frame without a number: {text[:200]!r}")
        entry = _ID.search(text)
        if entry is not None and int(entry.group(1)) != int(number.group(1)):
            raise ValueError(f"a frame whose id is another entry's: {text[:200]!r}")
        event = _EVENT.search(text)
        frames.append(Frame(int(number.group(1)), int(made.group(1)), event is not None and event.group(1) == b"done"))
    return frames, at


class Reader:
    """Reads frames; what many viewers are sent is read once."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[list[Frame], int]] = {}

    def read(self, data: bytes) -> tuple[list[Frame], int]:
        """Do as :func:`frames_in`."""
        found = self._known.get(data)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[data] = frames_in(data)
        return found


class Body:
    """An answer's body out of what comes: the head is passed over, chunks are put together.

    Attributes:
        status: the answer's status; 0 until its head is there.
    """

    __slots__ = ("_chunked", "_rest", "status")

    def __init__(self) -> None:
        self.status = 0
        self._chunked = False
        self._rest: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes; returns those of the body that are whole chunks (all of it in an answer without chunks)."""
        data = self._rest + data if self._rest else data
        self._rest = b""
        if not self.status:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return b""
            self.status = int(head.split(b" ", 2)[1])
            self._chunked = b"transfer-encoding: chunked" in head.lower()
        return self._chunks(data) if self._chunked else data

    def _chunks(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        at = 0
        while (line := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:line].partition(b";")[0], 16)
            end = line + 2 + size
            if len(data) < end + 2:
                break
            pieces.append(data[line + 2 : end])
            at = end + 2
        self._rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@dataclass(slots=True)
class Faults:
    """What was wrong with the order of frames, over all viewers.

    Attributes:
        missing: frames that never came though a later one did.
        doubled: frames that came again.
        late: frames that came behind a later one.
    """

    missing: int = 0
    doubled: int = 0
    late: int = 0


class Order:
    """Whether one viewer has each frame once, and in order.

    Args:
        faults: where what is wrong is counted.

    Attributes:
        next: the number of the frame that comes next.
    """

    __slots__ = ("_faults", "_missing", "next")

    def __init__(self, faults: Faults) -> None:
        self.next = 0
        self._faults = faults
        self._missing: set[int] | None = None

    def take(self, number: int) -> None:
        """Take a frame."""
        if number == self.next:
            self.next += 1
        elif number > self.next:
            skipped = range(self.next, number)
            self._missing = (self._missing or set()) | set(skipped)
            self._faults.missing += len(skipped)
            self.next = number + 1
        elif self._missing and number in self._missing:
            self._missing.discard(number)
            self._faults.missing -= 1
            self._faults.late += 1
        else:
            self._faults.doubled += 1


class Delays:
    """How long frames were on their way, in steps of a tenth of a millisecond."""

    def __init__(self) -> None:
        self._steps: Counter[int] = Counter()
        self._most = 0

    def add(self, nanoseconds: int) -> None:
        """Take note of one."""
        self._steps[nanoseconds // 100_000] += 1
        self._most = max(self._most, nanoseconds)

    def quantile(self, share: float) -> float:
        """Return the time that so large a share were faster than, in milliseconds; 0 of none."""
        wanted, seen = share * self._steps.total(), 0
        for step in sorted(self._steps):
            seen += self._steps[step]
            if seen >= wanted:
                return (step + 1) / 10
        return 0.0

    @property
    def most(self) -> float:
        """The longest, in milliseconds."""
        return self._most / 1e6
