"""What the ``token`` entries of a chat say, and how they are written where each part of an answer is opened and closed.

The Responses and the Messages dialect have parts that follow one another: reasoning, text, calls of tools. A chat's
entries only name what goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import orjson

from velesio_worker.gateway.errors import ApiError
from velesio_worker.wire.events import DONE, START, TOKEN, StreamEvent
from velesio_worker.wire.fields import list_in, object_in, text_in

CANCELLED: Final = "cancelled"


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that an answer goes on with.

    Attributes:
        kind: which part of the answer it belongs to.
        text: the text that is added to it.
        call: which call of a tool it belongs to, counted from 0.
        id: the call's id, in the first piece of a call.
        name: the tool's name, in the first piece of a call.
        logprobs: the log probabilities of a text's tokens.
    """

    kind: Literal["reasoning", "text", "call"]
    text: str
    call: int = 0
    id: str = ""
    name: str = ""
    logprobs: tuple[dict[str, Any], ...] = ()


def pieces_of(entry: dict[str, Any]) -> Iterator[Piece]:
    """Yield what a ``token`` entry of a chat adds to the answer.

    Raises:
        ApiError: no worker wrote it.
    """
    try:
        for choice in list_in(entry, "choices"):
            yield from _pieces(object_in(choice, "delta"), object_in(choice, "logprobs"))
    except (ValueError, TypeError, AttributeError) as error:
        raise ApiError(502, "engine_error", f"The answer cannot be read: {error}.") from None


def pieces_of_result(result: dict[str, Any]) -> Iterator[Piece]:
    """Yield the parts of a whole answer, in order; one piece for each.

    Raises:
        ApiError: no worker wrote it, or the job was cancelled.
    """
    if result.get("finish_reason") == CANCELLED:
        raise cancelled()
    message = object_in(result, "message")
    calls = [{"index": n, **call} for n, call in enumerate(list_in(message, "tool_calls"))]
    yield from pieces_of({"choices": [{"delta": {**message, "tool_calls": calls}, "logprobs": result.get("logprobs")}]})


def _pieces(delta: dict[str, Any], logprobs: dict[str, Any]) -> Iterator[Piece]:
    if thought := text_in(delta, "reasoning_content"):
        yield Piece("reasoning", thought)
    likely = tuple(cast("list[dict[str, Any]]", list_in(logprobs, "content")))
    if (text := text_in(delta, "content")) or likely:
        yield Piece("text", text, logprobs=likely)
    for fragment in cast("list[dict[str, Any]]", list_in(delta, "tool_calls")):
        function = object_in(fragment, "function")
        yield Piece(
            "call",
            text_in(function, "arguments"),
            int(fragment.get("index", 0)),
            text_in(fragment, "id"),
            text_in(function, "name"),
        )


def cancelled() -> ApiError:
    """Return the error of a job that somebody else stopped: what it said so far is no answer."""
    return ApiError(499, CANCELLED, "The job was cancelled before its answer was whole.")


class PartFrames(ABC):
    """Has the parts of an answer opened and closed around the pieces that come; one object per request."""

    def __init__(self) -> None:
        self._place: tuple[str, int] | None = None
        self._calls: set[int] = set()
        self._begun = False
        self._done: dict[str, Any] = {}

    def feed(self, index: int, event: StreamEvent) -> bytes:
        """Return what is to be said of an event; empty if nothing is.

        Raises:
            ApiError: the job began anew after some of it was said, or was cancelled.
        """
        del index  # there is one job
        if event.event == TOKEN:
            return b"".join(map(self._say, pieces_of(event.data)))
        if event.event == START and event.data.get("mode") == "restart" and self._begun:
            raise ApiError(502, "worker_lost", "The answer was lost half way and had to begin anew: ask again.")
        if event.event == DONE:
            if event.data.get("finish_reason") == CANCELLED:
                raise cancelled()
            self._done = event.data
        return b""

    def end(self) -> bytes:
        """Return the end of the answer."""
        return self._beginning() + self._end_part() + self._finish(self._done)

    def _say(self, piece: Piece) -> bytes:
        said = self._beginning()
        if (place := (piece.kind, piece.call)) != self._place:
            if piece.kind == "call" and piece.call in self._calls:
                raise ApiError(502, "engine_error", "The engine went back to a call that it had ended.")
            said += self._end_part()
            said += self._open(piece)
            self._place = place
            if piece.kind == "call":
                self._calls.add(piece.call)
        return said + self._grow(piece) if piece.text or piece.logprobs else said

    def _beginning(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._begin()

    def _end_part(self) -> bytes:
        if self._place is None:
            return b""
        self._place = None
        return self._close()

    @abstractmethod
    def _begin(self) -> bytes:
        """Begin the answer."""

    @abstractmethod
    def _open(self, piece: Piece) -> bytes:
        """Begin a part, whose first piece this is."""

    @abstractmethod
    def _grow(self, piece: Piece) -> bytes:
        """Add a piece to the part that is open."""

    @abstractmethod
    def _close(self) -> bytes:
        """End the part that is open."""

    @abstractmethod
    def _finish(self, done: dict[str, Any]) -> bytes:
        """End the answer, all of whose parts have ended; ``done`` is the data of the job's last entry."""


def frame(data: dict[str, Any]) -> bytes:
    """Write an event whose name is its data's type."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), orjson.dumps(data))


def count(done: dict[str, Any], name: str) -> int:
    """Return a number of the usage in a ``done`` entry, or in a result; 0 where it is not known."""
    usage: object = done.get("usage")
    counted: object = cast("dict[str, Any]", usage).get(name) if isinstance(usage, dict) else None
    return counted if isinstance(counted, int) else 0


def cached(done: dict[str, Any]) -> int:
    """Return how many tokens of the prompt were in the engine's cache; 0 where it is not known."""
    usage = done.get("usage")
    details: object = cast("dict[str, Any]", usage).get("prompt_tokens_details") if isinstance(usage, dict) else None
    return count({"usage": details}, "cached_tokens")
