"""What the pieces of an answer come to: its text, and of a chat its message."""

from __future__ import annotations

from typing import Any, Final, cast

from velesio_worker.wire.fields import list_in, object_in, text_in

_FUNCTION: Final = ("name", "arguments")


class Transcript:
    """Puts an answer together from the choices of its ``token`` entries (wire protocol, sections 4 and 5).

    Args:
        before: the text that it goes on from.

    Attributes:
        pieces: how many choices held output.
    """

    def __init__(self, before: str = "") -> None:
        self.pieces = 0
        self._texts = [before]
        self._reasoning: list[str] = []
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[Any] = []
        self._probabilities: list[Any] = []

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self._texts)

    def say(self, text: str) -> None:
        """Add a piece of text, which is not empty."""
        self.pieces += 1
        self._texts.append(text)

    def add(self, choice: dict[str, Any]) -> None:
        """Add a choice; null stands for nothing.

        Raises:
            ValueError: one of its fields is of a type that the protocol does not know.
        """
        delta = choice.get("delta")
        if delta is None:
            text = text_in(choice, "text")
            if "completion_probabilities" in choice:
                self._probabilities += list_in(choice, "completion_probabilities")
            self.pieces += text != ""
            self._texts.append(text)
            return
        if not isinstance(delta, dict):
            raise ValueError("delta is no object")  # noqa: TRY004 (of JSON; whoever reads it says what it means)
        self._add_delta(cast("dict[str, Any]", delta))
        if "logprobs" in choice:
            self._logprobs += list_in(object_in(choice, "logprobs"), "content")

    def _add_delta(self, delta: dict[str, Any]) -> None:
        text, thought = text_in(delta, "content"), text_in(delta, "reasoning_content")
        calls = list_in(delta, "tool_calls") if "tool_calls" in delta else ()
        for fragment in calls:
            self._add_fragment(fragment)
        self.pieces += bool(text or thought or calls)
        self._texts.append(text)
        if thought:
            self._reasoning.append(thought)

    def _add_fragment(self, fragment: object) -> None:
        if not isinstance(fragment, dict):
            raise ValueError("a tool call is no object")  # noqa: TRY004 (as above)
        fields = cast("dict[str, Any]", fragment)
        index: object = fields.get("index", 0)
        if not isinstance(index, int):
            raise ValueError("a tool call's index is no number")  # noqa: TRY004 (as above)
        function = object_in(fields, "function")
        said = {name: text_in(function, name) for name in _FUNCTION}
        call = self._tool_calls.setdefault(
            index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = text_in(fields, "id") or call["id"]
        for name, text in said.items():
            call["function"][name] += text

    def result(
        self,
        finish_reason: str,
        usage: dict[str, Any] | None = None,
        timings: dict[str, Any] | None = None,
        *,
        chat: bool,
    ) -> dict[str, Any]:
        """Return the job's result as it stands: that of a ``chat`` has a message."""
        text = self.text
        result: dict[str, Any] = {"text": text, "finish_reason": finish_reason, "usage": usage, "timings": timings}
        if self._probabilities:
            result["completion_probabilities"] = self._probabilities
        if not chat:
            return result
        message: dict[str, Any] = {"role": "assistant", "content": text}
        result["message"] = message
        if reasoning := "".join(self._reasoning):
            message["reasoning_content"] = reasoning
        if self._tool_calls:
            message["tool_calls"] = [call for _, call in sorted(self._tool_calls.items())]
        if self._logprobs:
            result["logprobs"] = {"content": self._logprobs}
        return result
