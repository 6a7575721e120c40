"""What the bodies of requests have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, cast

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema

from velesio_worker.gateway import bodies
from velesio_worker.gateway.bodies import ListOf
from velesio_worker.gateway.openai.errors import refused
from velesio_worker.wire.parameters import ModelParameters

MOST_CHOICES: Final = 128
"""Each choice is a job: what multiplies them is bounded, as OpenAI bounds it."""

_SEEDS: Final = 2**32 - 1
"""To an engine, this number itself asks for any seed."""

_OURS: Final = frozenset(
    {"model", "defaults", "stream", "max_tokens", "seed", "n_probs", "logprobs", "post_sampling_probs"}
)
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "n_predict")
_UNLIMITED: Final = -1


def _texts(value: Any) -> str | list[Any]:  # noqa: ANN401 (any JSON)
    """Check what may be a text, or token ids, or several of either: each list is walked through once."""
    if isinstance(value, str):
        return value
    items = cast("list[Any]", value) if isinstance(value, list) else []
    if not items:
        raise ValueError(_TEXTS_FORM)
    if all(type(item) is int for item in items) or all(isinstance(item, str) for item in items):
        return items
    for item in items:
        tokens = cast("list[Any]", item) if isinstance(item, list) else []
        if not tokens or not all(type(token) is int for token in tokens):
            raise ValueError(_TEXTS_FORM)
    return items


_TEXTS_FORM: Final = "a text is wanted, or a list of token ids, or a list of texts, or one of lists of token ids"
_TOKENS: Final = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_EITHER: Final = [
    {"type": "string"},
    _TOKENS,
    {"type": "array", "items": {"type": "string"}, "minItems": 1},
    {"type": "array", "items": _TOKENS, "minItems": 1},
]
Texts = Annotated[Any, PlainValidator(_texts), WithJsonSchema({"anyOf": _EITHER})]
"""A text, a list of token ids, or a list of either."""


def each_of(texts: str | list[Any]) -> list[str | list[int]]:
    """Return the texts, and lists of token ids, that there are."""
    return [texts] if isinstance(texts, str) or isinstance(texts[0], int) else texts


class Body(bodies.Body):
    """A request's body: a field that is null counts as not given; one that nobody knows is ignored."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def given(self, taken: Iterable[str]) -> dict[str, Any]:
        """Return those of some fields that the body has."""
        fields = self.__dict__ | (self.model_extra or {})
        return {name: fields[name] for name in taken if name in self.model_fields_set}


class StreamOptions(Body):
    """What else a stream says."""

    include_usage: bool = False


class TextBody(Body):
    """What requests that write text have in common.

    Sampling parameters of the engine (``top_k``, ``min_p``, ``grammar``, …) go on beside those of OpenAI's API.
    """

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n_predict: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | ListOf[str] | None = None
    logit_bias: dict[str, Any] | list[Any] | None = None
    prompt_cache_key: str | None = None
    service_tier: Any = None

    def check_stream(self) -> None:
        """Check the options of a stream.

        Raises:
            ApiError: there is no stream.
        """
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "is for streams: set stream to true, or leave it out.")

    @property
    def with_usage(self) -> bool:
        """Whether a stream is to end with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def text_data(self, taken: Iterable[str]) -> dict[str, Any]:
        """Return the parameters of a job, without its prompt and its seed."""
        data = self.given(taken)
        limits = [limit for name in _LIMITS if (limit := getattr(self, name)) is not None]
        if limits:  # of two, the lower one obeys both
            data["max_tokens"] = min((limit for limit in limits if limit != _UNLIMITED), default=_UNLIMITED)
        return data | {"defaults": "engine", "stream": self.stream}

    def seed_of(self, index: int) -> dict[str, int]:
        """Return the seed of a choice: each its own, since with the same one all would say the same."""
        if self.seed is None:
            return {}
        return {"seed": self.seed if self.seed == -1 else (self.seed + index) % _SEEDS}


def passed_on(parameters: type[ModelParameters], *but: str) -> frozenset[str]:
    """Return which parameters of a job a body may give under their own names."""
    fields = parameters.model_fields.items()
    return frozenset(name for name, field in fields if not field.exclude) - _OURS - frozenset(but)
