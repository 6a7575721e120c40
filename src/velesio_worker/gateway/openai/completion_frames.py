"""A completion's events as OpenAI's chunks. Runs for each token: one ``dumps``, and no models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from velesio_worker.gateway.errors import UNREADABLE, ApiError, unreadable
from velesio_worker.gateway.openai.chat_frames import DONE_MARK
from velesio_worker.gateway.openai.errors import check_end, check_start, error_body
from velesio_worker.gateway.openai.logprobs import legacy_logprobs
from velesio_worker.gateway.openai.usage import UsageCount
from velesio_worker.wire.events import DONE, START, TOKEN, StreamEvent

_END: Final = b"}\n\n"


class CompletionFrames:
    """Turns the events of a request's jobs into chunks; each job is one choice.

    Args:
        answer_id: the id of the answer.
        created: when it was asked for, in Unix time.
        model: the model's name.
        echoes: what the text of each job begins with.
        choices: how many jobs in a row have the same prompt.
        logprobs: for how many tokens at each place probabilities are wanted; None for none at all.
        with_usage: whether the usage is told at the end.
    """

    def __init__(
        self,
        answer_id: str,
        created: int,
        model: str,
        echoes: Sequence[str] = ("",),
        *,
        choices: int = 1,
        logprobs: int | None = None,
        with_usage: bool = False,
    ) -> None:
        head = {"id": answer_id, "object": "text_completion", "created": created, "model": model}
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        self._echoes = [*echoes]
        self._begun = [False] * len(echoes)
        self._offsets = [0] * len(echoes)
        self._usage = UsageCount(choices)
        self._logprobs = logprobs
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
        return self._head + b'],"usage":' + orjson.dumps(self._usage.told()) + _END + DONE_MARK

    def error(self, error: ApiError) -> bytes:
        """Return an error in mid-answer."""
        return b"data: " + orjson.dumps(error_body(error)) + b"\n\n"

    def _token(self, index: int, choice: dict[str, Any]) -> bytes:
        told = b"null"
        if self._logprobs is not None and (tokens := choice.get("completion_probabilities")):
            logprobs, self._offsets[index] = legacy_logprobs(tokens, self._logprobs, self._offsets[index])
            told = orjson.dumps(logprobs)
        return self._echo(index) + self._chunk(index, choice.get("text") or "", told)

    def _echo(self, index: int) -> bytes:
        """Return the text that a choice begins with, once."""
        if self._begun[index]:
            return b""
        self._begun[index] = True
        return self._chunk(index, self._echoes[index]) if self._echoes[index] else b""

    def _chunk(self, index: int, text: str, logprobs: bytes = b"null", reason: bytes = b"null") -> bytes:
        return b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}]%b' % (
            self._head,
            index,
            orjson.dumps(text),
            logprobs,
            reason,
            _END,
        )

    def _done(self, index: int, ended: dict[str, Any]) -> bytes:
        reason = check_end(ended.get("finish_reason") or "stop")
        self._usage.add(index, ended)
        last = self._echo(index) + self._chunk(index, "", reason=orjson.dumps(reason))
        if warnings := ended.get("warnings"):
            last = last.removesuffix(_END) + b',"warnings":' + orjson.dumps(warnings) + _END
        return last
