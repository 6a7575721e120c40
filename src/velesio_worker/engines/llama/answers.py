"""The runs of jobs that have one answer and write no text: ``embedding``, ``rerank``, ``tokenize``, ``detokenize``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, cast

from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.generation import ask, engine_errors
from velesio_worker.engines.llama.refusals import OK, decode_refusal
from velesio_worker.wire.errors import EngineRefusedError
from velesio_worker.wire.events import Done, EngineEvent
from velesio_worker.wire.fields import known_object
from velesio_worker.wire.parameters import (
    AnswerParameters,
    DetokenizeParameters,
    EmbeddingParameters,
    RerankParameters,
    TokenizeParameters,
)

_ENDPOINTS: Final[Mapping[type[AnswerParameters], tuple[str, str, type]]] = {
    EmbeddingParameters: ("/v1/embeddings", "data", list),
    RerankParameters: ("/v1/rerank", "results", list),
    TokenizeParameters: ("/tokenize", "tokens", list),
    DetokenizeParameters: ("/detokenize", "content", str),
}
"""Where a request goes, what its answer cannot be without, and of which type that is."""

_OWN_EMBEDDING: Final = "/embedding"
"""Where llama-server's own form of an embedding's request goes, which is answered with a bare list."""


class AnswerGeneration:
    """One request and its answer, which is the job's result as llama-server gives it.

    Args:
        http: the server.
        parameters: the job's.
        model: the loaded model's name, which the answer carries instead of its file's path.
    """

    def __init__(self, http: EngineHTTP, parameters: AnswerParameters, model: str) -> None:
        self._http = http
        self._parameters = parameters
        self._model = model

    async def events(self) -> AsyncGenerator[Sequence[EngineEvent], None]:
        """Run the request; see :meth:`velesio_worker.engines.base.Generation.events`."""
        path, name, kind = _ENDPOINTS[type(self._parameters)]
        fields = self._parameters.model_dump(exclude_none=True, exclude={"model"})
        if isinstance(self._parameters, EmbeddingParameters) and self._parameters.input is None:
            path = _OWN_EMBEDDING
        with engine_errors():
            answer = await ask(self._http, path, fields)
        if isinstance(answer, list):
            answer = {"data": cast("list[Any]", answer)}
        if not isinstance(answer, dict):
            raise EngineRefusedError("llama-server's answer is no JSON object, or is nested too deep.")
        result = cast("dict[str, Any]", answer)
        if "error" in result:
            raise decode_refusal(OK, result)
        if not isinstance(result.get(name), kind):
            raise EngineRefusedError(f"llama-server's answer is not in its usual form: it has no {name}.")
        if "model" in result:
            result["model"] = self._model
        if "usage" in result:
            result["usage"] = known_object(result, "usage")
        yield [Done(result, "stop", result.get("usage"))]

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        """Return the end of a job that stops where it is: it has nothing yet."""
        return Done({"finish_reason": finish_reason}, finish_reason)
