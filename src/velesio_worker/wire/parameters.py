"""The parameters of each type of job: its ``data``, checked (wire protocol, section 5)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from velesio_worker.wire.bounded import LongText, within
from velesio_worker.wire.limits import LONGEST_NAME, MOST_ASIDE, MOST_DOCUMENTS, MOST_TOKENS
from velesio_worker.wire.prompt_parts import Part, parts_in

INT32: Final = 2**31 - 1
FETCHED: Final = re.compile(r"\s{0,64}[a-z][a-z0-9+.-]{0,31}://", re.IGNORECASE)
"""How what an engine would have to fetch begins. Bounded: a megabyte of base64 is not to be walked through for it."""


class Given(BaseModel):
    """An object that somebody else wrote: a field that is null counts as not given."""

    @model_validator(mode="before")
    @classmethod
    def _as_given(cls, value: Any) -> Any:  # noqa: ANN401 (any JSON)
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in cast("dict[str, Any]", value).items() if item is not None}


class Fields(Given):
    """An object that a producer wrote: an unknown field is refused by name."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def known(cls) -> list[str]:
        """The names of all fields that are taken, in order."""
        return sorted(name for name, field in cls.model_fields.items() if REFUSED not in field.metadata)


REFUSED: Final = object()
"""Marks a field that is known only to say why it is refused."""

NoEffect = Annotated[Any, Field(exclude=True), within(MOST_ASIDE)]
"""What others send and what changes nothing here; any value may be there that is not large."""

Only1 = Annotated[Literal[1] | None, Field(exclude=True)]


class ModelParameters(Fields):
    """Parameters of a job that a model runs.

    Attributes:
        model: the model's name, or a file of the model folder; None for the model that the worker has by default.
    """

    model: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)] | None = None
    defaults: Literal["velesio", "engine"] = "velesio"

    def given(self, *but: str) -> dict[str, Any]:
        """Return the parameters as an engine is to get them, without those that are named.

        With ``defaults`` of the engine only what the job gave is among them.
        """
        own = self.defaults == "engine"
        return self.model_dump(exclude_none=True, exclude_unset=own, exclude={"model", "defaults", *but})

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """What the model has to read, in texts and numbers of tokens; nothing where that is not known."""
        return ()


Count = Annotated[int, Field(ge=0, le=INT32)]


def prompt_in(value: Any) -> str | list[int]:  # noqa: ANN401 (any JSON)
    """Return a completion's prompt. Raises ValueError."""
    if isinstance(value, str):
        return value
    tokens = cast("list[Any]", value) if isinstance(value, list) else []
    if not tokens or not all(type(token) is int and 0 <= token <= INT32 for token in tokens):
        raise ValueError("a text is wanted, or a list of token ids")
    return tokens


Prompt = Annotated[str | list[int], PlainValidator(prompt_in), within(MOST_TOKENS)]


class OpenAIFields(ModelParameters):
    """What gateways pass on from bodies of OpenAI's API and what changes nothing here."""

    n: Only1 = None
    user: NoEffect = None
    store: NoEffect = None
    metadata: NoEffect = None
    service_tier: NoEffect = None
    stream_options: NoEffect = None
    prompt_cache_key: NoEffect = None
    safety_identifier: NoEffect = None
    verbosity: NoEffect = None


class AnswerParameters(OpenAIFields):
    """Parameters of a job that has one answer and writes no text: llama-server's own fields in and out."""


class EmbeddingParameters(AnswerParameters):
    """Parameters of an ``embedding`` job: ``input`` as OpenAI has it, or ``content`` as llama-server has it."""

    input: Annotated[Any, within(MOST_TOKENS)] = None
    content: Annotated[Any, within(MOST_TOKENS)] = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=INT32)] | None = None
    embd_normalize: Annotated[int, Field(ge=-1, le=INT32)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.input is None) == (self.content is None):
            raise ValueError("an embedding needs input or content, one of the two")
        return self

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """What the model has to read."""
        return parts_in(self.content if self.input is None else self.input)


class RerankParameters(AnswerParameters):
    """Parameters of a ``rerank`` job."""

    query: LongText
    documents: Annotated[list[LongText], Field(min_length=1, max_length=MOST_DOCUMENTS, fail_fast=True)]
    top_n: Annotated[int, Field(ge=1, le=INT32)] | None = None

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """The query is read with each of the documents."""
        for document in self.documents:
            yield from (self.query, document)


class TokenizeParameters(AnswerParameters):
    """Parameters of a ``tokenize`` job."""

    content: LongText
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """What the model has to read."""
        return [self.content]


class DetokenizeParameters(AnswerParameters):
    """Parameters of a ``detokenize`` job."""

    tokens: Annotated[list[Count], Field(max_length=MOST_TOKENS, fail_fast=True)]

    @property
    def prompt_parts(self) -> Iterable[Part]:
        """What the model has to read."""
        return [len(self.tokens)]


class ManagementParameters(Fields):
    """Parameters of a job that looks after models, those of a kind."""

    kind: Literal["text", "image"] = "text"


class LoadModelParameters(ManagementParameters):
    """Parameters of a ``load_model`` job: a file of the model folder."""

    model: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class SwitchModelParameters(LoadModelParameters):
    """Parameters of a ``switch_model`` job: the same for image models, unless ``kind`` says otherwise."""

    kind: Literal["text", "image"] = "image"


Parameters = ModelParameters | ManagementParameters
