"""Bodies of llama-server's thin routes become jobs that the worker's own models take."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from velesio_worker.gateway.text.requests import (
    CompletionRequest,
    DetokenizeRequest,
    TemplateRequest,
    TokenizeRequest,
)
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.jobs import RefusedJobError, parse_job
from velesio_worker.wire.parameters import ModelParameters

MIKUPAD: dict[str, Any] = {
    "temperature": 0.7,
    "dynatemp_range": 0,
    "dynatemp_exponent": 1,
    "repeat_penalty": 1.1,
    "repeat_last_n": 256,
    "penalize_nl": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "mirostat": 0,
    "tfs_z": 1,
    "top_k": 40,
    "top_p": 0.95,
    "typical_p": 1,
    "min_p": 0,
    "seed": -1,
    "n_predict": -1,
    "n_probs": 10,
    "grammar": "",
    "ignore_eos": False,
    "stream": True,
    "stop": [],
    "cache_prompt": True,
    "prompt": "Once upon a time",
    "slot_id": 0,
}
UNITY: dict[str, Any] = {
    "prompt": "hi",
    "id_slot": -1,
    "n_keep": 5,
    "n_predict": 64,
    "stream": False,
    "return_tokens": False,
    "timings_per_token": True,
    "response_fields": ["content"],
    "json_schema": None,
    "grammar": None,
    "logit_bias": None,
}


def taken(part: tuple[str, dict[str, Any]]) -> ModelParameters:
    """Have the worker read a job; returns its parameters."""
    job_type, data = part
    parameters = parse_job(orjson.dumps({"id": "a", "type": job_type, "data": data}), max_bytes=1 << 20).parameters
    assert isinstance(parameters, ModelParameters)
    return parameters


@pytest.mark.parametrize("body", [MIKUPAD, UNITY, {"prompt": [1, 2, 3]}, {"prompt": "a", "stop": "b", "n_predict": 3}])
def test_the_worker_takes_the_bodies_of_known_clients(body: dict[str, Any]) -> None:
    [part] = CompletionRequest.model_validate(body).parts()
    parameters = taken(part)
    assert parameters.defaults == "engine"


def test_parameters_that_were_given_go_on_and_no_others() -> None:
    [(_, data)] = CompletionRequest.model_validate(
        {"prompt": "a", "temperature": 0.5, "dry_base": 2.0, "nonsense": 1, "top_k": None}
    ).parts()
    assert data == {"defaults": "engine", "prompt": "a", "stream": False, "temperature": 0.5, "dry_base": 2.0}


def test_what_would_change_the_answer_is_refused_by_the_worker_by_name() -> None:
    [part] = CompletionRequest.model_validate({"prompt": "a", "return_tokens": True}).parts()
    with pytest.raises((BadJobError, RefusedJobError), match="return_tokens"):
        taken(part)


def test_a_wrong_value_is_refused_by_the_worker() -> None:
    [part] = CompletionRequest.model_validate({"prompt": "a", "mirostat": 7}).parts()
    with pytest.raises((BadJobError, RefusedJobError), match="mirostat"):
        taken(part)


PROMPTS: list[tuple[Any, list[Any]]] = [
    (["a", "b"], ["a", "b"]),
    ([[1, 2], "b"], [[1, 2], "b"]),
    ([1, 2], [[1, 2]]),
    (["a"], ["a"]),
    ([12, "a"], [[12, "a"]]),
    ([], [[]]),
]


@pytest.mark.parametrize(("prompt", "prompts"), PROMPTS)
def test_several_prompts_are_as_many_jobs(prompt: Any, prompts: list[Any]) -> None:
    parts = CompletionRequest.model_validate({"prompt": prompt}).parts()
    assert [data["prompt"] for _, data in parts] == prompts


@pytest.mark.parametrize("body", [{"content": "a b", "with_pieces": True}, {"content": ""}, {}, {"content": None}])
def test_texts_to_be_made_tokens_of(body: dict[str, Any]) -> None:
    taken(TokenizeRequest.model_validate(body).part())


@pytest.mark.parametrize("body", [{"tokens": [1, 2]}, {}])
def test_tokens_to_be_made_a_text_of(body: dict[str, Any]) -> None:
    taken(DetokenizeRequest.model_validate(body).part())


CHAT: dict[str, Any] = {
    "model": "small",
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "max_tokens": 10,
    "temperature": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "response_format": {"type": "json_object"},
    "prompt": "not of a chat",
}


def test_a_whole_chat_body_can_be_counted_and_put_into_its_template() -> None:
    body = TemplateRequest.model_validate(CHAT)
    job_type, data = body.to_count()
    assert job_type == "count_tokens"
    assert data.keys() == {"defaults", "model", "messages", "tools", "tool_choice", "stream_options"}
    taken((job_type, data))
    taken(body.to_apply())


def test_what_no_engine_bears_of_a_tool_s_schema_is_left_out() -> None:
    heavy = {"type": "function", "function": {"name": "f", "parameters": {"type": "string", "maxLength": 524_288}}}
    body = TemplateRequest.model_validate({"messages": [{"role": "user", "content": "Hi."}], "tools": [heavy]})
    for job_type, data in (body.to_count(), body.to_apply()):
        assert data["tools"][0]["function"]["parameters"] == {"type": "string"}
        taken((job_type, data))
