"""The parameters of the jobs that write a text from a prompt (wire protocol, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from velesio_worker.wire.answer_schemas import WITHIN_SCHEMA, checked_schema
from velesio_worker.wire.bounded import LongText, NotNegative, Number, within
from velesio_worker.wire.grammars import checked_grammar
from velesio_worker.wire.limits import (
    LARGEST_NUMBER,
    LARGEST_WINDOW,
    LONGEST_BIAS,
    MOST_BIASES,
    MOST_BREAKER_CHARACTERS,
    MOST_BREAKERS,
    MOST_EXTRA_VALUES,
    MOST_GRAMMAR,
    MOST_INFILL_CANDIDATES,
    MOST_LORAS,
    MOST_SAMPLERS,
    MOST_STOP_CHARACTERS,
    MOST_STOPS,
)
from velesio_worker.wire.parameters import INT32, REFUSED, Count, Fields, NoEffect, Only1, OpenAIFields, Prompt
from velesio_worker.wire.prompt_parts import Part, parts_in

_RANDOM_SEED: Final = 2**32 - 1
"""To llama.cpp, a seed of this value asks for any seed, as -1 does."""

UNLIMITED: Final = -1
"""To ``max_tokens``: until the model ends, or the context is full."""

WHOLE_CONTEXT: Final = -1
"""To ``repeat_last_n`` and ``dry_penalty_last_n``: as many tokens as the context has."""


def _limit(value: int) -> int:
    if not value:
        raise ValueError("1 or more; -1 for no limit")
    return value


def _refused(reason: str) -> AfterValidator:
    """Have a field refused, with the reason in place of a list of known ones."""

    def refuse(_: Any) -> None:  # noqa: ANN401 (any JSON)
        raise ValueError(reason)

    return AfterValidator(refuse)


_OwnWay = Annotated[
    Any,
    REFUSED,
    Field(exclude=True),
    _refused("llama-server and the worker settle this between themselves: leave it out"),
]
_AtStart = Annotated[Any, REFUSED, Field(exclude=True), _refused("is set when llama-server is started: use LLAMA_ARGS")]


def _each_once(value: list[str]) -> list[str]:
    """Check that no sampler is there twice, which would be paid for at each token."""
    if len({"typ_p" if name == "typical_p" else name for name in value}) < len(value):
        raise ValueError("each sampler may be named once")
    return value


def _logit_bias(value: list[Any] | dict[str, Any]) -> list[Any] | dict[str, Any]:
    """Check a bias for entries that llama-server would pass over."""
    entries: Iterable[Any] = value.items() if isinstance(value, dict) else value
    if len(value) > MOST_BIASES:
        raise ValueError(f"{MOST_BIASES} entries at most")
    for entry in entries:
        match entry:
            case [int(token) | str(token), int(bias) | float(bias)] | (str(token), int(bias) | float(bias)):
                if token is True or token is False or token == "" or entry[1] is True:
                    raise ValueError(_BIAS_FORM)
                if isinstance(token, str) and len(token) > LONGEST_BIAS:
                    raise ValueError(f"a text of {LONGEST_BIAS} characters at most")
                if isinstance(token, int) and not 0 <= token <= INT32:
                    raise ValueError("a token's id is 0 or more, and fits into 32 bits")
                if not -LARGEST_NUMBER <= bias <= LARGEST_NUMBER:
                    raise ValueError(_BIAS_FORM)
            case _:
                raise ValueError(_BIAS_FORM)
    return value


_BIAS_FORM: Final = "a list of [token, bias] or an object of token and bias is wanted; a bias is a number, or false"
Short = Annotated[str, Field(max_length=256)]
Text = Annotated[str, Field(min_length=1, max_length=256)]
Window = Annotated[int, Field(ge=WHOLE_CONTEXT, le=LARGEST_WINDOW)]
Stop = Annotated[str, Field(max_length=MOST_STOP_CHARACTERS)]
Sampler = Literal[
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "typical_p", "top_p", "min_p", "xtc", "temperature", "infill",
    "adaptive_p",
]  # fmt: skip
Limit = Annotated[int, Field(ge=UNLIMITED, le=INT32), AfterValidator(_limit)]


class LoraAdapter(Fields):
    """One LoRA adapter that the engine has loaded, and how strongly it counts."""

    id: Annotated[int, Field(ge=0, le=INT32)]
    scale: Number


class TextParameters(OpenAIFields):
    """What the jobs that write text have in common. Defaults are the wire protocol's.

    Attributes:
        max_tokens: the most tokens of the answer; ``UNLIMITED``: until the model ends it, or the context is full.
    """

    max_tokens: Limit = 150
    max_completion_tokens: Annotated[Limit | None, Field(exclude=True)] = None
    n_predict: Annotated[Limit | None, Field(exclude=True)] = None
    temperature: NotNegative = 0.7
    top_k: Count = 40
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_n_sigma: Number | None = None
    min_keep: Count | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=LARGEST_NUMBER)] = 1.1
    repeat_last_n: Window | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    seed: Annotated[int, Field(ge=-1, le=2**32 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS, fail_fast=True)] | None = None
    stream: bool = False
    grammar: Annotated[str, Field(max_length=MOST_GRAMMAR), AfterValidator(checked_grammar)] | None = None
    json_schema: Annotated[dict[str, Any], WITHIN_SCHEMA, AfterValidator(checked_schema)] | None = None
    logit_bias: Annotated[list[Any] | dict[str, Any], within(5 * MOST_BIASES), AfterValidator(_logit_bias)] | None = (
        None
    )
    n_probs: Count | None = None
    post_sampling_probs: bool | None = None
    id_slot: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    cache_prompt: bool | None = None
    n_cache_reuse: Count | None = None
    n_keep: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    n_discard: Count | None = None
    n_indent: Count | None = None
    t_max_predict_ms: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    ignore_eos: bool | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    samplers: (
        Annotated[list[Sampler], Field(max_length=MOST_SAMPLERS, fail_fast=True), AfterValidator(_each_once)] | None
    ) = None
    backend_sampling: bool | None = None
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None
    mirostat_tau: Number | None = None
    mirostat_eta: Number | None = None
    adaptive_target: Annotated[float, Field(ge=-LARGEST_NUMBER, le=1)] | None = None
    adaptive_decay: Annotated[float, Field(ge=0, le=0.99)] | None = None
    dynatemp_range: NotNegative | None = None
    dynatemp_exponent: Number | None = None
    xtc_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    xtc_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    dry_multiplier: NotNegative | None = None
    dry_base: Number | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: Window | None = None
    dry_sequence_breakers: (
        Annotated[
            list[Short],
            Field(min_length=1, max_length=MOST_BREAKERS, fail_fast=True),
            within(MOST_BREAKERS, MOST_BREAKER_CHARACTERS),
        ]
        | None
    ) = None
    lora: Annotated[list[LoraAdapter], Field(max_length=MOST_LORAS, fail_fast=True)] | None = None
    reasoning_budget_tokens: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    reasoning_budget_start_tag: Text | None = None
    reasoning_budget_end_tag: Text | None = None
    reasoning_budget_end_tags: Annotated[list[Text], Field(max_length=16, fail_fast=True)] | None = None
    reasoning_budget_message: Annotated[str, Field(max_length=4096)] | None = None
    n_cmpl: Only1 = None
    return_progress: NoEffect = None
    chat_format: _OwnWay = None
    chat_parser: _OwnWay = None
    echo: _OwnWay = None
    generation_prompt: _OwnWay = None
    grammar_lazy: _OwnWay = None
    grammar_triggers: _OwnWay = None
    grammar_type: _OwnWay = None
    parse_tool_calls: _OwnWay = None
    preserved_tokens: _OwnWay = None
    reasoning_control: _OwnWay = None
    reasoning_in_content: _OwnWay = None
    response_fields: _OwnWay = None
    return_tokens: _OwnWay = None
    sse_ping_interval: _OwnWay = None
    timings_per_token: _OwnWay = None
    verbose: _OwnWay = None
    speculative_types: Annotated[_AtStart, Field(validation_alias="speculative.types")] = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        """Take the other names of ``max_tokens``; the engine's own limit is none."""
        names = self.model_fields_set & {"max_tokens", "max_completion_tokens", "n_predict"}
        limits = {getattr(self, name) for name in names}
        if len(limits) > 1:
            raise ValueError(f"{', '.join(sorted(names))} are names of one limit, and they differ: give one of them")
        if limits:
            self.max_tokens = limits.pop()
        elif self.defaults == "engine":
            self.max_tokens = UNLIMITED
        return self

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> list[str] | None:
        """An empty string would end every text before it begins."""
        stops = [value] if isinstance(value, str) else value or []
        if sum(map(len, stops)) > MOST_STOP_CHARACTERS:
            raise ValueError(f"strings of {MOST_STOP_CHARACTERS} characters together at most")
        return [stop for stop in stops if stop] or None

    @model_validator(mode="after")
    def _infill_among_few(self) -> Self:
        """The sampler compares each candidate with each other one: a token takes minutes among a whole vocabulary."""
        samplers = self.samplers or []
        before = samplers[: samplers.index("infill")] if "infill" in samplers else ["top_k"]
        if "top_k" not in before or ("infill" in samplers and not 0 < self.top_k <= MOST_INFILL_CANDIDATES):
            raise ValueError(
                f"samplers: infill takes minutes unless top_k, of 1 to {MOST_INFILL_CANDIDATES}, comes before it"
            )
        return self

    @model_validator(mode="after")
    def _one_constraint(self) -> Self:
        """Of two, llama-server drops one without a word."""
        if self.grammar and self.answer_schema is not None:
            raise ValueError("a grammar and a JSON schema exclude each other: give one of them")
        return self

    @property
    def continuable(self) -> bool:
        """Whether a text that was cut off can be gone on with (wire protocol, section 4)."""
        return not (self.grammar or self.json_schema is not None or self.n_probs)

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer has to obey; None if there is none."""
        return self.json_schema

    @property
    def alternatives(self) -> int:
        """For how many tokens at each place probabilities are wanted."""
        return self.n_probs or 0

    @property
    def deterministic(self) -> bool:
        """Whether the same parameters give the same text again."""
        if self.seed is not None and 0 <= self.seed < _RANDOM_SEED:
            return True
        greedy = self.temperature == 0 and self.samplers is None  # which may leave the temperature out
        return greedy and not self.dynatemp_range and not self.xtc_probability


class CompletionParameters(TextParameters):
    """Parameters of a ``completion`` job."""

    prompt: Prompt
    logprobs: Annotated[Count | None, Field(exclude=True)] = None

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        """Take OpenAI's name of ``n_probs``."""
        if self.logprobs is not None:
            if self.n_probs not in {None, self.logprobs}:
                raise ValueError("logprobs and n_probs are names of one number, and they differ: give one of them")
            self.n_probs = self.logprobs
        return self

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """What the model has to read."""
        return [self.prompt if isinstance(self.prompt, str) else len(self.prompt)]


class InfillParameters(TextParameters):
    """Parameters of an ``infill`` job: what stands between a prefix and a suffix. They go to the engine as they are."""

    input_prefix: LongText
    input_suffix: LongText
    input_extra: Annotated[list[dict[str, Any]], Field(fail_fast=True), within(MOST_EXTRA_VALUES)] | None = None
    prompt: LongText = ""

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """What the model has to read."""
        yield from (self.input_prefix, self.input_suffix, self.prompt)
        for extra in self.input_extra or []:
            yield from parts_in(extra)
