"""The request's body, and the job that it asks for."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from velesio_worker.gateway.anthropic.blocks import add_turn, text_of
from velesio_worker.gateway.bodies import ListOf
from velesio_worker.gateway.conversation import Conversation, Given, lightened, wrong

_BILLING: Final = "x-anthropic-billing-header:"
"""How a block begins that Claude Code puts first, another one in each request: no prompt would be in the cache."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


def _text_or_blocks(value: object) -> object:
    if not isinstance(value, str | list | None):
        raise ValueError("a text or a list of blocks is wanted")  # noqa: TRY004 (pydantic's way)
    return cast("object", value)


Blocks = Annotated[Any, AfterValidator(_text_or_blocks), Field(json_schema_extra={"type": ["string", "array", "null"]})]


class Message(_Body):
    """A turn of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Blocks


class ToolChoice(_Body):
    """Whether a tool is to be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(_Body):
    """Whether the model is to think, and for how many tokens at most."""

    type: str
    budget_tokens: int | None = None


class OutputConfig(_Body):
    """How much effort is wanted, and in what form."""

    effort: str | None = None
    format: dict[str, Any] | None = None


class Metadata(_Body):
    """For whom the request is."""

    user_id: str | None = None


class CountRequest(_Body):
    """The body of ``POST /v1/messages/count_tokens``; what is not here is ignored."""

    model: Annotated[str, Field(min_length=1)]
    messages: ListOf[Message]
    system: Blocks = None
    tools: ListOf[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: dict[str, Any] | None = None


class MessagesRequest(CountRequest):
    """The body of ``POST /v1/messages``; what is not here is ignored."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: ListOf[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None


def job_of(body: MessagesRequest) -> dict[str, Any]:
    """Return the parameters of the chat job that a request asks for.

    Raises:
        ApiError: its messages or tools are none.
    """
    asked = {
        **_prompt(body),
        "max_tokens": body.max_tokens,
        "stop": body.stop_sequences,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "response_format": _format(body),
        "thinking_budget_tokens": body.thinking.budget_tokens if body.thinking else None,
    }
    if body.tools and body.tool_choice and body.tool_choice.disable_parallel_tool_use:
        asked["parallel_tool_calls"] = False
    return {"defaults": "engine", "stream": bool(body.stream), **_given(asked)}


def count_of(body: CountRequest) -> dict[str, Any]:
    """Return the parameters of the job that counts a request's tokens.

    Raises:
        ApiError: its messages or tools are none.
    """
    return _given(_prompt(body))


def _given(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None}


def _prompt(body: CountRequest) -> dict[str, Any]:
    """Return what the prompt is made of."""
    tools = [_tool(Given(tool, f"tools.{n}")) for n, tool in enumerate(body.tools or []) if _is_function(tool)]
    thinking = {"disabled": False, "enabled": True}.get(body.thinking.type) if body.thinking else None
    return {
        "model": body.model,
        "messages": _messages(body),
        "tools": tools or None,
        "tool_choice": _choice(body.tool_choice, tools),
        "chat_template_kwargs": None if thinking is None else {"enable_thinking": thinking},
        "reasoning_effort": body.output_config.effort if body.output_config else None,
    }


def _messages(body: CountRequest) -> list[dict[str, Any]]:
    chat = Conversation()
    blocks = Given({"system": body.system}, "").parts("system", "text") if body.system else []
    texts = [text_of(block) for block in blocks]
    if said := "\n\n".join(text for text in texts if text and not text.startswith(_BILLING)):
        chat.system(said)
    for n, message in enumerate(body.messages):
        add_turn(chat, message.role, Given({"content": message.content}, f"messages.{n}"))
    return chat.messages()


def _is_function(tool: dict[str, Any]) -> bool:
    """Whether a tool is one that the client runs; those that Anthropic runs are left out."""
    return tool.get("type") in {None, "custom"}


def _tool(tool: Given) -> dict[str, Any]:
    schema = tool.object("input_schema")
    if schema is None:
        raise wrong(f"{tool.path}.input_schema", "the JSON schema of the tool's input is wanted")
    function: dict[str, Any] = {"name": tool.text("name", needed=True), "parameters": schema.fields}
    if description := tool.text("description"):
        function["description"] = description
    return lightened({"type": "function", "function": function})


def _choice(choice: ToolChoice | None, tools: list[dict[str, Any]]) -> Any:  # noqa: ANN401 (a text or an object)
    if choice is None or (not tools and choice.type in {"auto", "none"}):
        return None
    if choice.type != "tool":
        return "required" if choice.type == "any" else choice.type
    if not choice.name:
        raise wrong("tool_choice.name", "the name of the tool that is to be called is wanted")
    return {"type": "function", "function": {"name": choice.name}}


def _format(body: MessagesRequest) -> dict[str, Any] | None:
    path = "output_format" if body.output_format is not None else "output_config.format"
    wanted = body.output_format or (body.output_config.format if body.output_config else None)
    if wanted is None:
        return None
    schema = Given(wanted, path).object("schema")
    if wanted.get("type") != "json_schema" or schema is None:
        raise wrong(path, '{"type": "json_schema", "schema": {…}} is wanted')
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema.fields}}
