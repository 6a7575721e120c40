"""The runs of jobs that have one answer and write no text: ``embedding``, ``rerank``, ``tokenize``, ``detokenize``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, cast

import orjson

from velesio_worker.engines.http import EngineHTTP, decode_json
from velesio_worker.engines.llama.generation import engine_errors
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

_PATHS: Final[Mapping[type[AnswerParameters], str]] = {
    RerankParameters: "/v1/rerank",
    TokenizeParameters: "/tokenize",
    DetokenizeParameters: "/detokenize",
}

_HOLDS: Final[Mapping[type[AnswerParameters], tuple[str, type]]] = {
    EmbeddingParameters: ("data", list),
    RerankParameters: ("results", list),
    TokenizeParameters: ("tokens", list),
    DetokenizeParameters: ("content", str),
}
"""What an answer cannot be without, and of which type it is."""


def _path(parameters: AnswerParameters) -> str:
    if isinstance(parameters, EmbeddingParameters):
        return "/embedding" if parameters.input is None else "/v1/embeddings"
    return _PATHS[type(parameters)]


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
        body = orjson.dumps(self._parameters.model_dump(exclude_none=True, exclude={"model"}))
        with engine_errors():
            async with self._http.post(_path(self._parameters), body) as response:
                answer = decode_json(await response.body())
                if response.status != OK:
                    raise decode_refusal(response.status, answer)
        yield [self._done(answer)]

    def _done(self, answer: object) -> Done:
        if isinstance(answer, list):  # /embedding answers with a bare list
            answer = {"data": cast("list[Any]", answer)}
        if not isinstance(answer, dict):
            raise EngineRefusedError("llama-server's answer is no JSON object, or is nested too deep.")
        result = cast("dict[str, Any]", answer)
        if "error" in result:
            raise decode_refusal(OK, result)
        name, kind = _HOLDS[type(self._parameters)]
        if not isinstance(result.get(name), kind):
            raise EngineRefusedError(f"llama-server's answer is not in its usual form: it has no {name}.")
        if "model" in result:
            result["model"] = self._model
        if "usage" in result:
            result["usage"] = known_object(result, "usage")
        return Done(result, "stop", result.get("usage"))

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        """Return the end of a job that stops where it is: it has nothing yet."""
        return Done({"finish_reason": finish_reason}, finish_reason)
