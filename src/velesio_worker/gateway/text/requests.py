"""The bodies of llama-server's thin routes, and the jobs that they are.

A body may hold any field that the worker's jobs have; which these are the wire protocol says, and nothing is checked
twice: what the worker refuses comes back in its own words. Fields that nobody knows are left out, and one that is null
counts as not given.
"""

from __future__ import annotations

from typing import Any, Final, cast

from pydantic import ConfigDict, Field

from velesio_worker.gateway.bodies import Body, ListOf
from velesio_worker.gateway.conversation import lightened
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import MOST_JOBS
from velesio_worker.wire.parameters import (
    REFUSED,
    DetokenizeParameters,
    ModelParameters,
    TokenizeParameters,
)
from velesio_worker.wire.template_parameters import ApplyTemplateParameters, CountTokensParameters
from velesio_worker.wire.text_parameters import CompletionParameters

_ONLY_MORE: Final = frozenset({"timings_per_token", "response_fields", "sse_ping_interval", "return_progress"})
"""What asks llama-server for more, or for fewer, fields or frames: without it an answer is as right."""

_NO_TEXT: Final = frozenset({"grammar"})
"""Texts that are none where they are empty."""


class TextRequest(Body):
    """A body, as its sender gave it.

    Attributes:
        model: a model that a worker has; None for the worker's default.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None

    def data(self, parameters: type[ModelParameters]) -> dict[str, Any]:
        """Return the data of a job that takes these parameters, of which the engine decides those not given."""
        known = {str(field.validation_alias or name): field for name, field in parameters.model_fields.items()}
        own = {"defaults", "stream", *_ONLY_MORE}
        given = {name: value for name, value in self.model_dump(exclude_unset=True).items() if name not in own}
        return {"defaults": "engine"} | {
            name: value
            for name, value in given.items()
            if name in known and (value or not (name in _NO_TEXT or REFUSED in known[name].metadata))
        }


class CompletionRequest(TextRequest):
    """The body of ``POST /completion``; any other field of a ``completion`` job may stand beside these.

    Attributes:
        prompt: a text, a list of token ids, or a list of several of these, which are as many answers.
        stream: whether the answer comes in pieces.
        n_predict: the most tokens of an answer; -1: until the model ends.
    """

    prompt: str | list[Any]
    stream: bool = False
    n_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: str | ListOf[str] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    n_probs: int | None = None
    cache_prompt: bool | None = None

    @property
    def several(self) -> bool:
        """Whether there are several prompts, which llama-server answers with a list."""
        prompts = self.prompt
        return isinstance(prompts, list) and len(prompts) > 0 and all(isinstance(one, str | list) for one in prompts)

    def parts(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the jobs, by type and data: one for each prompt. Raises ApiError: there are too many."""
        data = self.data(CompletionParameters) | {"stream": self.stream}
        prompts = cast("list[Any]", self.prompt) if self.several else [self.prompt]
        if len(prompts) > MOST_JOBS:
            told = f"prompt: {len(prompts)} answers are asked for at once, and {MOST_JOBS} may be: send fewer."
            raise ApiError(400, "invalid_request", told, param="prompt")
        return [("completion", data | {"prompt": prompt}) for prompt in prompts]


class TokenizeRequest(TextRequest):
    """The body of ``POST /tokenize``.

    Attributes:
        content: the text.
        with_pieces: whether each token comes with its text.
    """

    content: str = ""
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None

    def part(self) -> tuple[str, dict[str, Any]]:
        """Return the job, by type and data."""
        return "tokenize", self.data(TokenizeParameters) | {"content": self.content}


class DetokenizeRequest(TextRequest):
    """The body of ``POST /detokenize``."""

    tokens: ListOf[int] = Field(default_factory=list[int])

    def part(self) -> tuple[str, dict[str, Any]]:
        """Return the job, by type and data."""
        return "detokenize", self.data(DetokenizeParameters) | {"tokens": self.tokens}


class TemplateRequest(TextRequest):
    """A chat: the body of ``POST /apply-template`` and of ``POST /v1/chat/completions/input_tokens``.

    All that a chat completion has may stand beside these; what the prompt is not made of is left out.
    """

    messages: ListOf[dict[str, Any]]
    tools: ListOf[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def to_apply(self) -> tuple[str, dict[str, Any]]:
        """Return the job that makes the text of it, by type and data."""
        return "apply_template", self._light(self.data(ApplyTemplateParameters))

    def to_count(self) -> tuple[str, dict[str, Any]]:
        """Return the job that counts its tokens, by type and data."""
        data = self._light(self.data(CountTokensParameters))
        return "count_tokens", {name: value for name, value in data.items() if name != "prompt"}

    def _light(self, data: dict[str, Any]) -> dict[str, Any]:
        return data | {"tools": [lightened(tool) for tool in self.tools]} if self.tools else data
