"""``/v1/chat/completions``: what jobs a body becomes, and what whole answer their results become."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Final, cast

from pydantic import Field

from velesio_worker.gateway.bodies import ListOf
from velesio_worker.gateway.conversation import lightened
from velesio_worker.gateway.errors import reads_results
from velesio_worker.gateway.live import Part
from velesio_worker.gateway.openai.errors import check_end, refused
from velesio_worker.gateway.openai.fields import TextBody, passed_on
from velesio_worker.gateway.openai.usage import UsageCount
from velesio_worker.wire.chat_parameters import ChatCompletionParameters

_TAKEN: Final = passed_on(ChatCompletionParameters, "messages") | {"logprobs"}
_OLD: Final = ("functions", "function_call")


class ChatBody(TextBody):
    """The body of a chat."""

    messages: Annotated[ListOf[dict[str, Any]], Field(min_length=1)]
    tools: ListOf[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    functions: list[Any] | None = None
    function_call: Any = None

    def parts(self, model: str) -> list[Part]:
        """Return the jobs of this chat, one for each choice.

        Raises:
            ApiError: the body asks for what cannot be done.
        """
        self.check_stream()
        for name in _OLD:
            if getattr(self, name):
                raise refused(name, "is not taken any more: use tools and tool_choice.")
        data = self.text_data(_TAKEN) | {"model": model, "messages": [_message(message) for message in self.messages]}
        if self.tools:
            data["tools"] = [lightened(tool) for tool in self.tools]
        return [("chat_completion", data | self.seed_of(index)) for index in range(self.n)]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as engines know it: without what is null, and with the roles that templates have."""
    fields = {name: value for name, value in message.items() if value is not None or name == "content"}
    if fields.get("role") == "developer":
        fields["role"] = "system"
    return fields


@reads_results
def chat_answer(answer_id: str, created: int, model: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer that the results of a chat's jobs come to.

    Raises:
        ApiError: one of them was cancelled.
    """
    usage = UsageCount(len(results))
    for index, result in enumerate(results):
        usage.add(index, result)
    answer: dict[str, Any] = {
        "id": answer_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [_choice(index, result) for index, result in enumerate(results)],
        "usage": usage.told(),
    }
    return answer | warnings_of(results)


def warnings_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what was not done as asked, if anything."""
    warnings = [warning for result in results for warning in cast("list[Any]", result.get("warnings") or [])]
    return {"warnings": warnings} if warnings else {}


def _choice(index: int, result: dict[str, Any]) -> dict[str, Any]:
    logprobs: dict[str, Any] | None = result.get("logprobs")
    return {
        "index": index,
        "message": _answered(result),
        "logprobs": None if logprobs is None else {"content": logprobs.get("content"), "refusal": None},
        "finish_reason": check_end(result.get("finish_reason") or "stop"),
    }


def _answered(result: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = result.get("message") or {}
    calls: list[dict[str, Any]] = said.get("tool_calls") or []
    message: dict[str, Any] = {
        "role": "assistant",
        "content": (said.get("content") or "") or (None if calls else ""),
        "refusal": None,
        "annotations": [],
    }
    if said.get("reasoning_content"):
        message["reasoning_content"] = said["reasoning_content"]
    if calls:
        message["tool_calls"] = [call | {"id": call.get("id") or new_call_id()} for call in calls]
    return message


def new_call_id() -> str:
    """Return an id for a tool's call that the engine gave none."""
    return f"call_{uuid.uuid4().hex[:24]}"
