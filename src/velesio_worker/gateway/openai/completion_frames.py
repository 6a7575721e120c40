"""A completion's events as OpenAI's chunks. Runs for each token: one ``dumps``, and no models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from velesio_worker.gateway.openai.chunks import END, ChunkFrames
from velesio_worker.gateway.openai.logprobs import legacy_logprobs


class CompletionFrames(ChunkFrames):
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
        super().__init__(head, jobs=len(echoes), choices=choices, with_usage=with_usage)
        self._echoes = [*echoes]
        self._offsets = [0] * len(echoes)
        self._logprobs = logprobs

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
            END,
        )

    def _last(self, index: int, reason: bytes) -> bytes:
        return self._echo(index) + self._chunk(index, "", reason=reason)
