"""The runs of ``chat_completion`` jobs on llama-server."""

from __future__ import annotations

from typing import Any, Final, cast

from velesio_worker.engines.llama.generation import LlamaGeneration
from velesio_worker.wire.events import Token
from velesio_worker.wire.fields import count_in, known_object, list_in, object_in, text_in
from velesio_worker.wire.parameters import ChatCompletionParameters

_ASSISTANT: Final = "assistant"


class ChatGeneration(LlamaGeneration[ChatCompletionParameters]):
    """A ``chat_completion`` job on ``/v1/chat/completions``."""

    path = "/v1/chat/completions"
    chat = True

    def request(self) -> dict[str, Any]:
        """Return the request's body."""
        return self._request() | {
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

    def take(self, chunk: dict[str, Any]) -> Token | None:
        """Take one chunk."""
        if "usage" in chunk and (usage := known_object(chunk, "usage")):
            self._take_usage(count_in(usage, "prompt_tokens"), count_in(usage, "completion_tokens"))
        if "timings" in chunk:
            self._timings = known_object(chunk, "timings") or self._timings
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
        self._transcript.add(choice)
        if said.get("finish_reason") is not None:
            self._finish_reason = text_in(said, "finish_reason") or self._finish_reason
        return Token({"choices": [choice]}) if delta else None

    def _complete(self) -> bool:
        return self._marked_done  # the usage follows upon the end in a chunk of its own, with the timings
