"""Whatever a producer pushes, intake either has a job or knows whom to tell."""

from __future__ import annotations

from itertools import product
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.tables import table
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.engines.llama.generation import LlamaGeneration
from velesio_worker.execution.cache import cache_key
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import UnusablePayloadError
from velesio_worker.wire.jobs import Job, JobType, RefusedJobError, parse_job
from velesio_worker.wire.parameters import (
    AnswerParameters,
    DetokenizeParameters,
    EmbeddingParameters,
    LoadModelParameters,
    RerankParameters,
    TokenizeParameters,
)
from velesio_worker.wire.template_parameters import ApplyTemplateParameters, CountTokensParameters
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters, TextParameters

LIMIT = 1024 * 1024
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["nan", "inf", "-1", "9" * 30, "9" * 5000, "true", "a1", "http://x"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
)
NEEDED: dict[JobType, dict[str, Any]] = {
    JobType.COMPLETION: {"prompt": "x"},
    JobType.CHAT_COMPLETION: {"messages": [{"role": "user"}]},
    JobType.INFILL: {"input_prefix": "x", "input_suffix": "y"},
    JobType.EMBEDDING: {"input": "x"},
    JobType.RERANK: {"query": "x", "documents": ["y"]},
    JobType.TOKENIZE: {"content": "x"},
    JobType.DETOKENIZE: {"tokens": [1]},
    JobType.COUNT_TOKENS: {"prompt": "x"},
    JobType.APPLY_TEMPLATE: {"messages": [{"role": "user"}]},
}
"""What each type of text job cannot do without."""

PARAMETERS = sorted(
    {
        name
        for kind in (
            *(CompletionParameters, ChatCompletionParameters, InfillParameters, LoadModelParameters),
            *(EmbeddingParameters, RerankParameters, TokenizeParameters, DetokenizeParameters),
            *(CountTokensParameters, ApplyTemplateParameters),
        )
        for name in kind.model_fields
    }
)
DATA = st.fixed_dictionaries(
    {}, optional={"prompt": st.text(max_size=10) | VALUES, "messages": st.lists(VALUES, max_size=3) | VALUES}
).flatmap(lambda known: st.dictionaries(st.sampled_from(PARAMETERS), VALUES, max_size=4).map(lambda more: known | more))
ENVELOPES = st.fixed_dictionaries(
    {"id": st.just("a1") | VALUES, "type": st.sampled_from([*JobType, "banana"]) | VALUES, "data": DATA | VALUES},
    optional=dict.fromkeys(
        ("timeout", "expires_at", "max_attempts", "on_crash", "cache", "worker", "traceparent"), VALUES
    ),
)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def outcome(payload: bytes) -> Job | UnusablePayloadError | RefusedJobError:
    try:
        return parse_job(payload, max_bytes=LIMIT)
    except (UnusablePayloadError, RefusedJobError) as error:
        return error


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xef\xbb\xbf{}")
@example(rb'{"id": "a1", "type": "\udc00"}')
def test_bytes_are_a_job_or_one_of_two_errors(payload: bytes) -> None:
    outcome(payload)


@given(VALUES | ENVELOPES)
def test_json_is_a_job_or_one_of_two_errors(value: Any) -> None:
    outcome(orjson.dumps(value))


TEMPLATES = [
    b"%s",
    b'{"id":%s}',
    b'{"id":"a1","type":%s}',
    b'{"id":"a1","type":"completion","data":%s}',
    b'{"id":"a1","type":"completion","data":{"prompt":%s}}',
    b'{"id":"a1","type":"completion","data":{"prompt":"x","banana":%s}}',
    b'{"id":"a1","type":"completion","data":{"prompt":"x","logit_bias":%s}}',
    b'{"id":"a1","type":"chat_completion","data":{"messages":%s}}',
    b'{"id":"a1","type":"chat_completion","data":{"messages":[{"role":%s}]}}',
    b'{"id":"a1","type":"chat_completion","data":{"messages":[{"role":"user","content":%s}]}}',
    b'{"id":"a1","type":"infill","data":{"input_prefix":"a","input_suffix":"b","input_extra":[{"text":%s}]}}',
    b'{"id":"a1","type":"embedding","data":{"input":%s}}',
    b'{"id":"a1","type":"embedding","data":{"content":%s,"input":%s}}',
    b'{"id":"a1","type":"rerank","data":{"query":"q","documents":%s}}',
    b'{"id":"a1","type":"detokenize","data":{"tokens":%s}}',
    b'{"id":"a1","type":"list_models","data":%s}',
    b'{"id":"a1","type":"load_model","data":{"model":%s}}',
    b'{"id":"a1","type":"txt2img","data":{"prompt":%s}}',
    b'{"id":"a1","type":"completion","data":{"prompt":"x"},"timeout":%s}',
    b'{"id":"a1","type":"completion","data":{"prompt":"x"},"ignored":%s}',
]


@table(("template", "depth"), product(TEMPLATES, [100, 900, 1000, 1015, 1022, 1024, 5000]))
def test_deep_nesting_is_a_job_or_one_of_two_errors(template: bytes, depth: int) -> None:
    outcome(template.replace(b"%s", nested(depth)))


def request_of(job: Job) -> bytes | None:
    http: EngineHTTP = None  # pyright: ignore[reportAssignmentType] (a request is put together without)
    parameters = job.parameters
    if isinstance(parameters, AnswerParameters):
        return orjson.dumps(parameters.model_dump(exclude_none=True))
    if not isinstance(parameters, TextParameters):
        return None
    generation = LlamaEngine(http, LlamaProperties("tiny", 2048, 2**31), max_logprobs=2**31).generate(parameters)
    assert isinstance(generation, LlamaGeneration)
    return orjson.dumps(generation.request())


@given(
    st.fixed_dictionaries({"id": st.just("a1"), "type": st.sampled_from(list(NEEDED))}),
    st.dictionaries(st.sampled_from(PARAMETERS), LEAVES | VALUES, max_size=3),
)
@example({"id": "a1", "type": "completion"}, {"seed": "9" * 30})
@example({"id": "a1", "type": "completion"}, {"top_k": "9" * 30})
@example({"id": "a1", "type": "completion"}, {"id_slot": 2})
def test_every_job_that_is_accepted_can_be_sent_to_the_engine(job: dict[str, Any], data: dict[str, Any]) -> None:
    read = outcome(orjson.dumps(job | {"data": data | NEEDED[JobType(job["type"])]}))
    if isinstance(read, Job):
        assert request_of(read)
        assert cache_key(read, "m")


@table(("template", "depth"), product(TEMPLATES, [100, *range(249, 256), 300, 900]))
def test_every_deep_job_that_is_accepted_can_be_sent_to_the_engine(template: bytes, depth: int) -> None:
    read = outcome(template.replace(b"%s", nested(depth)))
    if isinstance(read, Job):
        request_of(read)
        assert cache_key(read, "m")
