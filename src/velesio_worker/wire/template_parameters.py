"""The parameters of the jobs that have a chat put into the model's template, and counted (wire protocol, section 5)."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, field_validator, model_validator

from velesio_worker.wire.chat_parameters import Messages, ToolChoice, Tools, offered, without_empty_end
from velesio_worker.wire.parameters import AnswerParameters
from velesio_worker.wire.text_parameters import prompt_in


class TemplateFields(AnswerParameters):
    """What a chat's prompt is made of beside its messages, as a ``chat_completion`` job has it."""

    tools: Tools = None
    tool_choice: ToolChoice = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _named_tool(self) -> Self:
        tools, choice = offered(self.tools, self.tool_choice)
        if choice != self.tool_choice:
            self.tools, self.tool_choice = tools, choice
        return self


class ApplyTemplateParameters(TemplateFields):
    """Parameters of an ``apply_template`` job."""

    messages: Messages

    _with_something_last = field_validator("messages")(without_empty_end)


class CountTokensParameters(TemplateFields):
    """Parameters of a ``count_tokens`` job: the tokens of a chat, or of a completion's prompt."""

    messages: Messages | None = None
    prompt: Annotated[str | list[int], PlainValidator(prompt_in)] | None = None

    @field_validator("messages")
    @classmethod
    def _with_something_last(cls, messages: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        return None if messages is None else without_empty_end(messages)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("a count needs messages or prompt, one of the two")
        of_chats = TemplateFields.model_fields.keys() - AnswerParameters.model_fields.keys()
        more = sorted(name for name in of_chats if getattr(self, name) is not None)
        if self.prompt is not None and more:
            raise ValueError(f"{', '.join(more)} go with messages: a prompt is counted as it is")
        return self
