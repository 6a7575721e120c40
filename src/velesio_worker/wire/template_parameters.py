"""The parameters of the jobs that have a chat put into the model's template, and counted (wire protocol, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from pydantic import field_validator, model_validator

from velesio_worker.wire.chat_parameters import Messages, TemplateFields, without_empty_end
from velesio_worker.wire.parameters import AnswerParameters, Prompt
from velesio_worker.wire.prompt_parts import Part, parts_of_chat


class ApplyTemplateParameters(TemplateFields, AnswerParameters):
    """Parameters of an ``apply_template`` job."""

    messages: Messages

    _with_something_last = field_validator("messages")(without_empty_end)

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """What the model has to read."""
        return parts_of_chat(self.messages, self.tools)


class CountTokensParameters(TemplateFields, AnswerParameters):
    """Parameters of a ``count_tokens`` job: the tokens of a chat, or of a completion's prompt."""

    messages: Messages | None = None
    prompt: Prompt | None = None

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

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """What the model has to read."""
        if self.messages is not None:
            return parts_of_chat(self.messages, self.tools)
        return [self.prompt if isinstance(self.prompt, str) else len(self.prompt or [])]
