"""What a job's stream must be, and how long its reader had to wait: rules alone, no Redis and no process.

The rules are those of the wire protocol, sections 3 and 4, written a second time: nothing is shared with the worker.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

TERMINAL: Final = frozenset({"done", "error"})
EVENTS: Final = frozenset({"start", "token", "progress"}) | TERMINAL
MODES: Final = frozenset({"fresh", "continue", "restart"})
SETTLING: Final = 0.25
"""What was on its way when a fault hit reaches the reader within so many seconds."""


class Fate(StrEnum):
    """What may be wrong with a job."""

    LOST = "lost"
    DOUBLED = "doubled"
    WRONG = "wrong"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule."""

    fate: Fate
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a stream; ``at``: when its reader had it, in monotonic seconds."""

    id: str
    event: str
    data: dict[str, Any]
    at: float = 0.0

    @classmethod
    def parsed(cls, entry_id: str, fields: dict[str, str], at: float = 0.0) -> Entry:
        """Read an entry as Redis has it."""
        return cls(entry_id, fields["event"], json.loads(fields["data"]), at)

    @property
    def place(self) -> tuple[int, int]:
        attempt, _, sequence = self.id.partition("-")
        return int(attempt), int(sequence)

    @property
    def terminal(self) -> bool:
        return self.event in TERMINAL

    @property
    def begins_anew(self) -> bool:
        return self.event == "start" and self.data.get("mode") != "continue"

    @property
    def text(self) -> str:
        if self.event != "token":
            return ""
        choice = self.data["choices"][0]
        return choice.get("text") or choice.get("delta", {}).get("content") or ""


@dataclass(slots=True)
class Watched:
    """A job and what its reader saw.

    Attributes:
        streamed: whether it asked for ``token`` entries.
        cancelled_at: when somebody asked that it be stopped, in monotonic seconds.
        entries: what the reader has, in its order.
        result: what the reader found under ``result:<id>`` when it had the terminal entry.
        stored: what Redis held at the very end; None: nobody looked.
    """

    id: str
    type: str
    streamed: bool
    max_tokens: int
    cancelled_at: float | None = None
    entries: list[Entry] = field(default_factory=list[Entry])
    result: dict[str, Any] | None = None
    stored: list[Entry] | None = None

    @property
    def ended(self) -> bool:
        return any(entry.terminal for entry in self.entries[-1:])

    @property
    def life(self) -> list[Entry]:
        """The entries since the last ``start`` that began anew."""
        begins = [at for at, entry in enumerate(self.entries) if entry.begins_anew]
        return self.entries[begins[-1] if begins else 0 :]

    @property
    def pieces(self) -> int:
        """How many pieces of text there are: tokens, but for characters that take several."""
        return sum(bool(entry.text) for entry in self.life)

    @property
    def continued(self) -> bool:
        """Whether its text was read again: that may count fewer tokens than there were pieces."""
        return any(entry.event == "start" for entry in self.life[1:])


def judge(job: Watched) -> list[Violation]:
    """Return every rule that a job breaks whose time is over."""
    return [*_ends(job), *_order(job), *_starts(job), *_stored(job), *_result(job)]


def _ends(job: Watched) -> Generator[Violation, None, None]:
    """Exactly one terminal entry, and nothing after it."""
    ends = [at for at, entry in enumerate(job.entries) if entry.terminal]
    if not ends:
        if any(entry.terminal for entry in job.stored or ()):
            yield Violation(Fate.HUNG, "the stream has its end, but the reader does not")
        else:
            yield Violation(Fate.LOST, "no terminal entry")
        return
    if len(ends) > 1:
        yield Violation(Fate.DOUBLED, f"{len(ends)} terminal entries")
    after = [entry for entry in job.entries[ends[0] + 1 :] if not entry.terminal]
    if after:
        yield Violation(Fate.DOUBLED, f"{after[0].id} {after[0].event} follows the terminal entry")


def _order(job: Watched) -> Generator[Violation, None, None]:
    for one, two in pairwise(job.entries):
        if two.place <= one.place:
            yield Violation(Fate.WRONG, f"the id {two.id} follows {one.id}")
    for entry in job.entries:
        if entry.event not in EVENTS:
            yield Violation(Fate.WRONG, f"{entry.id} has an unknown event, {entry.event}")
    if not job.streamed and any(entry.event == "token" for entry in job.entries):
        yield Violation(Fate.WRONG, "token entries, but the job is not streamed")
    if job.pieces > job.max_tokens and not job.continued:
        yield Violation(Fate.WRONG, f"{job.pieces} pieces of text, but max_tokens is {job.max_tokens}")


def _starts(job: Watched) -> Generator[Violation, None, None]:
    """A stream begins with ``start``, every attempt does so, and no second life begins."""
    before: Entry | None = None
    for entry in job.entries:
        if entry.event == "start":
            yield from _start(entry, before)
        elif before is None:
            if not entry.terminal or job.cancelled_at is None:  # else it was cancelled before it ran
                yield Violation(Fate.WRONG, f"the stream begins with {entry.id} {entry.event}, not with a start")
        elif entry.place[0] != before.place[0]:
            yield Violation(Fate.WRONG, f"{entry.id} {entry.event} has no start before it")
        before = entry


def _start(entry: Entry, before: Entry | None) -> Generator[Violation, None, None]:
    mode = entry.data.get("mode")
    if mode not in MODES:
        yield Violation(Fate.WRONG, f"{entry.id} start has an unknown mode, {mode}")
    if entry.data.get("attempt") != entry.place[0]:
        yield Violation(Fate.WRONG, f"{entry.id} start says attempt {entry.data.get('attempt')}")
    if mode == "fresh" and before is not None:
        yield Violation(Fate.DOUBLED, f"{entry.id} begins a second life")


def _stored(job: Watched) -> Generator[Violation, None, None]:
    """What Redis holds at the end is what the reader saw."""
    if job.stored is None:
        return
    seen, kept = ([(one.id, one.event, one.data) for one in entries] for entries in (job.entries, job.stored))
    if kept[: len(seen)] != seen:
        yield Violation(Fate.WRONG, f"the reader saw {len(seen)} entries that are not the {len(kept)} in Redis")
    elif len(kept) > len(seen) and job.ended:
        yield Violation(Fate.DOUBLED, f"{len(kept) - len(seen)} entries came after the terminal one")


def _result(job: Watched) -> Generator[Violation, None, None]:
    if not job.ended:
        return
    end, result = job.entries[-1], job.result
    if end.event == "error":
        yield Violation(Fate.WRONG, f"error {end.data.get('code')}: {end.data.get('error')}")
    if result is None:
        yield Violation(Fate.WRONG, "the terminal entry is there, but no result")
        return
    for name in ("error", "code") if end.event == "error" else ("error", "finish_reason", "usage"):
        if end.data.get(name) != result.get(name):
            text = f"{name} is {end.data.get(name)!r} in the terminal entry, {result.get(name)!r} in the result"
            yield Violation(Fate.WRONG, text)
    if end.event == "done" and "error" not in result:
        yield from _outcome(job, result)


def _outcome(job: Watched, result: dict[str, Any]) -> Generator[Violation, None, None]:
    text, joined = result.get("text"), "".join(entry.text for entry in job.life)
    if job.streamed and joined != text:
        yield Violation(Fate.WRONG, f"the tokens make {joined!r}, but the result is {text!r}")
    if job.type == "chat_completion" and result.get("message", {}).get("content") != text:
        yield Violation(Fate.WRONG, f"the result's text is {text!r}, but not its message")
    reason, usage = result.get("finish_reason"), result.get("usage")
    allowed = {"stop", "length"} if job.cancelled_at is None else {"stop", "length", "cancelled"}
    if reason not in allowed:
        yield Violation(Fate.WRONG, f"finish_reason is {reason}")
    if usage is not None and usage["completion_tokens"] > job.max_tokens:
        yield Violation(Fate.WRONG, f"{usage['completion_tokens']} tokens, but max_tokens is {job.max_tokens}")
    if usage is None and reason != "cancelled":
        yield Violation(Fate.WRONG, "no usage")


@dataclass(slots=True)
class Fault:
    """Something that was done to the fleet.

    Attributes:
        kind: what.
        begin: when it began, in monotonic seconds.
        end: when it was over; infinite while it lasts.
        worker: the id of the worker that was hit; None: every worker.
    """

    kind: str
    begin: float
    end: float = math.inf
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """The time between a token and the token, or the terminal entry, that came next.

    Attributes:
        owners: who had the job meanwhile, as (from, until, worker).
    """

    begin: float
    end: float
    owners: tuple[tuple[float, float, str], ...]

    def hit_by(self, fault: Fault) -> bool:
        """Whether the fault fell into this pause and hit who owned the job at that moment."""
        over = max(fault.begin + SETTLING, fault.end)
        return any(
            fault.worker in {None, worker} and begin <= over and fault.begin <= end
            for begin, end, worker in self.owners
        )


def pauses(job: Watched) -> list[Pause]:
    """Return the pauses between a streamed job's tokens."""
    found: list[Pause] = []
    owners: list[tuple[float, float, str]] = []
    token: Entry | None = None
    owner, since = "", 0.0
    for entry in job.entries:
        if entry.event == "start":
            owners.append((since, entry.at, owner))
            since, owner = entry.at, entry.data.get("worker", "")
        elif entry.event == "token" or entry.terminal:
            if token is not None:
                found.append(Pause(token.at, entry.at, (*owners, (since, entry.at, owner))))
            token, owners, since = entry, [], entry.at
    return found


@dataclass(frozen=True, slots=True)
class Gap:
    """How long a stream stood still, in seconds, and through which kinds of fault."""

    job_id: str
    seconds: float
    kinds: tuple[str, ...]


def gaps(jobs: Iterable[Watched], faults: Sequence[Fault]) -> list[Gap]:
    """Return the longest pause of each stream around each fault that interrupted it.

    A pause in which several faults hit is one gap.
    """
    found: list[Gap] = []
    for job in jobs:
        of_job = pauses(job)
        struck: defaultdict[Pause, list[str]] = defaultdict(list)
        for fault in faults:
            if of_job and fault.begin <= of_job[-1].end and of_job[0].begin <= fault.end + SETTLING:
                around = [pause for pause in of_job if pause.hit_by(fault)]
                for pause in sorted(around, key=lambda pause: pause.begin - pause.end)[:1]:  # the longest
                    struck[pause].append(fault.kind)
        found += [Gap(job.id, pause.end - pause.begin, tuple(kinds)) for pause, kinds in struck.items()]
    return found
