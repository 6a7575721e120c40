"""What an engine yields while it runs a job, and what a subscriber reads off the job's stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from velesio_worker.wire.errors import EngineRefusedError, InternalError, job_error
from velesio_worker.wire.fields import json_object

START: Final = "start"
TOKEN: Final = "token"  # noqa: S105 (an event's name)
PROGRESS: Final = "progress"
DONE: Final = "done"
ERROR: Final = "error"
TERMINAL: Final = frozenset({DONE, ERROR})


def has_output(choice: dict[str, Any]) -> bool:
    """Whether a choice of a ``token`` entry has any output: the first piece of a chat carries the role alone."""
    delta = choice.get("delta")
    return bool(choice.get("text")) if delta is None else any(delta[name] for name in delta if name != "role")


@dataclass(frozen=True, slots=True)
class Preparing:
    """The worker itself works on the job before its engine does: its time runs, though it has not begun."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits in its engine's own line: its time stands still."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The engine has begun with the job, which waited in the engine's own line until now."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the engine is with something that yields no output yet.

    Attributes:
        data: the ``progress`` entry's data (wire protocol, section 4).
        preview: a small JPEG of the image so far.
    """

    data: dict[str, Any]
    preview: bytes | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a job that succeeded.

    Attributes:
        result: the job's result (wire protocol, section 5).
        finish_reason: ``stop``, ``length``, ``tool_calls`` or ``cancelled``.
        usage: token counts, where the engine knows them.
        timings: the engine's own timings, where it has them.
        unsaid: choices of a result that was cut short, which were held back until now.
    """

    result: dict[str, Any]
    finish_reason: str
    usage: dict[str, Any] | None = None
    timings: dict[str, Any] | None = None
    unsaid: Sequence[dict[str, Any]] = ()

    def entry(self) -> dict[str, Any]:
        """Return the ``done`` entry's data."""
        entry: dict[str, Any] = {"finish_reason": self.finish_reason, "usage": self.usage, "timings": self.timings}
        return entry | {name: self.result[name] for name in _IN_BOTH if self.result.get(name)}


def written(data: dict[str, Any]) -> bytes:
    """Write what came from an engine as JSON.

    Raises:
        EngineRefusedError: it can be read, and not be written: it is nested too deep, or its numbers are too large.
    """
    try:
        # A copy: orjson's own bytes were cut from a block of 4 KB whose rest nobody gets while they are kept, so that a
        # token would take as much. With no pages to be had for it, writing one takes less than half the time.
        return b"%b" % orjson.dumps(data)
    except orjson.JSONEncodeError as error:
        raise EngineRefusedError(f"The engine's answer cannot be written as JSON: {error}.") from None


def start_entry(job_type: str, attempt: int, worker: str, model: str | None, mode: str) -> dict[str, Any]:
    """Return the ``start`` entry's data (wire protocol, section 4).

    Args:
        job_type: the job's type.
        attempt: which attempt begins, counted from 1.
        worker: whose it is.
        model: the name of the model that is loaded; None where none is used.
        mode: ``fresh``, ``restart`` or ``continue``.
    """
    entry: dict[str, Any] = {"type": job_type, "attempt": attempt, "worker": worker, "model": model, "mode": mode}
    return entry | {"created": round(time.time(), 3)}


FOREIGN_RESULT: Final = "The job's result is none that a worker wrote: its key was written by others."

_IN_BOTH: Final = ("cached", "warnings")
"""What stands in the result and in the ``done`` entry, where there is any."""

EngineEvent = Preparing | Queued | Begun | Progress


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One entry of a job's stream.

    Attributes:
        id: the entry's id, ``<attempt>-<sequence>``: a point to resume from.
        event: ``start``, ``token``, ``progress``, ``done`` or ``error``.
        data: the entry's data (wire protocol, section 4).
    """

    id: str
    event: str
    data: dict[str, Any]

    @property
    def terminal(self) -> bool:
        """Whether nothing follows this entry."""
        return self.event in TERMINAL

    @property
    def text(self) -> str:
        """The text that this entry adds to the job's output; empty where it adds none."""
        if self.event != TOKEN:
            return ""
        try:
            return "".join(piece_text(choice) for choice in self.data.get("choices", ()))
        except (AttributeError, TypeError):  # no worker wrote it
            return ""

    @property
    def plain(self) -> bool:
        """Whether this entry adds nothing to the job's output but text."""
        if self.event != TOKEN:
            return True
        try:
            deltas: list[dict[str, Any]] = [choice.get("delta") or {} for choice in self.data.get("choices", ())]
            return not any(delta[name] for delta in deltas for name in delta.keys() - _TEXT)
        except (AttributeError, TypeError):  # no worker wrote it
            return True


_TEXT: Final = frozenset({"role", "content"})


def piece_text(choice: dict[str, Any]) -> str:
    """Return the text of one choice of a ``token`` entry: ``text``, or ``delta.content``."""
    if "text" in choice:
        return choice["text"] or ""
    return choice.get("delta", {}).get("content") or ""


def split_id(entry_id: str) -> tuple[int, int]:
    """Return attempt and sequence of an entry's id."""
    attempt, _, sequence = entry_id.partition("-")
    return int(attempt), int(sequence or 0)


def read_result(stored: bytes) -> dict[str, Any]:
    """Return a stored result; one that no worker can have written as an error that says so."""
    return sound_result(stored) or foreign_result()


def foreign_result() -> dict[str, Any]:
    """Return what stands for a result that no worker can have written: an error."""
    return InternalError(FOREIGN_RESULT).result()


def sound_result(stored: bytes) -> dict[str, Any] | None:
    """Return a stored result; None: it is none that a worker can have written."""
    result = json_object(stored)
    texts = result.get("error", ""), result.get("finish_reason", "stop"), result.get("code", "")
    return result if result and all(isinstance(text, str) for text in texts) else None


def terminal_of(result: dict[str, Any], *, partial: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the terminal entry, event and data, of a stored result; ``partial``: tokens were published before."""
    if "error" in result:
        return ERROR, job_error(result.get("code", InternalError.code), result["error"]).entry(partial=partial)
    reason = result.get("finish_reason", "stop")
    return DONE, Done(result, reason, result.get("usage"), result.get("timings")).entry()


def parse_entry(entry_id: bytes, fields: dict[bytes, bytes]) -> StreamEvent:
    """Return an entry as Redis has it; of one that no worker wrote, what can be read of it."""
    event = fields.get(b"event", b"").decode(errors="replace")
    return StreamEvent(entry_id.decode(), event, json_object(fields.get(b"data", b"")))
