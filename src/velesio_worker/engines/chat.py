"""The runs of ``chat_completion`` jobs on llama-server."""

from __future__ import annotations

from typing import Any, Final

from velesio_worker.engines.generation import LlamaGeneration
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.events import Token
from velesio_worker.parameters import ChatCompletionParameters

_ASSISTANT: Final = "assistant"


class ChatGeneration(LlamaGeneration):
    """A ``chat_completion`` job on ``/v1/chat/completions``."""

    path = "/v1/chat/completions"

    def __init__(
        self, http: EngineHTTP, parameters: ChatCompletionParameters, after: str = "", pieces: int = 0
    ) -> None:
        super().__init__(http, parameters, after, pieces)
        self._messages = parameters.messages
        self._reasoning: list[str] = []
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[Any] = []

    def request(self) -> dict[str, Any]:
        """Return the request's body."""
        return self._sampling() | {
            "messages": self._continued(),
            "max_tokens": self._tokens_left(),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }

    def _continued(self) -> list[dict[str, Any]]:
        """Return the messages; the text to go on from becomes the end of the last one, the assistant's."""
        if not self._after:
            return self._messages
        *earlier, last = self._messages
        if last["role"] == _ASSISTANT:
            return [*earlier, last | {"content": (last.get("content") or "") + self._after}]
        return [*self._messages, {"role": _ASSISTANT, "content": self._after}]

    def take(self, chunk: dict[str, Any]) -> Token | None:
        """Take one chunk."""
        if usage := chunk.get("usage"):
            self._take_usage(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        self._timings = chunk.get("timings") or self._timings
        choices: list[dict[str, Any]] = chunk.get("choices") or []
        if not choices:
            return None
        choice = choices[0]
        delta: dict[str, Any] = choice.get("delta") or {}
        self._take_delta(delta)
        logprobs: dict[str, Any] | None = choice.get("logprobs")
        if logprobs:
            self._logprobs.extend(logprobs.get("content") or [])
        if reason := choice.get("finish_reason"):
            self._finish_reason = reason
        if not delta:
            return None
        return Token({"choices": [choice | {"finish_reason": None}]})

    def _complete(self) -> bool:
        # The usage follows in a chunk of its own, and [DONE] after it: the body is read to its end.
        return False

    def _take_delta(self, delta: dict[str, Any]) -> None:
        self._pieces.append(delta.get("content") or "")
        self._reasoning.append(delta.get("reasoning_content") or "")
        for fragment in delta.get("tool_calls") or ():
            call = self._tool_calls.setdefault(
                fragment.get("index", 0), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            call["id"] = fragment.get("id") or call["id"]
            function: dict[str, Any] = fragment.get("function") or {}
            for name in ("name", "arguments"):
                call["function"][name] += function.get(name) or ""

    def result(self, finish_reason: str) -> dict[str, Any]:
        """Return the job's result as it stands."""
        result = self._base_result(finish_reason)
        message: dict[str, Any] = {"role": _ASSISTANT, "content": result["text"]}
        result["message"] = message
        if self._whole:
            return result
        if reasoning := "".join(self._reasoning):
            message["reasoning_content"] = reasoning
        if self._tool_calls:
            message["tool_calls"] = [call for _, call in sorted(self._tool_calls.items())]
        if self._logprobs:
            result["logprobs"] = {"content": self._logprobs}
        return result
