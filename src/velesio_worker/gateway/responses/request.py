"""The request's body, and the chat job that it asks for."""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from velesio_worker.gateway.bodies import ListOf
from velesio_worker.gateway.conversation import Conversation, Given, givens, json_of, lightened, wrong
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.responses.items import add_item

_LOGPROBS: Final = "message.output_text.logprobs"


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Reasoning(_Body):
    """How much the model is to think."""

    effort: str | None = None
    summary: str | None = None


class TextOptions(_Body):
    """What form the text is to have."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


def _text_or_items(value: object) -> object:
    if not isinstance(value, str | list):
        raise ValueError("a text or a list of items is wanted")  # noqa: TRY004 (pydantic's way)
    return cast("object", value)


def _choice(value: object) -> object:
    if not isinstance(value, str | dict | None):
        raise ValueError("auto, none, required or an object is wanted")  # noqa: TRY004 (pydantic's way)
    return cast("object", value)


class ResponsesRequest(_Body):
    """The body of ``POST /v1/responses``; what is not here is ignored."""

    model: Annotated[str, Field(min_length=1)]
    input: Annotated[Any, AfterValidator(_text_or_items), Field(json_schema_extra={"type": ["string", "array"]})]
    instructions: str | None = None
    tools: ListOf[dict[str, Any]] | None = None
    tool_choice: Annotated[
        Any, AfterValidator(_choice), Field(json_schema_extra={"type": ["string", "object", "null"]})
    ] = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: ListOf[str] | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    service_tier: Any = None
    safety_identifier: str | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether log probabilities are asked for."""
        return _LOGPROBS in (self.include or []) or bool(self.top_logprobs)

    def functions(self) -> list[dict[str, Any]]:
        """Return the tools that are functions; no others can be offered here, and clients send them all the same."""
        return [tool for tool in self.tools or [] if tool.get("type") == "function"]


_STORED: Final = {
    "previous_response_id": "nothing is stored here: send the whole conversation as `input`",
    "conversation": "no conversations are stored here: send the whole conversation as `input`",
    "prompt": "no prompts are stored here: send the text as `instructions` or `input`",
}


def job_of(body: ResponsesRequest) -> dict[str, Any]:
    """Return the parameters of the chat job that a request asks for.

    Raises:
        ApiError: it asks for something that is not to be had here, or its items are none.
    """
    for name, instead in _STORED.items():
        if getattr(body, name) is not None:
            raise ApiError(400, "unsupported_parameter", f"{name}: {instead}.", param=name)
    if body.background:
        told = "background: answers are not kept: leave it out, or use POST /jobs."
        raise ApiError(400, "unsupported_parameter", told, param="background")
    for name in ("metadata", "tool_choice"):  # which the answer repeats
        json_of(getattr(body, name), name)
    tools, choice = _tools(body)
    asked: dict[str, Any] = {
        "model": body.model,
        "messages": _messages(body),
        "tools": tools or None,
        "tool_choice": choice,
        "parallel_tool_calls": body.parallel_tool_calls if tools else None,
        "response_format": _format(body.text),
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "logprobs": body.wants_logprobs or None,
        "top_logprobs": body.top_logprobs or None,
        **_thinking(body.reasoning),
    }
    given = {name: value for name, value in asked.items() if value is not None}
    return {"defaults": "engine", "stream": bool(body.stream), **given}


def _messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    chat = Conversation()
    if body.instructions:
        chat.system(body.instructions)
    if isinstance(body.input, str):
        add_item(chat, Given({"role": "user", "content": body.input}, "input"))
    else:
        for item in givens(body.input, "input"):
            add_item(chat, item)
    return chat.messages()


def _tools(body: ResponsesRequest) -> tuple[list[dict[str, Any]], Any]:
    """Return the tools and which of them is to be called, as a chat job has them."""
    functions = [_function(Given(tool, f"tools.{n}")) for n, tool in enumerate(body.functions())]
    choice: Any = body.tool_choice
    if isinstance(choice, dict):
        named = Given(cast("dict[str, Any]", choice), "tool_choice")
        if named.type == "allowed_tools":
            allowed = {one.text("name") for one in givens(named.fields.get("tools"), "tool_choice.tools")}
            functions = [tool for tool in functions if tool["function"]["name"] in allowed]
            choice = named.text("mode") or "auto"
        elif named.type == "function":
            choice = {"type": "function", "function": {"name": named.text("name", needed=True)}}
        else:
            choice = "auto"  # a tool that was left out
    return functions, None if not functions and choice in ("auto", "none") else choice


def _function(tool: Given) -> dict[str, Any]:
    function = {name: tool.fields.get(name) for name in ("description", "parameters", "strict")}
    given = {name: value for name, value in function.items() if value is not None}
    return lightened({"type": "function", "function": {"name": tool.text("name", needed=True), **given}})


def _format(text: TextOptions | None) -> dict[str, Any] | None:
    wanted = Given(text.format, "text.format") if text and text.format is not None else None
    match wanted.type if wanted else "text":
        case "json_schema" if wanted:
            given = {name: value for name, value in wanted.fields.items() if name != "type" and value is not None}
            if not isinstance(given.get("schema"), dict):
                raise wrong("text.format.schema", "the JSON schema that the answer is to obey is wanted")
            return {"type": "json_schema", "json_schema": given}
        case "json_object":
            return {"type": "json_object"}
        case "text":
            return None
        case _:
            raise wrong("text.format.type", "text, json_object or json_schema is wanted")


def _thinking(reasoning: Reasoning | None) -> dict[str, Any]:
    effort = reasoning.effort if reasoning else None
    if effort == "none":
        return {"chat_template_kwargs": {"enable_thinking": False}}
    return {"reasoning_effort": effort}
