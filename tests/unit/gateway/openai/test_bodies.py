"""What the bodies of requests become, seen by the worker's own models: whatever is sent has to be taken there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from velesio_worker.gateway.errors import ApiError, api_error, invalid
from velesio_worker.gateway.live import Part
from velesio_worker.gateway.openai.chat import ChatBody
from velesio_worker.gateway.openai.completions import CompletionBody
from velesio_worker.gateway.openai.embeddings import EmbeddingBody
from velesio_worker.gateway.openai.images import ImageBody
from velesio_worker.gateway.openai.rerank import RerankBody
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import BadJobError, ContextExceededError, InternalError
from velesio_worker.wire.image_parameters import Txt2ImgParameters
from velesio_worker.wire.jobs import JobType
from velesio_worker.wire.parameters import EmbeddingParameters, RerankParameters
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters

USER = {"role": "user", "content": "Hi."}
CHAT = {"model": "tiny", "messages": [USER]}
TEXT = {"model": "tiny", "prompt": "One,"}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "description": None, "strict": None, "parameters": {"type": "object", "properties": {}}},
}
OTHERS: dict[str, Any] = {
    "user": "u",
    "store": True,
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "safety_identifier": "s",
    "verbosity": "low",
    "prediction": {"type": "content", "content": "x"},
    "modalities": ["text"],
    "web_search_options": {},
    "prompt_cache_key": "k",
    "reasoning_effort": "low",
    "nobody_knows_this": {"deep": [1]},
}
"""What SDKs and front ends add."""


def taken(parts: Sequence[Part]) -> list[Any]:
    """Let the worker's models read the jobs."""
    return [JobType(job_type).parameters.model_validate(dict(data)) for job_type, data in parts]


def chat(**more: Any) -> list[ChatCompletionParameters]:
    return taken(ChatBody.model_validate(CHAT | more).parts("tiny"))


def completion(**more: Any) -> list[Any]:
    return taken(CompletionBody.model_validate(TEXT | more).parts("tiny"))


def refusal(body: type[ChatBody | CompletionBody], fields: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        body.model_validate(fields).parts("tiny")
    return caught.value


ASKED: list[dict[str, Any]] = [
    {},
    OTHERS,
    {"temperature": 0.5, "top_p": 0.9, "presence_penalty": 0.1, "frequency_penalty": -0.1, "stop": ["a", "b"]},
    {"logit_bias": {"50256": -100}, "seed": 7, "logprobs": True, "top_logprobs": 3},
    {"logit_bias": [[5, False]], "stop": "x"},
    {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"tools": [], "functions": [], "function_call": None},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
    {"response_format": {"type": "text"}},
    {"top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False}},
    {"grammar": 'root ::= "a"', "samplers": ["top_k"], "id_slot": -1, "cache_prompt": True, "ignore_eos": True},
    {"n_probs": 4, "post_sampling_probs": True, "return_progress": True, "timings_per_token": True},
    {"messages": [{"role": "developer", "content": "Be brief."}, USER]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}]},
]


@pytest.mark.parametrize("more", ASKED, ids=lambda more: ",".join(more)[:40] or "bare")
@pytest.mark.parametrize("stream", [True, False])
def test_whatever_a_chat_may_ask_for_the_worker_takes(more: dict[str, Any], *, stream: bool) -> None:
    (job,) = chat(stream=stream, **more)
    assert (job.stream, job.defaults, job.model) == (stream, "engine", "tiny")


def test_what_is_not_given_is_the_engine_s() -> None:
    (job,) = chat(temperature=None, max_tokens=None, stop=None, tools=None, n=None, seed=None, stream=None)
    assert job.given() == {"messages": [USER], "stream": False, "max_tokens": -1}


def test_parameters_reach_the_worker_as_they_were_given() -> None:
    (job,) = chat(temperature=0.5, top_k=3, reasoning_effort="low", tools=[TOOL], top_logprobs=2, logprobs=True)
    assert (job.temperature, job.top_k, job.reasoning_effort, job.top_logprobs, job.logprobs) == (
        0.5,
        3,
        "low",
        2,
        True,
    )
    assert job.tools is not None
    assert job.tools[0]["function"]["name"] == "f"


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": 100, "max_completion_tokens": 5}, 5),
        ({"max_tokens": -1, "max_completion_tokens": 5}, 5),
        ({"max_tokens": -1}, -1),
        ({"n_predict": 5}, 5),
        ({}, -1),
    ],
)
def test_the_limit_is_obeyed_whatever_its_name_and_of_two_the_lower_one(given: dict[str, int], limit: int) -> None:
    assert [job.max_tokens for job in chat(**given)] == [limit]
    assert [job.max_tokens for job in completion(**given)] == [limit]


def test_what_no_engine_bears_of_a_tool_s_schema_is_left_out() -> None:
    text = {"type": "string", "maxLength": 524_288}
    heavy = {"name": "f", "parameters": {"type": "object", "properties": {"script": text}}}
    (job,) = chat(tools=[{"type": "function", "function": heavy}])
    assert job.tools is not None
    assert job.tools[0]["function"]["parameters"]["properties"] == {"script": {"type": "string"}}
    ((job_type, data),) = ChatBody.model_validate(CHAT | {"tools": [{"type": "function"}]}).parts("tiny")
    assert (job_type, data["tools"]) == ("chat_completion", [{"type": "function"}])  # the worker says what is wrong


def test_each_choice_has_a_seed_of_its_own() -> None:
    assert [job.seed for job in chat(n=3, seed=7)] == [7, 8, 9]
    assert [job.seed for job in completion(n=2, seed=7, prompt=["a", "b"])] == [7, 8, 7, 8]
    assert [job.seed for job in chat(n=2)] == [None, None]
    assert [job.seed for job in chat(n=2, seed=-1)] == [-1, -1]


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**40), 2**32 - 1, 2**32 - 2])
def test_seeds_of_any_size_are_seeds_and_different(seed: int) -> None:
    seeds = [job.seed for job in chat(n=2, seed=seed)]
    assert len(set(seeds)) == 2
    assert all(one is not None and 0 <= one < 2**32 - 1 for one in seeds)
    assert seeds == [job.seed for job in chat(n=2, seed=seed)]


@pytest.mark.parametrize("n", [0, -1, 129, "many", 1.5])
def test_the_number_of_choices_is_bounded(n: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate(CHAT | {"n": n})
    assert invalid(caught.value).param == "n"


@pytest.mark.parametrize(("body", "fields"), [(ChatBody, CHAT), (CompletionBody, TEXT)])
def test_options_of_a_stream_need_a_stream(body: type[ChatBody | CompletionBody], fields: dict[str, Any]) -> None:
    options = {"stream_options": {"include_usage": True}}
    error = refusal(body, fields | options)
    assert (error.status, error.param) == (400, "stream_options")
    assert body.model_validate(fields | options | {"stream": True}).with_usage
    assert not body.model_validate(fields | {"stream": True}).with_usage
    assert not body.model_validate(fields | {"stream_options": None}).with_usage
    body.model_validate(fields | {"stream_options": None}).check_stream()


def test_messages_reach_the_worker_without_what_is_null() -> None:
    said = {"role": "assistant", "content": None, "refusal": None, "audio": None, "function_call": None}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        USER,
        said | {"tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]
    (job,) = chat(messages=messages)
    assert job.messages == [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        messages[3],
    ]


@pytest.mark.parametrize("name", ["functions", "function_call"])
def test_the_old_form_of_tools_is_refused_and_not_passed_over(name: str) -> None:
    error = refusal(ChatBody, CHAT | {name: [{"name": "f"}]})
    assert (error.status, error.param, "tools" in error.message) == (400, name, True)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [USER, 7]}, "messages.1"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": [7]}, "tools.0"),
        ({"stop": 7}, "stop"),
        ({"stop": ["a", 7]}, "stop.1"),
        ({"tool_choice": 7}, "tool_choice"),
        ({"stream": "maybe"}, "stream"),
        ({"stream": True, "stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
    ],
)
def test_a_wrong_field_is_named(more: dict[str, Any], param: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate(CHAT | more)
    error = invalid(caught.value)
    assert (error.status, error.param) == (400, param)


def test_what_the_worker_finds_wrong_is_named_as_the_client_has_it() -> None:
    error = api_error(BadJobError("data.messages.0.content: images are taken as base64 data URIs"))
    assert (error.status, error.param) == (400, "messages.0.content")
    assert error.message.startswith("messages.0.content: images")
    assert api_error(BadJobError("llama-server refuses the job: data.x: y")).param is None
    assert api_error(InternalError("data.x: y")).param is None


def test_a_prompt_that_is_too_long_is_told_with_both_numbers() -> None:
    said = "The prompt has 4000 tokens, but a job's context has 512: shorten the prompt or raise CONTEXT_SIZE."
    error = api_error(ContextExceededError(said))
    assert (error.status, error.code, error.message) == (400, "context_length_exceeded", said)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("One,", ["One,"]),
        ("", [""]),
        ([1, 2], [[1, 2]]),
        (["a", "b"], ["a", "b"]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", ""], ["a", ""]),
    ],
)
def test_prompts_are_texts_tokens_or_several_of_them(prompt: Any, prompts: list[Any]) -> None:
    jobs = completion(prompt=prompt)
    assert all(isinstance(job, CompletionParameters) for job in jobs)
    assert [job.prompt for job in jobs] == prompts


@pytest.mark.parametrize("prompt", [[], [[]], [1, "a"], [True], [1.5], {"a": 1}, 7, [[1], "a"], [None], None])
def test_what_is_no_prompt_is_refused_as_such(prompt: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionBody.model_validate(TEXT | {"prompt": prompt})
    assert invalid(caught.value).param == "prompt"


def test_completions_take_what_they_know_and_pass_over_the_rest() -> None:
    (job,) = completion(**OTHERS, top_k=3, logprobs=2, best_of=1, temperature=0)
    assert (job.n_probs, job.top_k, job.temperature) == (2, 3, 0)


def test_probabilities_of_the_text_alone_are_asked_for_with_one_of_each() -> None:
    assert [job.n_probs for job in completion(logprobs=0)] == [1]
    assert [job.n_probs for job in completion()] == [None]


def test_a_suffix_has_the_middle_written() -> None:
    (job,) = completion(suffix=" three.", max_tokens=4)
    assert isinstance(job, InfillParameters)
    assert (job.input_prefix, job.input_suffix, job.prompt, job.max_tokens) == ("One,", " three.", "", 4)
    assert isinstance(completion(suffix="")[0], CompletionParameters)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"suffix": "x", "prompt": [1, 2]}, "suffix"),
        ({"suffix": "x", "prompt": [[1], [2]]}, "suffix"),
        ({"prompt": ["a"] * 9, "n": 128}, "prompt"),
    ],
)
def test_a_completion_that_cannot_be_made_as_asked_is_refused(more: dict[str, Any], param: str) -> None:
    error = refusal(CompletionBody, TEXT | more)
    assert (error.status, error.param) == (400, param)


def test_best_of_may_be_as_many_as_are_wanted() -> None:
    assert len(completion(best_of=2, n=2)) == 2


@pytest.mark.parametrize("given", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_vectors_are_asked_for_as_numbers(given: Any, encoding: dict[str, str]) -> None:
    fields = {"model": "tiny", "input": given, "user": "u", "dimensions": 4} | encoding
    (job,) = taken([EmbeddingBody.model_validate(fields).part("tiny")])
    assert isinstance(job, EmbeddingParameters)
    assert (job.input, job.encoding_format, job.dimensions, job.model) == (given, "float", 4, "tiny")


@pytest.mark.parametrize("given", [[], [[]], None, 7, [1, "a"]])
def test_what_is_no_text_has_no_vector(given: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        EmbeddingBody.model_validate({"model": "tiny", "input": given})
    assert invalid(caught.value).param == "input"


def test_an_empty_text_has_no_vector() -> None:
    with pytest.raises(ApiError) as caught:
        EmbeddingBody.model_validate({"model": "tiny", "input": ""}).part("tiny")
    assert (caught.value.status, caught.value.param) == (400, "input")


def test_documents_are_texts_or_objects_with_one() -> None:
    fields = {"query": "q", "documents": ["a", {"text": "b", "id": 1}], "top_n": 1, "return_documents": None}
    (job,) = taken([RerankBody.model_validate(fields).part(None)])
    assert isinstance(job, RerankParameters)
    assert (job.query, job.documents, job.top_n, job.model) == ("q", ["a", "b"], 1, None)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"documents": []}, "documents"),
        ({"query": None}, "query"),
        ({"documents": [{"title": "x"}]}, "documents.0.text"),
    ],
)
def test_a_rerank_that_is_none_is_refused(more: dict[str, Any], param: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RerankBody.model_validate({"query": "q", "documents": ["a"]} | more)
    assert invalid(caught.value).param == param


def image(**more: Any) -> list[Any]:
    return taken(ImageBody.model_validate({"prompt": "a cat"} | more).parts(more.get("model")))


def test_images_are_as_many_jobs_which_may_be_made_as_one() -> None:
    jobs = image(n=3, size="256x512", quality="hd", style="vivid", response_format="b64_json", user="u", model="sd")
    assert [(job.width, job.height, job.model, job.defaults) for job in jobs] == [(256, 512, "sd", "engine")] * 3
    assert all(isinstance(job, Txt2ImgParameters) and job.mergeable for job in jobs)
    assert jobs[0].same_but_for_seed(jobs[2])


@pytest.mark.parametrize("size", [{}, {"size": None}, {"size": "auto"}])
def test_images_have_the_engine_s_size_where_none_is_given(size: dict[str, Any]) -> None:
    (job,) = image(**size)
    assert job.given() == {"prompt": "a cat"}


def test_images_take_the_engine_s_parameters_and_seeds_of_their_own() -> None:
    jobs = image(n=2, seed=2**32 - 1, steps=4, negative_prompt="dog", sampler_name="Euler", cfg_scale=2)
    assert [(job.seed, job.steps, job.negative_prompt) for job in jobs] == [(2**32 - 1, 4, "dog"), (0, 4, "dog")]


@pytest.mark.parametrize(
    "more", [{"size": "large"}, {"size": "1x"}, {"size": "-64x64"}, {"size": ""}, {"stream": True}]
)
def test_images_that_cannot_be_made_as_asked_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        ImageBody.model_validate({"prompt": "a cat"} | more).parts(None)
    assert caught.value.param == next(iter(more))
