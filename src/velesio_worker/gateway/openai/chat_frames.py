"""A chat's events as OpenAI's chunks. Runs for each token: one ``dumps``, and no models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from velesio_worker.gateway.openai.chat import new_call_id
from velesio_worker.gateway.openai.chunks import END, ChunkFrames


@dataclass(slots=True)
class _Call:
    """A call of a tool that is being said.

    Attributes:
        id: the engine's, or our own.
        told: whether the client knows its name.
        arguments: what came before the name did.
    """

    id: str
    told: bool = False
    arguments: str = ""


class ChatFrames(ChunkFrames):
    """Turns the events of a chat's jobs into chunks; each job is one choice.

    Args:
        answer_id: the id of the answer.
        created: when it was asked for, in Unix time.
        model: the model's name.
        choices: how many jobs there are.
        with_usage: whether the usage is told at the end.
    """

    def __init__(self, answer_id: str, created: int, model: str, choices: int = 1, *, with_usage: bool = False) -> None:
        head = {"id": answer_id, "object": "chat.completion.chunk", "created": created, "model": model}
        super().__init__(head, jobs=choices, choices=choices, with_usage=with_usage)
        self._calls: list[dict[int, _Call]] = [{} for _ in range(choices)]

    def _token(self, index: int, choice: dict[str, Any]) -> bytes:
        said: dict[str, Any] = choice.get("delta") or {}
        delta = {name: value for name, value in said.items() if value and name not in {"role", "tool_calls"}}
        if calls := said.get("tool_calls"):
            delta |= self._told_calls(index, calls)
        logprobs: dict[str, Any] | None = choice.get("logprobs")
        first = self._first(index)
        if not delta and not logprobs:
            return first
        if logprobs:
            told = {"content": logprobs.get("content"), "refusal": None}
            return first + self._chunk(index, delta, b',"logprobs":' + orjson.dumps(told))
        return first + self._chunk(index, delta)

    def _first(self, index: int) -> bytes:
        """Return what each choice begins with, once."""
        if self._begun[index]:
            return b""
        self._begun[index] = True
        return self._chunk(index, {"role": "assistant", "content": ""})

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: bytes = b"", reason: bytes = b"null") -> bytes:
        return b'%b{"index":%d,"delta":%b%b,"finish_reason":%b}]%b' % (
            self._head,
            index,
            orjson.dumps(delta),
            logprobs,
            reason,
            END,
        )

    def _told_calls(self, index: int, fragments: list[dict[str, Any]]) -> dict[str, Any]:
        told = [call for fragment in fragments if (call := self._told_call(index, fragment)) is not None]
        return {"tool_calls": told} if told else {}

    def _told_call(self, index: int, fragment: dict[str, Any]) -> dict[str, Any] | None:
        """Return a piece of a call: the first one with id and name, which the others have not."""
        place: int = fragment.get("index") or 0
        function: dict[str, Any] = fragment.get("function") or {}
        arguments: str = function.get("arguments") or ""
        call = self._calls[index].get(place)
        if call is None:
            call = self._calls[index][place] = _Call(fragment.get("id") or new_call_id())
        if call.told:
            return {"index": place, "function": {"arguments": arguments}} if arguments else None
        call.arguments += arguments
        if not function.get("name"):
            return None
        call.told = True
        said = {"name": function["name"], "arguments": call.arguments}
        return {"index": place, "id": call.id, "type": "function", "function": said}

    def _last(self, index: int, reason: bytes) -> bytes:
        return self._first(index) + self._chunk(index, {}, reason=reason)
