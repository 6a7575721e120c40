"""What each type of job takes, what capacity it needs, and what of it is never repeated."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest

from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.jobs import Job, JobType, Kind, RefusedJobError, parse_job
from velesio_worker.wire.parameters import (
    AnswerParameters,
    DetokenizeParameters,
    EmbeddingParameters,
    LoadModelParameters,
    ManagementParameters,
    RerankParameters,
    SwitchModelParameters,
    TokenizeParameters,
)
from velesio_worker.wire.template_parameters import ApplyTemplateParameters, CountTokensParameters
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters, TextParameters

LEAST: Final[dict[JobType, dict[str, Any]]] = {
    JobType.COMPLETION: {"prompt": "hi"},
    JobType.CHAT_COMPLETION: {"messages": [{"role": "user", "content": "hi"}]},
    JobType.INFILL: {"input_prefix": "def f(", "input_suffix": "return x"},
    JobType.EMBEDDING: {"input": "hi"},
    JobType.RERANK: {"query": "hi", "documents": ["ho"]},
    JobType.TOKENIZE: {"content": "hi"},
    JobType.DETOKENIZE: {"tokens": [1, 2]},
    JobType.COUNT_TOKENS: {"prompt": "hi"},
    JobType.APPLY_TEMPLATE: {"messages": [{"role": "user", "content": "hi"}]},
    JobType.TXT2IMG: {"prompt": "a cat"},
    JobType.IMG2IMG: {"prompt": "a cat", "init_images": ["aaaa"]},
    JobType.LIST_MODELS: {},
    JobType.MODEL_INFO: {},
    JobType.LOAD_MODEL: {"model": "a.gguf"},
    JobType.SWITCH_MODEL: {"model": "a.safetensors"},
    JobType.UNLOAD_MODELS: {},
    JobType.HEALTH_CHECK: {},
}
"""The least that a right job of each type has in its data."""

IMAGES: Final = {JobType.TXT2IMG, JobType.IMG2IMG}
CHECKED: Final = [type_ for type_ in JobType if type_ not in IMAGES]
MANAGING: Final = [type_ for type_ in JobType if type_.kind is Kind.MANAGE]
WRITING: Final = [JobType.COMPLETION, JobType.CHAT_COMPLETION, JobType.INFILL]
ANSWERING: Final = [
    *(JobType.EMBEDDING, JobType.RERANK, JobType.TOKENIZE, JobType.DETOKENIZE),
    *(JobType.COUNT_TOKENS, JobType.APPLY_TEMPLATE),
]
CHAT: Final = LEAST[JobType.CHAT_COMPLETION]
TOOL: Final = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER: Final = {"type": "function", "function": {"name": "g"}}
NO_DATA: Final = object()
PNG: Final = "data:image/png;base64,iVBORw0KGgo="


def parsed(type_: JobType, data: Any = NO_DATA, **fields: Any) -> Job:
    whole = {"id": "a", "type": type_, **fields} | ({} if data is NO_DATA else {"data": data})
    return parse_job(orjson.dumps(whole), max_bytes=10_000)


def least(type_: JobType, **more: Any) -> Job:
    return parsed(type_, LEAST[type_] | more)


def mistake(type_: JobType, data: Any = NO_DATA) -> str:
    with pytest.raises(RefusedJobError) as caught:
        parsed(type_, data)
    assert caught.value.error.code == "bad_job"
    return str(caught.value)


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (JobType.COMPLETION, CompletionParameters),
        (JobType.CHAT_COMPLETION, ChatCompletionParameters),
        (JobType.INFILL, InfillParameters),
        (JobType.EMBEDDING, EmbeddingParameters),
        (JobType.RERANK, RerankParameters),
        (JobType.TOKENIZE, TokenizeParameters),
        (JobType.DETOKENIZE, DetokenizeParameters),
        (JobType.COUNT_TOKENS, CountTokensParameters),
        (JobType.APPLY_TEMPLATE, ApplyTemplateParameters),
        (JobType.LIST_MODELS, ManagementParameters),
        (JobType.MODEL_INFO, ManagementParameters),
        (JobType.LOAD_MODEL, LoadModelParameters),
        (JobType.SWITCH_MODEL, SwitchModelParameters),
        (JobType.UNLOAD_MODELS, ManagementParameters),
        (JobType.HEALTH_CHECK, ManagementParameters),
    ],
)
def test_each_type_has_its_own_parameters(type_: JobType, kind: type) -> None:
    assert type(least(type_).parameters) is kind


@pytest.mark.parametrize("type_", [type_ for type_ in CHECKED if LEAST[type_]])
def test_what_a_type_needs_is_asked_for_by_name(type_: JobType) -> None:
    for name in LEAST[type_]:
        message = mistake(type_, {other: value for other, value in LEAST[type_].items() if other != name})
        assert name in message
        assert message.startswith("data")


@pytest.mark.parametrize("type_", CHECKED)
def test_a_parameter_that_a_type_does_not_have_is_refused_by_name(type_: JobType) -> None:
    message = mistake(type_, LEAST[type_] | {"warmth": 3})
    assert message.startswith("data.warmth: unknown parameter; known ones: ")
    assert set(LEAST[type_]) <= set(message.partition("known ones: ")[2].split(", "))


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        *((type_, "stream") for type_ in (*ANSWERING, *MANAGING)),
        *((type_, "temperature") for type_ in (*ANSWERING, *MANAGING)),
        *((type_, "kind") for type_ in (*WRITING, *ANSWERING)),
        (JobType.COMPLETION, "messages"),
        (JobType.CHAT_COMPLETION, "prompt"),
        (JobType.HEALTH_CHECK, "model"),
        (JobType.UNLOAD_MODELS, "model"),
        (JobType.EMBEDDING, "query"),
    ],
)
def test_what_is_right_for_one_type_is_wrong_for_another(type_: JobType, name: str) -> None:
    assert mistake(type_, LEAST[type_] | {name: "x"}).startswith(f"data.{name}: unknown parameter")


@pytest.mark.parametrize(
    ("type_", "data", "field"),
    [
        (JobType.INFILL, {"input_prefix": 7}, "data.input_prefix: "),
        (JobType.INFILL, {"input_extra": {}}, "data.input_extra: "),
        (JobType.INFILL, {"input_extra": ["text"]}, "data.input_extra.0: "),
        (JobType.INFILL, {"max_tokens": 0}, "data.max_tokens: "),
        (JobType.EMBEDDING, {"content": "ho"}, "data: an embedding needs input or content, one of the two"),
        (JobType.EMBEDDING, {"input": None}, "data: an embedding needs input or content, one of the two"),
        (JobType.EMBEDDING, {"encoding_format": "hex"}, "data.encoding_format: "),
        (JobType.EMBEDDING, {"dimensions": 0}, "data.dimensions: "),
        (JobType.EMBEDDING, {"embd_normalize": -2}, "data.embd_normalize: "),
        (JobType.EMBEDDING, {"model": ""}, "data.model: "),
        (JobType.EMBEDDING, {"model": "m" * 1025}, "data.model: "),
        (JobType.EMBEDDING, {"model": 7}, "data.model: "),
        (JobType.RERANK, {"query": ["hi"]}, "data.query: "),
        (JobType.RERANK, {"documents": []}, "data.documents: "),
        (JobType.RERANK, {"documents": "ho"}, "data.documents: "),
        (JobType.RERANK, {"documents": ["ho", 7]}, "data.documents.1: "),
        (JobType.RERANK, {"top_n": 0}, "data.top_n: "),
        (JobType.TOKENIZE, {"content": ["hi"]}, "data.content: "),
        (JobType.TOKENIZE, {"with_pieces": "perhaps"}, "data.with_pieces: "),
        (JobType.DETOKENIZE, {"tokens": 1}, "data.tokens: "),
        (JobType.DETOKENIZE, {"tokens": [1, -1]}, "data.tokens.1: "),
        (JobType.DETOKENIZE, {"tokens": [2**31]}, "data.tokens.0: "),
        (JobType.DETOKENIZE, {"tokens": [1.5]}, "data.tokens.0: "),
        (JobType.COUNT_TOKENS, CHAT, "data: a count needs messages or prompt, one of the two"),
        (JobType.COUNT_TOKENS, {"tools": [TOOL]}, "data: tools go with messages"),
        (JobType.COUNT_TOKENS, {"prompt": ["hi"]}, "data.prompt: "),
        (JobType.COUNT_TOKENS, {"prompt": None, "messages": []}, "data.messages: "),
        (JobType.COUNT_TOKENS, {"prompt": None, **CHAT, "tool_choice": "required"}, "data: tool_choice: "),
        (JobType.APPLY_TEMPLATE, {"messages": [{"content": "hi"}]}, "data.messages.0: "),
        (JobType.APPLY_TEMPLATE, {"tools": [{"type": "function"}]}, "data.tools.0: "),
        (JobType.APPLY_TEMPLATE, {"tool_choice": "required"}, "data: tool_choice: "),
        (JobType.LOAD_MODEL, {"model": ""}, "data.model: "),
        (JobType.LOAD_MODEL, {"model": None}, "data.model: "),
        (JobType.LOAD_MODEL, {"kind": "video"}, "data.kind: "),
        (JobType.COMPLETION, {"samplers": "top_k"}, "data.samplers: "),
        (JobType.COMPLETION, {"mirostat": 3}, "data.mirostat: "),
        (JobType.COMPLETION, {"lora": [{"id": -1, "scale": 1}]}, "data.lora.0.id: "),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(type_: JobType, data: dict[str, Any], field: str) -> None:
    message = mistake(type_, LEAST[type_] | data)
    assert message.startswith(field)
    assert len(message) < 500


@pytest.mark.parametrize("type_", [JobType.COUNT_TOKENS, JobType.APPLY_TEMPLATE])
def test_a_chat_is_counted_as_it_would_be_answered(type_: JobType) -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": ""}]
    more = {"tools": [TOOL, OTHER], "tool_choice": OTHER, "chat_template_kwargs": {"a": 1}, "reasoning_effort": "low"}
    asked, answered = (parsed(kind, {"messages": messages, **more}) for kind in (type_, JobType.CHAT_COMPLETION))
    fields = asked.parameters.model_dump(exclude_none=True, exclude={"defaults"})
    assert fields == answered.parameters.model_dump(include=set(fields))
    assert (fields["tools"], fields["messages"]) == ([OTHER], CHAT["messages"])


@pytest.mark.parametrize(
    "data",
    [
        {"input": ["a", "b"]},
        {"input": [1, 2, 3]},
        {"input": [[1, 2], [3]]},
        {"content": "a"},
        {"content": [{"prompt_string": "<__media__>", "multimodal_data": ["aaaa"]}]},
        {"input": "", "encoding_format": "base64", "dimensions": 8, "embd_normalize": -1, "model": "m"},
    ],
)
def test_an_embedding_takes_whatever_the_engine_does(data: dict[str, Any]) -> None:
    parameters = parsed(JobType.EMBEDDING, data).parameters
    assert isinstance(parameters, EmbeddingParameters)
    assert parameters.given() | {"model": parameters.model} == {"model": None} | data


SECRET: Final = "my secret"


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        (JobType.COMPLETION, {"prompt": [SECRET]}),
        (JobType.CHAT_COMPLETION, {"messages": [SECRET]}),
        (JobType.INFILL, {"input_prefix": [SECRET]}),
        (JobType.INFILL, {"input_suffix": [SECRET]}),
        (JobType.INFILL, {"input_extra": [SECRET]}),
        (JobType.INFILL, {"input_extra": SECRET}),
        (JobType.INFILL, {"prompt": [SECRET]}),
        (JobType.EMBEDDING, {"input": SECRET, "content": SECRET}),
        (JobType.EMBEDDING, {"input": SECRET, "dimensions": 0}),
        (JobType.RERANK, {"query": [SECRET]}),
        (JobType.RERANK, {"documents": SECRET}),
        (JobType.RERANK, {"documents": [[SECRET]]}),
        (JobType.TOKENIZE, {"content": [SECRET]}),
        (JobType.DETOKENIZE, {"tokens": SECRET}),
        (JobType.DETOKENIZE, {"tokens": [SECRET]}),
        (JobType.COUNT_TOKENS, {"prompt": [SECRET]}),
        (JobType.COUNT_TOKENS, {"messages": SECRET}),
        (JobType.APPLY_TEMPLATE, {"messages": [SECRET]}),
        (JobType.APPLY_TEMPLATE, {"tools": [SECRET]}),
        (JobType.TOKENIZE, {"text": SECRET}),
    ],
)
def test_what_people_write_is_not_repeated_in_a_message(type_: JobType, data: dict[str, Any]) -> None:
    assert SECRET not in mistake(type_, LEAST[type_] | data)


@pytest.mark.parametrize("type_", [type_ for type_ in MANAGING if not LEAST[type_]])
def test_a_management_job_needs_no_data(type_: JobType) -> None:
    assert parsed(type_) == parsed(type_, None) == parsed(type_, {})
    assert parsed(type_).kind is Kind.MANAGE


@pytest.mark.parametrize("type_", CHECKED)
def test_data_is_an_object_if_it_is_there(type_: JobType) -> None:
    assert mistake(type_, []) == f"data must be an object with the parameters of {type_}, not an array."
    if type_ not in MANAGING:
        assert mistake(type_) == f"data must be an object with the parameters of {type_}, not null."


@pytest.mark.parametrize("type_", list(JobType))
def test_each_type_takes_up_its_kind_of_capacity(type_: JobType) -> None:
    expected = Kind.TEXT
    if type_ in IMAGES:
        expected = Kind.IMAGE
    elif type_ is JobType.SWITCH_MODEL:
        expected = Kind.MANAGE_IMAGE
    elif type_ in MANAGING:
        expected = Kind.MANAGE
    assert least(type_).kind is expected


@pytest.mark.parametrize("type_", MANAGING)
@pytest.mark.parametrize(("kind", "expected"), [("text", Kind.MANAGE), ("image", Kind.MANAGE_IMAGE)])
def test_a_job_about_image_models_goes_where_they_are(type_: JobType, kind: str, expected: Kind) -> None:
    assert least(type_, kind=kind).kind is expected


def test_the_worker_manages_what_the_protocol_says() -> None:
    names = ["list_models", "model_info", "load_model", "switch_model", "unload_models", "health_check"]
    assert sorted(MANAGING) == sorted(names)
    assert set(LEAST) == set(JobType)


@pytest.mark.parametrize("type_", [*WRITING, *ANSWERING, *sorted(IMAGES)])
def test_a_job_may_name_a_model(type_: JobType) -> None:
    assert least(type_).model is None
    assert least(type_, model="b/c.gguf").model == "b/c.gguf"


@pytest.mark.parametrize("type_", [JobType.LOAD_MODEL, JobType.SWITCH_MODEL])
def test_no_other_job_asks_for_a_model_to_run_on(type_: JobType) -> None:
    assert least(type_, model="b.gguf").model is None


@pytest.mark.parametrize("type_", [type_ for type_ in JobType if type_ not in WRITING])
def test_only_jobs_that_write_text_are_streamed_or_gone_on_with(type_: JobType) -> None:
    job = least(type_)
    assert (job.streamed, job.mode_after_loss) == (False, "restart")


@pytest.mark.parametrize("type_", WRITING)
def test_jobs_that_write_text_are_streamed_and_gone_on_with(type_: JobType) -> None:
    job = least(type_, stream=True)
    assert (job.streamed, job.mode_after_loss) == (True, "continue")
    assert isinstance(job.parameters, TextParameters)
    assert not isinstance(job.parameters, AnswerParameters)


@pytest.mark.parametrize("type_", WRITING)
@pytest.mark.parametrize(
    ("data", "same"),
    [
        ({}, False),
        ({"temperature": 0.01}, False),
        ({"seed": -1}, False),
        ({"seed": 2**32 - 1}, False),  # -1 in llama.cpp's 32 bits: any seed
        ({"temperature": 0}, True),
        ({"temperature": 0, "seed": -1}, True),
        ({"seed": 0}, True),
        ({"seed": 2**32 - 2}, True),
        ({"seed": 7, "xtc_probability": 0.5, "dynatemp_range": 1, "samplers": ["top_k"]}, True),
        ({"temperature": 0, "mirostat": 2, "dynatemp_range": 0, "xtc_probability": 0}, True),
        ({"temperature": 0, "dynatemp_range": 1}, False),
        ({"temperature": 0, "xtc_probability": 0.5}, False),
        ({"temperature": 0, "samplers": ["top_k"]}, False),
    ],
)
def test_a_job_is_deterministic_if_the_engine_would_write_the_same_again(
    type_: JobType, data: dict[str, Any], *, same: bool
) -> None:
    parameters = least(type_, **data).parameters
    assert isinstance(parameters, TextParameters)
    assert parameters.deterministic is same


def said(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "see http://x"}, *parts]}]}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "httpAAAA//fileAAAA=", "format": "wav"}},
        {"type": "input_video", "input_video": {"data": "AAAA"}},
        {"type": "text", "text": "http://x"},
        {"type": "unheard_of", "unheard_of": 7},
        {"type": 7},
        "text",
    ],
)
def test_a_part_of_a_message_that_is_there_goes_to_the_engine(part: Any) -> None:
    parameters = parsed(JobType.CHAT_COMPLETION, said(part)).parameters
    assert parameters.model_dump(exclude_none=True)["messages"] == said(part)["messages"]


@pytest.mark.parametrize("url", ["http://x/a.png", "HTTPS://x/a.png", "file:///etc/passwd", "ftp://x/a.png"])
@pytest.mark.parametrize("type_", ["image_url", "video_url", "audio_url", "input_audio", "input_video"])
def test_nothing_in_a_message_is_fetched(type_: str, url: str) -> None:
    field = "url" if type_.endswith("_url") else "data"
    message = mistake(JobType.CHAT_COMPLETION, said({"type": type_, type_: {field: url}}))
    assert message.startswith("data.messages.0: images are taken as base64 data URIs")
    assert url not in message
