"""The runs of ``completion`` jobs on llama-server."""

from __future__ import annotations

from typing import Any, Final

from velesio_worker.engines.llama.generation import LlamaGeneration
from velesio_worker.wire.events import Token
from velesio_worker.wire.fields import count_in, known_object, list_in, text_in
from velesio_worker.wire.parameters import CompletionParameters, InfillParameters

_LIMIT: Final = "limit"
"""The ``stop_type`` of a text that is as long as it may be."""


class CompletionGeneration(LlamaGeneration[CompletionParameters | InfillParameters]):
    """A ``completion`` job on ``/completion``."""

    path = "/completion"

    def request(self) -> dict[str, Any]:
        """Return the request's body."""
        return self._request() | {
            "prompt": self._parameters.prompt + self._after,
            "n_predict": self._tokens_left(),
        }

    def take(self, chunk: dict[str, Any]) -> Token | None:
        """Take one chunk."""
        text = text_in(chunk, "content")
        last = bool(chunk.get("stop"))
        probabilities: list[Any] = []
        choice: dict[str, Any] = {"text": text, "index": 0, "finish_reason": None}
        if "completion_probabilities" in chunk and not last:  # the last chunk repeats them all
            probabilities = list_in(chunk, "completion_probabilities")
            choice |= {"completion_probabilities": probabilities} if probabilities else {}
        self._transcript.add(choice)
        if last:
            self._take_usage(count_in(chunk, "tokens_evaluated"), count_in(chunk, "tokens_predicted"))
            self._timings = known_object(chunk, "timings")
            self._finish_reason = "length" if chunk.get("stop_type") == _LIMIT else "stop"
        return Token({"choices": [choice]}) if text or probabilities else None


class InfillGeneration(CompletionGeneration):
    """An ``infill`` job on ``/infill``, which answers in the same form.

    Its prompt stands behind the marker of the middle, so it is gone on with by lengthening the prompt as well.
    """

    path = "/infill"
