"""The runs of ``completion`` jobs on llama-server."""

from __future__ import annotations

from typing import Any, Final

from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.generation import LlamaGeneration
from velesio_worker.wire.events import Token
from velesio_worker.wire.fields import count_in, known_object, list_in, text_in
from velesio_worker.wire.parameters import CompletionParameters, InfillParameters

_LIMIT: Final = "limit"
"""The ``stop_type`` of a text that is as long as it may be."""


class CompletionGeneration(LlamaGeneration):
    """A ``completion`` job on ``/completion``, or an ``infill`` job on ``/infill``, which answers in the same form.

    Of an infill the prompt stands behind the marker of the middle, so both are gone on with by lengthening the prompt.
    """

    def __init__(
        self,
        http: EngineHTTP,
        parameters: CompletionParameters | InfillParameters,
        after: str = "",
        pieces: int = 0,
    ) -> None:
        super().__init__(http, parameters, after, pieces)
        self.path = "/infill" if isinstance(parameters, InfillParameters) else "/completion"
        self._prompt = parameters.prompt

    def request(self) -> dict[str, Any]:
        """Return the request's body."""
        return self._sampling() | {
            "prompt": self._prompt + self._after,
            "n_predict": self._tokens_left(),
            "stream": True,
            "return_progress": True,
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
