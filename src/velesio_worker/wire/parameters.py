"""The parameters of each type of job: its ``data``, checked (wire protocol, section 5)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_INT32: Final = 2**31 - 1
_RANDOM_SEED: Final = 2**32 - 1
"""To llama.cpp, a seed of this value asks for any seed, as -1 does."""

FETCHED: Final = re.compile(r"\s{0,64}[a-z][a-z0-9+.-]{0,31}://", re.IGNORECASE)
"""How what an engine would have to fetch begins. Bounded: a megabyte of base64 is not to be walked through for it."""


class _Parameters(BaseModel):
    """Parameters of a job; an unknown one is refused by name."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelParameters(_Parameters):
    """Parameters of a job that a model runs.

    Attributes:
        model: the model's name, or a file of the model folder; None for the model that the worker has by default.
    """

    model: Annotated[str, Field(min_length=1, max_length=1024)] | None = None


class LoraAdapter(_Parameters):
    """One LoRA adapter that the engine has loaded, and how strongly it counts."""

    id: Annotated[int, Field(ge=0, le=_INT32)]
    scale: float


class TextParameters(ModelParameters):
    """What the jobs that write text have in common. Defaults are the wire protocol's."""

    max_tokens: Annotated[int, Field(ge=1, le=_INT32)] = 150
    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_k: Annotated[int, Field(ge=0, le=_INT32)] = 40
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0)] = 1.1
    repeat_last_n: Annotated[int, Field(ge=-1, le=_INT32)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Annotated[int, Field(ge=-1, le=2**32 - 1)] | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    stream: bool = False
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    logit_bias: list[Any] | dict[str, Any] | None = None
    n_probs: Annotated[int, Field(ge=0, le=_INT32)] | None = None
    id_slot: Annotated[int, Field(ge=-1, le=_INT32)] | None = None
    cache_prompt: bool | None = None
    ignore_eos: bool | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    samplers: Annotated[list[str], Field(fail_fast=True)] | None = None
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    dynatemp_range: Annotated[float, Field(ge=0)] | None = None
    dynatemp_exponent: float | None = None
    xtc_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    xtc_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    dry_multiplier: Annotated[float, Field(ge=0)] | None = None
    dry_base: float | None = None
    dry_allowed_length: Annotated[int, Field(ge=0, le=_INT32)] | None = None
    dry_penalty_last_n: Annotated[int, Field(ge=-1, le=_INT32)] | None = None
    dry_sequence_breakers: Annotated[list[str], Field(fail_fast=True)] | None = None
    lora: Annotated[list[LoraAdapter], Field(fail_fast=True)] | None = None

    @property
    def continuable(self) -> bool:
        """Whether a text that was cut off can be gone on with (wire protocol, section 4)."""
        return not (self.grammar or self.json_schema is not None or self.n_probs)

    @property
    def deterministic(self) -> bool:
        """Whether the same parameters give the same text again."""
        if self.seed is not None and 0 <= self.seed < _RANDOM_SEED:
            return True
        greedy = self.temperature == 0 and self.samplers is None  # which may leave the temperature out
        return greedy and not self.dynatemp_range and not self.xtc_probability


class CompletionParameters(TextParameters):
    """Parameters of a ``completion`` job."""

    prompt: str


class InfillParameters(TextParameters):
    """Parameters of an ``infill`` job: what stands between a prefix and a suffix. They go to the engine as they are."""

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    prompt: str = ""


class AnswerParameters(ModelParameters):
    """Parameters of a job that has one answer and writes no text: llama-server's own fields in and out."""


class EmbeddingParameters(AnswerParameters):
    """Parameters of an ``embedding`` job: ``input`` as OpenAI has it, or ``content`` as llama-server has it."""

    input: Any = None
    content: Any = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=_INT32)] | None = None
    embd_normalize: Annotated[int, Field(ge=-1, le=_INT32)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.input is None) == (self.content is None):
            raise ValueError("an embedding needs input or content, one of the two")
        return self


class RerankParameters(AnswerParameters):
    """Parameters of a ``rerank`` job."""

    query: str
    documents: Annotated[list[str], Field(min_length=1, fail_fast=True)]
    top_n: Annotated[int, Field(ge=1, le=_INT32)] | None = None


class TokenizeParameters(AnswerParameters):
    """Parameters of a ``tokenize`` job."""

    content: str
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeParameters(AnswerParameters):
    """Parameters of a ``detokenize`` job."""

    tokens: Annotated[list[Annotated[int, Field(ge=0, le=_INT32)]], Field(fail_fast=True)]


def _message(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("role"), str):
        raise ValueError("a message needs a role, such as system, user or assistant")  # noqa: TRY004
    content = value.get("content")
    for part in cast("list[Any]", content) if isinstance(content, list) else ():
        if isinstance(part, dict) and _is_fetched(cast("dict[str, Any]", part)):
            raise ValueError("images are taken as base64 data URIs (data:image/png;base64,…), never fetched")
    return value


def _is_fetched(part: dict[str, Any]) -> bool:
    """Whether the engine would have to fetch a part of a message: an image, a sound or a video elsewhere."""
    kind = part.get("type")
    if not isinstance(kind, str):
        return False
    media = part.get(kind)
    fields: dict[str, Any] = cast("dict[str, Any]", media) if isinstance(media, dict) else {}
    if kind.endswith("_url"):
        url = fields.get("url")
        return not (isinstance(url, str) and url.startswith("data:"))
    return any(isinstance(field, str) and FETCHED.match(field) is not None for field in fields.values())


Message = Annotated[dict[str, Any], AfterValidator(_message)]


class ChatCompletionParameters(TextParameters):
    """Parameters of a ``chat_completion`` job. Messages go to the engine as they are."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_format: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_INT32)] | None = None

    @property
    def continuable(self) -> bool:
        """Whether a text that was cut off can be gone on with (wire protocol, section 4)."""
        plain = self.response_format is None or self.response_format.get("type") == "text"
        last = self.messages[-1]
        begun = last["role"] == "assistant"
        can_grow = not begun or (isinstance(last.get("content"), str | None) and not last.get("tool_calls"))
        return super().continuable and plain and can_grow and not (self.tools or self.logprobs or self.top_logprobs)


class ManagementParameters(_Parameters):
    """Parameters of a job that looks after models, those of a kind."""

    kind: Literal["text", "image"] = "text"


class LoadModelParameters(ManagementParameters):
    """Parameters of a ``load_model`` job: a file of the model folder."""

    model: Annotated[str, Field(min_length=1, max_length=1024)]


class SwitchModelParameters(LoadModelParameters):
    """Parameters of a ``switch_model`` job: the same for image models, unless ``kind`` says otherwise."""

    kind: Literal["text", "image"] = "image"


Parameters = ModelParameters | ManagementParameters
