"""The parameters of ``chat_completion`` jobs (wire protocol, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self, cast

import orjson
from pydantic import AfterValidator, Field, field_validator, model_validator

from velesio_worker.wire.answer_schemas import WITHIN_SCHEMA, check_tool, checked_schema
from velesio_worker.wire.bounded import within
from velesio_worker.wire.fields import known_object
from velesio_worker.wire.limits import (
    LONGEST_NAME,
    MOST_MESSAGE_VALUES,
    MOST_MESSAGES,
    MOST_PICTURE,
    MOST_TEMPLATE_VALUES,
    MOST_TOOLS,
)
from velesio_worker.wire.parameters import FETCHED, INT32, Count, OpenAIFields
from velesio_worker.wire.prompt_parts import Part, parts_of_chat
from velesio_worker.wire.text_parameters import TextParameters


def _message(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("role"), str):
        raise ValueError("a message needs a role, such as system, user or assistant")  # noqa: TRY004
    content = value.get("content")
    for part in cast("list[Any]", content) if isinstance(content, list) else ():
        if isinstance(part, dict) and _is_fetched(cast("dict[str, Any]", part)):
            raise ValueError(
                "images are taken as base64 data URIs, never fetched: "
                '{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}'
            )
    for call in cast("list[Any]", value.get("tool_calls") or []):
        _check_call(call)
    return value


def _check_call(call: Any) -> None:  # noqa: ANN401 (any JSON)
    """Check a call of an earlier answer, whose mistakes llama-server answers with status 500."""
    match call:
        case {"function": {"arguments": str(arguments)}}:
            try:
                orjson.loads(arguments)
            except orjson.JSONDecodeError:
                raise ValueError("the arguments of a tool call are no JSON: send them whole") from None
        case _:
            pass


def _is_fetched(part: dict[str, Any]) -> bool:
    """Whether a part of a message is in no form in which an engine has it: above all an image elsewhere."""
    kind = part.get("type")
    if not isinstance(kind, str):
        return False
    media = part.get(kind)
    fields: dict[str, Any] = cast("dict[str, Any]", media) if isinstance(media, dict) else {}
    if "image" in kind and kind != "image_url":
        return True  # some other API's form
    if kind.endswith("_url"):
        url = fields.get("url")
        return not (isinstance(url, str) and url.startswith("data:"))
    return any(isinstance(field, str) and FETCHED.match(field) is not None for field in fields.values())


def _is_empty_answer(message: dict[str, Any]) -> bool:
    more = any(value for name, value in message.items() if name not in {"role", "content"})
    return message["role"] == "assistant" and not message.get("content") and not more


def _tool(value: dict[str, Any]) -> dict[str, Any]:
    """Check a tool, whose mistakes llama-server answers with status 500. Fields that are null are left out."""
    function = value.get("function")
    if value.get("type", "function") != "function" or not isinstance(function, dict):
        raise ValueError('a tool is {"type": "function", "function": {"name": "…", "parameters": {…}}}')
    fields = {name: item for name, item in cast("dict[str, Any]", function).items() if item is not None}
    wanted = (("name", str), ("description", str), ("parameters", dict))
    if not fields.get("name") or not all(isinstance(fields.get(name, kind()), kind) for name, kind in wanted):
        raise ValueError("a tool's function has a name, and may have a description and parameters, a JSON schema")
    check_tool(fields)
    return {"type": "function", "function": fields}


def _response_format(value: dict[str, Any]) -> dict[str, Any]:
    """Return a format in OpenAI's form, which is the one of which llama-server enforces the schema.

    Its own form has the schema at the top, and many producers have it as ``json_schema`` itself.
    """
    kind, wrapped = value.get("type"), known_object(value, "json_schema") or {}
    if kind == "text":
        return {"type": "text"}
    if kind not in ("json_object", "json_schema"):
        raise ValueError('type is text, json_object or json_schema, with {"json_schema": {"schema": {…}}}')
    schema = known_object(wrapped, "schema")
    if schema is None:
        schema = known_object(value, "schema")
    if schema is None and _SCHEMA_WORDS & wrapped.keys():
        schema, wrapped = wrapped, {}
    if schema is not None:
        return {"type": "json_schema", "json_schema": {**wrapped, "schema": checked_schema(schema)}}
    if kind == "json_schema":
        raise ValueError("json_schema.schema is missing: the JSON schema that the answer is to obey")
    return {"type": "json_object"}


_SCHEMA_WORDS: Final = frozenset(
    {"type", "properties", "items", "$ref", "enum", "const", "anyOf", "oneOf", "allOf", "required", "prefixItems"}
)
"""What a JSON schema begins with, and the wrapper around one never has."""

Message = Annotated[dict[str, Any], AfterValidator(_message)]
Tool = Annotated[dict[str, Any], AfterValidator(_tool)]
Messages = Annotated[
    list[Message],
    Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True),
    within(MOST_MESSAGE_VALUES, MOST_PICTURE),
]
Tools = Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True), WITHIN_SCHEMA] | None
ToolChoice = Annotated[str | dict[str, Any], within(16, LONGEST_NAME)] | None
TemplateValues = Annotated[dict[str, Any], within(MOST_TEMPLATE_VALUES)]


def without_empty_end(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out empty beginnings of an answer: the prompt would lose the assistant's header with them.

    Raises:
        ValueError: nothing is left.
    """
    said = len(messages)
    while said and _is_empty_answer(messages[said - 1]):
        said -= 1
    if not said:
        raise ValueError("there is nothing but an empty answer")
    return messages[:said]


def offered(tools: Tools, choice: ToolChoice) -> tuple[Tools, ToolChoice]:
    """Offer the tool that is named alone, since llama-server knows no other way to have it called.

    Raises:
        ValueError: the choice is none, or names no tool.
    """
    names = [tool["function"]["name"] for tool in tools or []]
    match choice:
        case None | "none" | "auto":
            return tools, choice
        case "required" if names:
            return tools, choice
        case {"type": "function", "function": {"name": str(name)}} if name in names:
            return [tool for tool in tools or [] if tool["function"]["name"] == name], "required"
        case {"type": "function", "function": {"name": str(name)}}:
            raise ValueError(f"tool_choice: no tool has the name {name[:80]!r}")
        case "required":
            raise ValueError("tool_choice: there are no tools")
        case _:
            raise ValueError(
                'tool_choice: none, auto, required or {"type": "function", "function": {"name": "…"}} is wanted'
            )


class TemplateFields(OpenAIFields):
    """What a chat's prompt is made of beside its messages."""

    tools: Tools = None
    tool_choice: ToolChoice = None
    chat_template_kwargs: TemplateValues | None = None
    reasoning_effort: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _named_tool(self) -> Self:
        tools, choice = offered(self.tools, self.tool_choice)
        if choice != self.tool_choice:
            self.tools, self.tool_choice = tools, choice
        return self


class ChatCompletionParameters(TemplateFields, TextParameters):
    """Parameters of a ``chat_completion`` job. Messages go to the engine as they are."""

    messages: Messages
    response_format: Annotated[dict[str, Any], WITHIN_SCHEMA] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    thinking_budget_tokens: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None

    _with_something_last = field_validator("messages")(without_empty_end)

    @field_validator("response_format")
    @classmethod
    def _usual_form(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if value is None else _response_format(value)

    @model_validator(mode="after")
    def _grammar_alone(self) -> Self:
        if self.grammar and self.response_format is not None and self.response_format.get("type") != "text":
            raise ValueError("a grammar and a response_format exclude each other: give one of them")
        return self

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """What the model has to read."""
        return parts_of_chat(self.messages, self.tools)

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer has to obey; None if there is none."""
        wanted = known_object(self.response_format or {}, "json_schema") or {}
        schema = known_object(wanted, "schema")
        return self.json_schema if schema is None else schema

    @property
    def alternatives(self) -> int:
        """For how many tokens at each place probabilities are wanted."""
        return max(self.n_probs or 0, self.top_logprobs or 0)

    @property
    def continuable(self) -> bool:
        """Whether a text that was cut off can be gone on with (wire protocol, section 4)."""
        plain = self.response_format is None or self.response_format.get("type") == "text"
        last = self.messages[-1]
        begun = last["role"] == "assistant"
        can_grow = not begun or (isinstance(last.get("content"), str | None) and not last.get("tool_calls"))
        as_usual = self.add_generation_prompt is None and self.continue_final_message is None
        more = self.tools or self.logprobs or self.top_logprobs
        return super().continuable and plain and can_grow and as_usual and not more
