"""Jobs as they stand on the wire: the envelope and the parameters of each type (wire protocol, 1 and 5)."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self, cast

import orjson
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError

from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import (
    BadJobError,
    JobError,
    TooLargeError,
    UnknownTypeError,
    UnusablePayloadError,
    VelesioError,
)
from velesio_worker.wire.image_parameters import ImageParameters, Img2ImgParameters, Txt2ImgParameters
from velesio_worker.wire.limits import (
    LONGEST_LIFE,
    LONGEST_NAME,
    LONGEST_SESSION,
    LONGEST_TENANT,
    LONGEST_TRACE,
    MOST_ATTEMPTS,
)
from velesio_worker.wire.parameters import (
    DetokenizeParameters,
    EmbeddingParameters,
    Fields,
    LoadModelParameters,
    ManagementParameters,
    ModelParameters,
    Parameters,
    RerankParameters,
    SwitchModelParameters,
    TokenizeParameters,
)
from velesio_worker.wire.payload import id_at_ends, is_job_id, read_payload
from velesio_worker.wire.template_parameters import ApplyTemplateParameters, CountTokensParameters
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters, TextParameters

DEFAULT_MAX_ATTEMPTS: Final = 3
_CLOCKS_DIFFER: Final = 600
"""How far a producer's clock may be ahead of ours, in seconds."""

_FARTHEST: Final = 1e15
"""Times may be farther ahead than anybody means, as in milliseconds."""

_EARLIEST: Final = 1e9
"""What is less than this is no time of this century."""

_MISTAKES: Final = 5
"""How many mistakes of one job are told; the rest is counted."""

_REPR: Final = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 80, 80  # repr() fails on what is nested a thousand deep


class Kind(StrEnum):
    """The kinds of capacity that a worker has, each with a ready list: what looks after image models needs its own."""

    TEXT = "text"
    IMAGE = "image"
    MANAGE = "manage"
    MANAGE_IMAGE = "manage-image"

    @property
    def engine(self) -> Kind:
        """The engine that such jobs are about."""
        return {Kind.MANAGE: Kind.TEXT, Kind.MANAGE_IMAGE: Kind.IMAGE}.get(self, self)


class JobType(StrEnum):
    """The types of job that this release knows, each with the parameters that it takes."""

    COMPLETION = "completion", CompletionParameters
    CHAT_COMPLETION = "chat_completion", ChatCompletionParameters
    INFILL = "infill", InfillParameters
    EMBEDDING = "embedding", EmbeddingParameters
    RERANK = "rerank", RerankParameters
    TOKENIZE = "tokenize", TokenizeParameters
    DETOKENIZE = "detokenize", DetokenizeParameters
    COUNT_TOKENS = "count_tokens", CountTokensParameters
    APPLY_TEMPLATE = "apply_template", ApplyTemplateParameters
    TXT2IMG = "txt2img", Txt2ImgParameters
    IMG2IMG = "img2img", Img2ImgParameters
    LIST_MODELS = "list_models", ManagementParameters
    MODEL_INFO = "model_info", ManagementParameters
    LOAD_MODEL = "load_model", LoadModelParameters
    SWITCH_MODEL = "switch_model", SwitchModelParameters
    UNLOAD_MODELS = "unload_models", ManagementParameters
    HEALTH_CHECK = "health_check", ManagementParameters

    parameters: type[Parameters]
    kind: Kind
    """The capacity that a job of this type takes up, unless its parameters say otherwise."""

    def __new__(cls, name: str, parameters: type[Parameters]) -> Self:
        """Make a type of job whose value is its name alone."""
        job_type = str.__new__(cls, name)
        job_type._value_ = name
        job_type.parameters = parameters
        managed = Kind.MANAGE if issubclass(parameters, ManagementParameters) else Kind.TEXT
        job_type.kind = Kind.IMAGE if issubclass(parameters, ImageParameters) else managed
        return job_type


PRIORITIES: Final = ("high", "normal", "low")

ALL_TYPES: Final = frozenset(JobType)
WRITING: Final = frozenset(job_type for job_type in JobType if issubclass(job_type.parameters, TextParameters))
"""The types of job that write text."""

PRIVATE: Final = frozenset(
    {
        *("prompt", "messages", "input", "content", "query", "documents", "tokens"),
        *("input_prefix", "input_suffix", "input_extra"),
        *("negative_prompt", "init_images", "mask", "script_args", "alwayson_scripts"),
        *("hr_prompt", "hr_negative_prompt"),
        *("tools", "stop", "grammar", "json_schema", "response_format", "chat_template_kwargs", "logit_bias"),
    }
)
"""Fields whose values are never repeated in an error, which others may read."""


Seconds = Annotated[float, Field(gt=0, le=LONGEST_LIFE)]


def moment_of(value: Any) -> float | None:  # noqa: ANN401 (any JSON)
    """Return a producer's ``created_at``, which is Unix time in seconds; None if it cannot be that."""
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and _EARLIEST < value < time.time() + _CLOCKS_DIFFER else None


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("printable characters, without a line break")
    return text


def _priority(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Return a producer's ``priority``; one that is no text is of his own, as it was before there were any here."""
    return value if isinstance(value, str) else "normal"


def _session(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Return a producer's ``session``; one that is no text is of his own, too."""
    return value if isinstance(value, str) else None


class Envelope(Fields):
    """The fields of a job beside its parameters. Unknown ones are ignored (wire protocol, section 1)."""

    model_config = ConfigDict(extra="ignore")

    timeout: Seconds | None = None
    expires_at: Annotated[float, Field(ge=-_FARTHEST, le=_FARTHEST)] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)] = DEFAULT_MAX_ATTEMPTS
    on_crash: Literal["continue", "restart", "fail"] = "continue"
    unread_timeout: Seconds | None = None
    cache: bool | None = None
    tenant: Annotated[str, Field(min_length=1, max_length=LONGEST_TENANT), AfterValidator(_printable)] | None = None
    priority: Annotated[Literal["high", "normal", "low"], BeforeValidator(_priority)] = "normal"
    session: Annotated[
        Annotated[str, Field(min_length=1, max_length=LONGEST_SESSION), AfterValidator(_printable)] | None,
        BeforeValidator(_session),
    ] = None
    worker: Annotated[str, Field(max_length=LONGEST_NAME, pattern=r"^[A-Za-z0-9._:-]+$")] | None = None
    traceparent: Annotated[str, Field(max_length=LONGEST_TRACE)] | None = None
    created_at: Annotated[float | None, Field(ge=0, le=_FARTHEST), BeforeValidator(moment_of)] = None


class Job(Envelope):
    """A job that was found right; its parameters are its ``data``, checked."""

    id: str
    type: JobType
    parameters: Parameters

    @property
    def kind(self) -> Kind:
        """The capacity that the job takes up; what is asked of image models, a worker that has them must answer."""
        if isinstance(self.parameters, ManagementParameters) and self.parameters.kind == "image":
            return Kind.MANAGE_IMAGE
        return self.type.kind

    @property
    def model(self) -> str | None:
        """The model that the job asks for; None if any is right."""
        return self.parameters.model if isinstance(self.parameters, ModelParameters) else None

    @property
    def submitted_at(self) -> float | None:
        """When it was submitted, in Unix time, as far as its producer said so in a way that can be used."""
        return self.created_at

    @property
    def attempts_allowed(self) -> int:
        """How many attempts may be lost before the job is given up."""
        return 1 if self.on_crash == "fail" else self.max_attempts

    @property
    def mode_after_loss(self) -> Literal["continue", "restart"]:
        """How a later attempt begins: by going on from the text that is published, or anew."""
        asked = self.parameters
        kept = isinstance(asked, TextParameters) and asked.stream and asked.continuable
        return "continue" if kept and self.on_crash != "restart" else "restart"

    @property
    def streamed(self) -> bool:
        """Whether the job asked for ``token`` entries."""
        return isinstance(self.parameters, TextParameters) and self.parameters.stream


class RefusedJobError(VelesioError):
    """A job with a usable id that is otherwise wrong: it is answered with ``error``. Its type is None if unknown."""

    def __init__(self, job_id: str, error: JobError, job_type: JobType | None = None) -> None:
        super().__init__(str(error))
        self.job_id = job_id
        self.error = error
        self.type = job_type


def refuse_others(job: Job, taken: AbstractSet[JobType]) -> None:
    """Refuse a job of a type that this worker does not take.

    Raises:
        RefusedJobError: it is of such a type.
    """
    if job.type not in taken:
        told = f"{job.type} jobs are not taken here; JOB_TYPES allows {', '.join(sorted(taken))}."
        raise RefusedJobError(job.id, BadJobError(told), job.type)


def parse_job(payload: bytes, *, max_bytes: int) -> Job:
    """Read a job off a list.

    Args:
        payload: what the producer pushed.
        max_bytes: the largest payload that is accepted, in bytes (``MAX_JOB_BYTES``).

    Raises:
        UnusablePayloadError: it is not a JSON object or has no usable id, so nobody can be answered.
        RefusedJobError: it has an id but is otherwise wrong.
    """
    if len(payload) > max_bytes:
        raise _unread(payload, TooLargeError(f"The job has {len(payload)} bytes; MAX_JOB_BYTES allows {max_bytes}."))
    try:
        fields, odd = read_payload(payload)
    except UnusablePayloadError as error:
        raise _unread(payload, BadJobError(str(error))) from None
    if not isinstance(fields, dict):
        raise UnusablePayloadError(f"not a JSON object but {_json_type(fields)}")
    fields = cast("dict[str, Any]", fields)
    job_id = fields.get("id")
    if not is_job_id(job_id):
        shown = "no id" if job_id is None else f"a bad id, {_shorten(_REPR.repr(job_id))}"
        raise UnusablePayloadError(f"{shown}: an id is 1 to 128 of A-Z a-z 0-9 . _ : -")
    try:
        if odd is not None:
            raise BadJobError(f"{odd}: NaN and Infinity are no numbers of JSON: leave the field out.")
        return _checked_job(fields)
    except JobError as error:
        raise RefusedJobError(job_id, error, _known_type(fields.get("type"))) from None


def _unread(payload: bytes, error: JobError) -> RefusedJobError | UnusablePayloadError:
    """Whatever cannot be read is answered if its id can be found."""
    job_id = id_at_ends(payload)
    return UnusablePayloadError(str(error)) if job_id is None else RefusedJobError(job_id, error)


def _checked_job(fields: dict[str, Any]) -> Job:
    type_ = fields.get("type")
    if type_ is None:
        raise BadJobError(f"The job has no type; known types: {', '.join(JobType)}.")
    job_type = _known_type(type_)
    if job_type is None:
        shown = type_ if isinstance(type_, str) else _REPR.repr(type_)
        raise UnknownTypeError(f"Unknown job type: {_shorten(shown)}")
    data: Any = fields.get("data")
    if data is None and issubclass(job_type.parameters, ManagementParameters):
        data = {}
    if not isinstance(data, dict):
        raise BadJobError(f"data must be an object with the parameters of {job_type}, not {_json_type(data)}.")
    try:
        orjson.dumps(data)  # what cannot be written again could not be sent to an engine
    except TypeError as error:
        too_long = "a number that is too large" if "nteger" in str(error) else "what is nested too deeply"
        raise BadJobError(f"data holds {too_long}.") from None
    try:
        parameters = job_type.parameters.model_validate(data)
    except ValidationError as error:
        raise _bad_job(error, "data", known=job_type.parameters.known()) from None
    try:
        envelope = Envelope.model_validate(fields)
    except ValidationError as error:
        raise _bad_job(error) from None
    return Job.model_construct(id=fields["id"], type=job_type, parameters=parameters, **dict(envelope))


def _known_type(type_: object) -> JobType | None:
    return next((known for known in JobType if known == type_), None)


def _bad_job(error: ValidationError, *prefix: str, known: Sequence[str] = ()) -> BadJobError:
    """Say each mistake with the field's path, and the parameters that there are where one is unknown."""
    sentences: list[str] = []
    quoting: list[str] = []
    told = f"; known ones: {', '.join(known)}" if known else ""
    mistakes = error.errors(include_url=False, include_context=False)
    for mistake in mistakes[:_MISTAKES]:
        path = ".".join([*prefix, *(_shorten(str(step)) for step in mistake["loc"])])
        match mistake["type"]:
            case "extra_forbidden":
                sentences.append(f"{path}: unknown parameter{told}")
                told = ""
            case "missing":
                sentences.append(f"{path}: required")
            case _:
                said = mistake["msg"].removeprefix("Value error, ")
                private = not mistake["loc"] or PRIVATE.intersection(mistake["loc"])
                got = "" if private else f" (got {_shorten(_REPR.repr(mistake['input']))})"
                sentences.append(f"{path}: {said}{got}")
                quoting.append(got)
                if mistake["type"] == "value_error":  # our own checks name what they found
                    quoting.append(said)
    if len(mistakes) > _MISTAKES:
        sentences.append(f"and {len(mistakes) - _MISTAKES} more mistakes")
    return BadJobError("; ".join(sentences), said=quoting)


def _json_type(value: object) -> str:
    names = {"bool": "a boolean", "int": "a number", "float": "a number", "str": "a string", "list": "an array"}
    return "null" if value is None else names.get(type(value).__name__, "an object")


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
