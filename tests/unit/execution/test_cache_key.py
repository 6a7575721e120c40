"""Under which name an answer is kept: one for all jobs that would get the same, another for every other."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
import pytest

from tests.support.tables import table
from velesio_worker.execution.cache import cache_key
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.jobs import JobType, RefusedJobError, parse_job
from velesio_worker.wire.parameters import EmbeddingParameters, RerankParameters
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters

USER: Final = {"role": "user", "content": "hi"}
LEAST: Final[dict[JobType, dict[str, Any]]] = {
    JobType.COMPLETION: {"prompt": "hi"},
    JobType.CHAT_COMPLETION: {"messages": [USER]},
    JobType.INFILL: {"input_prefix": "a", "input_suffix": "b"},
    JobType.EMBEDDING: {"input": "hi"},
    JobType.RERANK: {"query": "hi", "documents": ["ho"]},
}
SAMPLING: Final[dict[str, Any]] = {
    "max_tokens": 7,
    "temperature": 0,
    "top_k": 1,
    "top_p": 0.5,
    "min_p": 0.5,
    "repeat_penalty": 1,
    "repeat_last_n": 7,
    "presence_penalty": 1,
    "frequency_penalty": 1,
    "seed": 7,
    "stop": ["x"],
    "grammar": 'root ::= "a"',
    "json_schema": {},
    "logit_bias": [[1, 2]],
    "n_probs": 1,
    "ignore_eos": True,
    "typical_p": 0.5,
    "samplers": ["top_k"],
    "mirostat": 1,
    "mirostat_tau": 1,
    "mirostat_eta": 1,
    "dynatemp_range": 1,
    "dynatemp_exponent": 1,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.5,
    "dry_multiplier": 1,
    "dry_base": 1,
    "dry_allowed_length": 1,
    "dry_penalty_last_n": 1,
    "dry_sequence_breakers": ["x"],
    "lora": [{"id": 0, "scale": 1}],
    "defaults": "engine",
    "top_n_sigma": 1,
    "min_keep": 1,
    "post_sampling_probs": True,
    "n_cache_reuse": 1,
    "n_keep": 1,
    "n_discard": 1,
    "n_indent": 1,
    "t_max_predict_ms": 1,
    "backend_sampling": True,
    "adaptive_target": 0.5,
    "adaptive_decay": 0.5,
    "reasoning_budget_tokens": 1,
    "reasoning_budget_start_tag": "<a>",
    "reasoning_budget_end_tag": "</a>",
    "reasoning_budget_end_tags": ["</a>"],
    "reasoning_budget_message": "x",
}
MATTERS: Final[dict[JobType, dict[str, Any]]] = {
    JobType.COMPLETION: SAMPLING | {"prompt": "ho"},
    JobType.CHAT_COMPLETION: SAMPLING
    | {
        "messages": [USER, {"role": "assistant", "content": "ho"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "none",
        "response_format": {"type": "json_object"},
        "chat_template_kwargs": {"enable_thinking": False},
        "parallel_tool_calls": True,
        "reasoning_format": "none",
        "reasoning_effort": "low",
        "thinking_budget_tokens": 1,
        "add_generation_prompt": False,
        "continue_final_message": True,
        "logprobs": True,
        "top_logprobs": 1,
    },
    JobType.INFILL: SAMPLING
    | {"input_prefix": "c", "input_suffix": "c", "input_extra": [{"filename": "a", "text": "b"}], "prompt": "c"},
    JobType.EMBEDDING: {"input": ["hi"], "encoding_format": "base64", "dimensions": 8, "embd_normalize": -1},
    JobType.RERANK: {"query": "ho", "documents": ["hi"], "top_n": 1},
}
"""Another value for each parameter that changes the answer."""

NO_MATTER: Final[dict[str, Any]] = {"stream": True, "id_slot": 1, "cache_prompt": False, "model": "tiny"}


def key(type_: JobType, data: dict[str, Any], *, identity: str = "tiny of 1 byte", **fields: Any) -> str:
    payload = orjson.dumps({"id": "a", "type": type_, "data": data, **fields})
    return cache_key(parse_job(payload, max_bytes=10_000), identity)


def test_a_key_is_a_hash_that_tells_nothing() -> None:
    assert re.fullmatch("prompt_cache:[0-9a-f]{64}", key(JobType.COMPLETION, {"prompt": "my secret"}))


@table(("type_", "name"), [(type_, name) for type_, names in MATTERS.items() for name in names])
def test_every_parameter_that_changes_the_answer_changes_the_key(type_: JobType, name: str) -> None:
    other = LEAST[type_] | {name: MATTERS[type_][name]}
    assert key(type_, other) != key(type_, LEAST[type_])


@pytest.mark.parametrize("type_", [JobType.COMPLETION, JobType.CHAT_COMPLETION, JobType.INFILL])
@pytest.mark.parametrize("name", NO_MATTER)
def test_what_changes_nothing_about_the_answer_leaves_the_key(type_: JobType, name: str) -> None:
    assert key(type_, LEAST[type_] | {name: NO_MATTER[name]}) == key(type_, LEAST[type_])


def test_every_parameter_either_matters_or_does_not() -> None:
    kinds = {
        JobType.COMPLETION: CompletionParameters,
        JobType.CHAT_COMPLETION: ChatCompletionParameters,
        JobType.INFILL: InfillParameters,
        JobType.EMBEDDING: EmbeddingParameters,
        JobType.RERANK: RerankParameters,
    }
    for type_, parameters in kinds.items():
        sent = {name for name, field in parameters.model_fields.items() if not field.exclude}
        known = sent - set(NO_MATTER) - {"content"}  # which stands instead of input
        assert set(MATTERS[type_]) - {"defaults"} == known - {"defaults"}, "a new parameter: does it change the answer?"


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_tokens", 150), ("temperature", 0.7), ("top_k", "40"), ("min_p", None), ("stream", False), ("seed", None)],
)
def test_a_default_that_is_said_is_the_same_as_one_that_is_not(name: str, value: Any) -> None:
    least = LEAST[JobType.COMPLETION]
    assert key(JobType.COMPLETION, least | {name: value}) == key(JobType.COMPLETION, least)


def test_neither_the_order_of_the_parameters_nor_the_rest_of_the_job_matters() -> None:
    one = key(JobType.COMPLETION, {"prompt": "hi", "seed": 1})
    assert key(JobType.COMPLETION, {"seed": 1, "prompt": "hi"}, timeout=3, cache=True, max_attempts=1) == one


def test_the_order_within_a_value_matters() -> None:
    schemas = [{"type": "object", "required": ["a", "b"]}, {"type": "object", "required": ["b", "a"]}]
    assert len({key(JobType.COMPLETION, {"prompt": "hi", "json_schema": schema}) for schema in schemas}) == 2


def test_another_model_or_type_has_another_key() -> None:
    least = LEAST[JobType.COMPLETION]
    assert key(JobType.COMPLETION, least, identity="other") != key(JobType.COMPLETION, least)
    assert key(JobType.EMBEDDING, {"input": "hi"}) != key(JobType.EMBEDDING, {"content": "hi"})


def test_a_chat_is_told_from_a_completion_with_the_same_parameters() -> None:
    infill = {"input_prefix": "", "input_suffix": "", "prompt": "hi"}
    assert key(JobType.INFILL, infill) != key(JobType.COMPLETION, {"prompt": "hi"})


def test_each_tenant_has_its_own_answers_and_jobs_without_one_theirs() -> None:
    job = {"id": "a", "type": "completion", "data": {"prompt": "hi"}}
    tenants: list[dict[str, Any]] = [{}, {"tenant": "acme"}, {"tenant": "other"}, {"tenant": None}]
    read = [parse_job(orjson.dumps(job | tenant), max_bytes=10_000) for tenant in tenants]
    keys = [cache_key(one, "m") for one in read]
    assert len(set(keys)) == 3
    assert keys[0] == keys[3]


@pytest.mark.parametrize("tenant", ["", "x" * 129, "a\nb", 7, ["a"]])
def test_a_tenant_that_is_none_is_refused(tenant: Any) -> None:
    payload = orjson.dumps({"id": "a", "type": "completion", "data": {"prompt": "hi"}, "tenant": tenant})
    with pytest.raises(RefusedJobError, match="tenant"):
        parse_job(payload, max_bytes=10_000)
