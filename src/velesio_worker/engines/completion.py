"""The runs of ``completion`` jobs on llama-server."""

from __future__ import annotations

from typing import Any, Final

from velesio_worker.engines.generation import LlamaGeneration
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.events import Token
from velesio_worker.parameters import CompletionParameters, InfillParameters

_FINISH_REASONS: Final = {"limit": "length"}


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
        self._probabilities: list[Any] = []

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
        text: str = chunk.get("content") or ""
        if chunk.get("stop"):
            self._take_usage(chunk.get("tokens_evaluated", 0), chunk.get("tokens_predicted", 0))
            self._timings = chunk.get("timings")
            self._finish_reason = _FINISH_REASONS.get(chunk.get("stop_type", ""), "stop")
        probabilities: list[Any] = [] if chunk.get("stop") else chunk.get("completion_probabilities") or []
        if not text and not probabilities:
            return None
        self._pieces.append(text)
        choice: dict[str, Any] = {"text": text, "index": 0, "finish_reason": None}
        if probabilities:
            self._probabilities.extend(probabilities)
            choice["completion_probabilities"] = probabilities
        return Token({"choices": [choice]})

    def result(self, finish_reason: str) -> dict[str, Any]:
        """Return the job's result as it stands."""
        result = self._base_result(finish_reason)
        if self._probabilities:
            result["completion_probabilities"] = self._probabilities
        return result
