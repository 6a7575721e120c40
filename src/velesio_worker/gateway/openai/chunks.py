"""What the streams of chats and of completions have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import orjson

from velesio_worker.gateway.errors import UNREADABLE, ApiError, unreadable
from velesio_worker.gateway.openai.errors import check_end, check_start, error_body
from velesio_worker.gateway.openai.usage import UsageCount
from velesio_worker.wire.events import DONE, START, TOKEN, StreamEvent

DONE_MARK: Final = b"data: [DONE]\n\n"
END: Final = b"}\n\n"
"""What each chunk ends with."""


class ChunkFrames(ABC):
    """Turns the events of a request's jobs into chunks; each job is one choice.

    Args:
        head: what each chunk says beside its choice.
        jobs: how many jobs there are.
        choices: how many jobs in a row have the same prompt.
        with_usage: whether the usage is told at the end.
    """

    def __init__(self, head: dict[str, Any], *, jobs: int, choices: int, with_usage: bool) -> None:
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        self._begun = [False] * jobs
        self._usage = UsageCount(choices)
        self._with_usage = with_usage

    def feed(self, index: int, event: StreamEvent) -> bytes:
        """Return the chunks of an event; see :class:`velesio_worker.gateway.live.Frames`."""
        try:
            if event.event == TOKEN:
                return self._token(index, event.data["choices"][0])
            if event.event == START:
                check_start(event.data.get("mode"), said=self._begun[index])
            elif event.event == DONE:
                return self._done(index, event.data)
        except UNREADABLE as error:
            raise unreadable(error) from None
        return b""

    def end(self) -> bytes:
        """Return the usage, if it is wanted, and the mark of the end."""
        if not self._with_usage:
            return DONE_MARK
        return self._head + b'],"usage":' + orjson.dumps(self._usage.told()) + END + DONE_MARK

    def error(self, error: ApiError) -> bytes:
        """Return an error in mid-answer."""
        return b"data: " + orjson.dumps(error_body(error)) + b"\n\n"

    def _done(self, index: int, ended: dict[str, Any]) -> bytes:
        reason = check_end(ended.get("finish_reason") or "stop")
        self._usage.add(index, ended)
        last = self._last(index, orjson.dumps(reason))
        if warnings := ended.get("warnings"):
            last = last.removesuffix(END) + b',"warnings":' + orjson.dumps(warnings) + END
        return last

    @abstractmethod
    def _token(self, index: int, choice: dict[str, Any]) -> bytes:
        """Return the chunks of a piece of output."""

    @abstractmethod
    def _last(self, index: int, reason: bytes) -> bytes:
        """Return a choice's last chunk, behind what it has to begin with."""
