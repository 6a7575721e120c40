"""The runs of each type of text job on llama-server: what it is asked, and what its answer says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import orjson

from velesio_worker.engines.base import Sink
from velesio_worker.engines.http import ANSWER_BYTES, EngineHTTP
from velesio_worker.engines.llama.generation import LlamaGeneration
from velesio_worker.engines.llama.lines import JOBS
from velesio_worker.engines.llama.refusals import OK, decode_refusal
from velesio_worker.engines.llama.requests import ask, engine_errors, error_in
from velesio_worker.engines.llama.stops import Choice, among_marks
from velesio_worker.wire.answer_schemas import for_engine
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import BadJobError, EngineRefusedError
from velesio_worker.wire.events import Done
from velesio_worker.wire.fields import count_in, known_object, list_in, numbers_in, object_in, text_in
from velesio_worker.wire.parameters import (
    AnswerParameters,
    DetokenizeParameters,
    EmbeddingParameters,
    RerankParameters,
    TokenizeParameters,
)
from velesio_worker.wire.template_parameters import ApplyTemplateParameters
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters

_LIMIT: Final = "limit"
"""The ``stop_type`` of a text that is as long as it may be."""

_ASSISTANT: Final = "assistant"
_TEMPLATE: Final = "/apply-template"
_COUNT: Final = "/v1/chat/completions/input_tokens"
_NOT_FOUND: Final = 404
_ENDPOINTS: Final[Mapping[type[AnswerParameters], tuple[str, str, type]]] = {
    EmbeddingParameters: ("/v1/embeddings", "data", list),
    RerankParameters: ("/v1/rerank", "results", list),
    TokenizeParameters: ("/tokenize", "tokens", list),
    DetokenizeParameters: ("/detokenize", "content", str),
    ApplyTemplateParameters: (_TEMPLATE, "prompt", str),
}
"""Where a request goes, what its answer cannot be without, and of which type that is."""

_PLAIN: Final = frozenset(("index", "content", "tokens", "stop", "id_slot", "tokens_predicted", "tokens_evaluated"))
_PLAIN_OF_CHAT: Final = frozenset(("choices", "created", "id", "model", "system_fingerprint", "object"))
"""What a chunk has that holds a piece of text and nothing else."""

_OF_A_CHOICE: Final = 3
_FLOAT_BYTES: Final = 4
_OWN_EMBEDDING: Final = "/embedding"
"""Where llama-server's own form of an embedding's request goes, which is answered with a bare list."""


class CompletionGeneration(LlamaGeneration[CompletionParameters | InfillParameters]):
    """A ``completion`` job on ``/completion``."""

    path = "/completion"

    def request(self) -> dict[str, Any]:
        """Return the request's body."""
        return self._request() | {
            "prompt": self._prompt(),
            "n_predict": self._tokens_left(),
        }

    def _prompt(self) -> str | list[int | str]:
        """Return the prompt; llama-server takes texts among token ids."""
        prompt = self._parameters.prompt
        if isinstance(prompt, str):
            return prompt + self._after
        return [*prompt, self._after] if self._after else [*prompt]

    def plain(self, chunk: dict[str, Any]) -> tuple[str, Choice] | None:
        """See :meth:`LlamaGeneration.plain`."""
        if chunk.keys() != _PLAIN or chunk["stop"] is not False:
            return None
        text = chunk["content"]
        return (text, {"text": text, "index": 0, "finish_reason": None}) if text and isinstance(text, str) else None

    def take(self, chunk: dict[str, Any]) -> Choice | None:
        """Take one chunk."""
        text = text_in(chunk, "content")
        last = bool(chunk.get("stop"))
        probabilities: list[Any] = []
        choice: dict[str, Any] = {"text": text, "index": 0, "finish_reason": None}
        if "completion_probabilities" in chunk and not last:  # the last chunk repeats them all
            probabilities = list_in(chunk, "completion_probabilities")
            choice |= {"completion_probabilities": probabilities} if probabilities else {}
        self._heard.add(choice)
        if last:
            self._take_usage(count_in(chunk, "tokens_evaluated"), count_in(chunk, "tokens_predicted"))
            self._timings = numbers_in(chunk, "timings")
            self._finish_reason = "length" if chunk.get("stop_type") == _LIMIT else "stop"
        return choice if text or probabilities else None


class InfillGeneration(CompletionGeneration):
    """An ``infill`` job on ``/infill``, which answers in the same form.

    Its prompt stands behind the marker of the middle, so it is gone on with by lengthening the prompt as well.
    """

    path = "/infill"


class ChatGeneration(LlamaGeneration[ChatCompletionParameters]):
    """A ``chat_completion`` job on ``/v1/chat/completions``.

    Attributes:
        template: the text of the model's chat template.
    """

    path = "/v1/chat/completions"
    chat = True
    template = ""

    def request(self) -> dict[str, Any]:
        """Return the request's body."""
        given = self._request()
        wrapped = known_object(given.get("response_format") or {}, "json_schema") or {}
        if schema := known_object(wrapped, "schema"):
            given["response_format"] |= {"json_schema": wrapped | {"schema": for_engine(schema)}}
        if stops := among_marks(self._parameters.stop or (), self.template):
            given["stop"] = stops
        return given | {
            "messages": self._continued(),
            "max_tokens": self._tokens_left(),
            "stream_options": {"include_usage": True},
        }

    def _continued(self) -> list[dict[str, Any]]:
        """Return the messages; the text to go on from becomes the end of the last one, the assistant's."""
        messages = self._parameters.messages
        if not self._after:
            return messages
        if messages[-1]["role"] == _ASSISTANT:
            last = messages[-1]
            return [*messages[:-1], last | {"content": (last.get("content") or "") + self._after}]
        return [*messages, {"role": _ASSISTANT, "content": self._after}]

    def plain(self, chunk: dict[str, Any]) -> tuple[str, Choice] | None:
        """See :meth:`LlamaGeneration.plain`."""
        if not chunk.keys() <= _PLAIN_OF_CHAT:
            return None
        try:
            (said,) = chunk["choices"]
            delta = said["delta"]
            text = delta["content"]
            whole = len(said) == _OF_A_CHOICE and len(delta) == 1 and said["finish_reason"] is None and "index" in said
        except (LookupError, TypeError, ValueError):
            return None
        if not whole or not text or not isinstance(text, str):
            return None
        return text, {"delta": {"content": text}, "index": 0, "finish_reason": None}

    def take(self, chunk: dict[str, Any]) -> Choice | None:
        """Take one chunk."""
        if "usage" in chunk and (usage := known_object(chunk, "usage")):
            self._take_usage(count_in(usage, "prompt_tokens"), count_in(usage, "completion_tokens"))
        if "timings" in chunk:
            self._timings = numbers_in(chunk, "timings") or self._timings
        choices = list_in(chunk, "choices")
        if not choices:
            return None
        if not isinstance(choices[0], dict):
            raise ValueError("a choice is no object")  # noqa: TRY004 (of JSON; whoever reads it says what it means)
        said = cast("dict[str, Any]", choices[0])
        delta = object_in(said, "delta")
        choice: dict[str, Any] = {"delta": delta, "index": 0, "finish_reason": None}
        if "logprobs" in said:
            choice["logprobs"] = said["logprobs"]
        self._heard.add(choice)
        if said.get("finish_reason") is not None:
            self._finish_reason = text_in(said, "finish_reason") or self._finish_reason
        return choice if delta else None

    def _complete(self) -> bool:
        return self._marked_done  # the usage follows upon the end in a chunk of its own, with the timings


def _check_dimensions(vectors: list[Any], wanted: int) -> None:
    """Compare ``dimensions``, which llama-server takes without effect, with what its vectors have.

    Raises:
        BadJobError: they have others. Whether the model allows them to be cut, nobody says.
    """
    for item in vectors:
        vector: Any = known_object({"item": item}, "item") or {}
        vector = vector.get("embedding")
        if isinstance(vector, list) and vector and isinstance(vector[0], list):
            vector = cast("list[Any]", vector)[0]  # one for each token
        match vector:
            case str():
                count = len(vector.rstrip("=")) * 3 // 4 // _FLOAT_BYTES
            case list():
                count = len(cast("list[Any]", vector))
            case _:
                continue
        if count != wanted:
            raise BadJobError(f"dimensions: the model's vectors have {count}, and it makes no others: leave it out.")


class AnswerGeneration:
    """A job of one request, whose answer is the job's result.

    That is as llama-server gives it, but for its model, which is called by its name and not by its file's path.
    """

    def __init__(
        self, http: EngineHTTP, parameters: AnswerParameters, model: str, *, largest: int = ANSWER_BYTES
    ) -> None:
        self._http = http
        self._largest = min(largest, ANSWER_BYTES)
        self._parameters = parameters
        self._model = model

    async def run(self, sink: Sink) -> Done:  # noqa: ARG002 (there is nothing to tell before its end)
        """Run the request; see :meth:`velesio_worker.engines.base.Generation.run`."""
        path, name, kind = _ENDPOINTS[type(self._parameters)]
        fields = self._parameters.given()
        if isinstance(self._parameters, EmbeddingParameters) and self._parameters.input is None:
            path = _OWN_EMBEDDING
        with JOBS.running(), engine_errors():
            answer = await ask(self._http, path, fields, self._largest)
        if isinstance(answer, list):
            answer = {"data": cast("list[Any]", answer)}
        result = _with(answer, name, kind)
        if isinstance(self._parameters, EmbeddingParameters) and (wanted := self._parameters.dimensions):
            _check_dimensions(result["data"], wanted)
        if "model" in result:
            result["model"] = self._model
        if "usage" in result:
            result["usage"] = numbers_in(result, "usage")
        return Done(result, "stop", result.get("usage"))

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        """Return the end of a job that stops where it is: it has nothing yet."""
        return Done({"finish_reason": finish_reason}, finish_reason)


class CountGeneration(AnswerGeneration):
    """A ``count_tokens`` job: as many tokens as llama-server would count for the same chat, or completion."""

    async def run(self, sink: Sink) -> Done:  # noqa: ARG002 (as above)
        """Run the requests; see :meth:`velesio_worker.engines.base.Generation.run`."""
        with engine_errors():
            count = await self._count(self._parameters.given())
        return Done({"tokens": count}, "stop")

    async def _count(self, fields: dict[str, Any]) -> int:
        if "messages" not in fields:
            return await self._tokens_of(fields["prompt"])
        async with self._http.post(_COUNT, orjson.dumps(fields)) as response:
            status, answer = await error_in(response)
        if status == _NOT_FOUND:  # of a build that does not count
            return await self._tokens_of(_with(await ask(self._http, _TEMPLATE, fields), "prompt", str)["prompt"])
        if status != OK:
            raise decode_refusal(status, answer)
        count = count_in(_with(answer, "input_tokens", int), "input_tokens")
        if count is None:
            raise EngineRefusedError("llama-server's answer is not in its usual form: input_tokens is no count.")
        return count

    async def _tokens_of(self, prompt: str | list[int]) -> int:
        """Have a prompt put into tokens as that of a completion is."""
        wanted = {"content": prompt, "add_special": True, "parse_special": True}
        return len(_with(await ask(self._http, "/tokenize", wanted), "tokens", list)["tokens"])


def _with(answer: object, name: str, kind: type) -> dict[str, Any]:
    """Return an answer that has what it cannot be without."""
    if not isinstance(answer, dict):
        raise EngineRefusedError("llama-server's answer is no JSON object, or is nested too deep.")
    fields = cast("dict[str, Any]", answer)
    if "error" in fields:
        raise decode_refusal(OK, fields)
    if not isinstance(fields.get(name), kind):
        raise EngineRefusedError(f"llama-server's answer is not in its usual form: it has no {name}.")
    return fields
