"""Entries of a stream as server-sent events, encoded once for all viewers.

The form is that of the HTML standard, section 9.2: ``id``, ``event`` and ``data``, each on a line of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import orjson

from velesio_worker.wire.events import START, TERMINAL, StreamEvent
from velesio_worker.wire.fields import json_object

EntryId = tuple[int, int]
"""Attempt and sequence: in the order in which a stream has its entries."""

KEEP_ALIVE: Final = b": ping\n"
"""A comment, with one line break: readers that take a blank line for the end of an event find none."""

CLOSED: Final = "closed"
"""The event by which a viewer is told that its stream ends here and goes on elsewhere."""

_FRAME: Final = b"id: %b\nevent: %b\ndata: %b\n\n"
_ID: Final = re.compile(r"[0-9]{1,18}(-[0-9]{1,18})?")
_TERMINAL: Final = frozenset(event.encode() for event in TERMINAL)
_START: Final = START.encode()
_ONE_LINE: Final = bytes.maketrans(b"\r\n\0", b"   ")  # in JSON a break is nothing but a space, in an id the end
_CREATED: Final = re.compile(rb'"created":\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)')


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream.

    Attributes:
        id: attempt and sequence.
        terminal: whether nothing follows.
        frame: the entry as viewers are sent it.
        created: when a ``start`` was written, in Unix time; None of all others.
    """

    id: EntryId
    terminal: bool
    frame: bytes
    created: float | None

    def event(self) -> StreamEvent:
        """Return the entry as the client's reader has it."""
        _, event, data = self.frame[:-2].split(b"\n")
        text = event.removeprefix(b"event: ").decode(errors="replace")
        return StreamEvent(entry_name(self.id), text, json_object(data.removeprefix(b"data: ")))


def entry_of(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    """Return an entry as Redis has it; whatever others wrote there makes one frame."""
    event, data = fields.get(b"event", b""), fields.get(b"data", b"")
    if event not in _TERMINAL:
        event = event.translate(_ONE_LINE)
    if b"\n" in data or b"\r" in data:
        data = data.translate(_ONE_LINE)
    found = _CREATED.search(data) if event == _START else None
    created = float(found.group(1)) if found else None
    attempt, _, sequence = entry_id.partition(b"-")
    return Entry((int(attempt), int(sequence)), event in _TERMINAL, _FRAME % (entry_id, event, data), created)


def terminal_entry(after: EntryId, event: str, data: dict[str, object]) -> Entry:
    """Return the last entry that stands in for those of a stream that is gone, behind the last that is known."""
    attempt, sequence = after
    entry_id = entry_name((max(attempt, 1), sequence + 1)).encode()
    return entry_of(entry_id, {b"event": event.encode(), b"data": orjson.dumps(data)})


def closing_frame(reason: str, after: EntryId) -> bytes:
    """Return the last frame of a viewer whose stream goes on without it: why, and where it may resume."""
    name = entry_name(after)
    data = orjson.dumps({"reason": reason, "after": name})
    return _FRAME % (name.encode(), CLOSED.encode(), data)


def entry_name(entry_id: EntryId) -> str:
    """Return an entry's id as streams have it."""
    return f"{entry_id[0]}-{entry_id[1]}"


def read_entry_id(name: str) -> EntryId:
    """Read the id of an entry to resume after.

    Raises:
        ValueError: it is none.
    """
    if not _ID.fullmatch(name):
        raise ValueError(f"{name[:40]!r} is no entry's id: <attempt>-<sequence>, such as 1-7, or 0-0 for all")
    attempt, _, sequence = name.partition("-")
    return int(attempt), int(sequence or 0)
