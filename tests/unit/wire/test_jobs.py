from __future__ import annotations

from typing import Any

import orjson
import pytest

from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import UnusablePayloadError
from velesio_worker.wire.image_parameters import ImageParameters
from velesio_worker.wire.jobs import Job, JobType, Kind, RefusedJobError, parse_job
from velesio_worker.wire.payload import is_job_id
from velesio_worker.wire.text_parameters import CompletionParameters

LIMIT = 64 * 1024
USER = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,iVBORw0KGgo="


def job(**fields: Any) -> dict[str, Any]:
    """A right completion job, with some of its fields changed; None leaves one out."""
    whole = {"id": "a1", "type": "completion", "data": {"prompt": "hi"}} | fields
    return {name: value for name, value in whole.items() if value is not None}


def completion(**data: Any) -> dict[str, Any]:
    return job(data={"prompt": "hi"} | data)


def chat(**data: Any) -> dict[str, Any]:
    return job(type="chat_completion", data={"messages": [USER]} | data)


def parsed(fields: Any) -> Job:
    return parse_job(orjson.dumps(fields), max_bytes=LIMIT)


def refusal(fields: Any) -> RefusedJobError:
    with pytest.raises(RefusedJobError) as caught:
        parsed(fields)
    assert caught.value.job_id == fields["id"]
    return caught.value


@pytest.mark.parametrize("value", ["a", "A-z_0.9:x", "a" * 128])
def test_an_id_is_1_to_128_of_the_allowed_characters(value: str) -> None:
    assert is_job_id(value)


@pytest.mark.parametrize(
    "value", ["", "a" * 129, "a b", "a\n", "{a}", "\u00e4", "\u0661", "a\x00", 1, True, None, ["a"], b"a"]
)
def test_anything_else_is_no_id(value: object) -> None:
    assert not is_job_id(value)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"[" * 9_000, "not JSON"),
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"17", "a number"),
        (b"1.5", "a number"),
        (b'"a1"', "a string"),
        (b'["a1"]', "an array"),
        (b"{}", "no id"),
        (b'{"id": null}', "no id"),
        (b'{"id": 7}', "a bad id, 7"),
        (b'{"id": true}', "a bad id, True"),
        (b'{"id": ["a1"]}', "a bad id"),
        (b'{"id": {"a": 1}}', "a bad id"),
        (b'{"id": "a b"}', "a bad id, 'a b'"),
        (b'{"id": "%s"}' % (b"a" * 1000), "a bad id"),
        (b'{"id": %s}' % (b"[" * 1000 + b"]" * 1000), "a bad id"),
    ],
)
def test_a_payload_that_names_no_job_is_unusable(payload: bytes, reason: str) -> None:
    with pytest.raises(UnusablePayloadError) as caught:
        parse_job(payload, max_bytes=LIMIT)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("type_", ["banana", "", "COMPLETION", 7, True, ["completion"], {"a": 1}])
def test_an_unknown_type_is_refused_by_its_name(type_: object) -> None:
    refused = refusal(job(type=type_))
    assert refused.error.code == "unknown_type"
    assert str(refused) == f"Unknown job type: {type_}"


def test_a_job_without_type_is_told_which_there_are() -> None:
    refused = refusal(job(type=None))
    assert refused.error.code == "bad_job"
    assert all(kind in str(refused) for kind in JobType)


def test_a_job_that_is_too_large_is_refused_with_both_sizes() -> None:
    payload = orjson.dumps(completion(prompt="x" * LIMIT))
    with pytest.raises(RefusedJobError) as caught:
        parse_job(payload, max_bytes=LIMIT)
    assert caught.value.error.code == "too_large"
    assert f"{len(payload)} bytes" in str(caught.value)
    assert f"MAX_JOB_BYTES allows {LIMIT}" in str(caught.value)
    assert isinstance(parse_job(payload, max_bytes=len(payload)), Job)


IMAGE = {"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}
DEEP = orjson.loads(b"[" * 245 + b"]" * 245)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (job(data=None), "data must be an object with the parameters of completion, not null"),
        (job(data=["hi"]), "data must be an object with the parameters of completion, not an array"),
        (job(data="hi"), "data must be an object with the parameters of completion, not a string"),
        (job(data={}), "data.prompt: required"),
        (completion(prompt=7), "data.prompt: "),
        (completion(prompt=["a", "b"]), "data.prompt: "),
        (completion(prompt=DEEP), "data.prompt: "),
        (completion(max_tokens=0), "data.max_tokens: "),
        (completion(max_tokens=1.5), "data.max_tokens: "),
        (completion(max_tokens=2**32 - 1), "data.max_tokens: "),  # -1, without end, in the engine's 32 bits
        (completion(max_tokens=2**64 - 1), "data.max_tokens: "),
        (completion(max_tokens="many"), "data.max_tokens: "),
        (completion(max_tokens="9" * 30), "data.max_tokens: "),
        (completion(temperature=-0.1), "data.temperature: "),
        (completion(temperature="nan"), "data.temperature: "),
        (completion(top_k=-1), "data.top_k: "),
        (completion(top_p=1.1), "data.top_p: "),
        (completion(min_p=-1), "data.min_p: "),
        (completion(repeat_penalty=0), "data.repeat_penalty: "),
        (completion(repeat_last_n=-2), "data.repeat_last_n: "),
        (completion(presence_penalty="much"), "data.presence_penalty: "),
        (completion(seed=1.5), "data.seed: "),
        (completion(seed="9" * 30), "data.seed: "),
        (completion(stop=5), "data.stop"),
        (completion(stop=["a", 5]), "data.stop"),
        (completion(stream="perhaps"), "data.stream: "),
        (completion(grammar={}), "data.grammar: "),
        (completion(json_schema="{}"), "data.json_schema: "),
        (completion(logit_bias=5), "data.logit_bias"),
        (completion(n_probs=-1), "data.n_probs: "),
        (completion(lora={"id": 0}), "data.lora: "),
        (completion(lora=[{"id": 0}]), "data.lora.0.scale: required"),
        (completion(lora=[{"id": 0, "scale": "nan"}]), "data.lora.0.scale: "),
        (chat(messages=None), "data.messages: "),
        (chat(messages=[]), "data.messages: "),
        (chat(messages="hi"), "data.messages: "),
        (chat(messages=[USER, "hi"]), "data.messages.1: "),
        (chat(messages=[{"content": "hi"}]), "data.messages.0: a message needs a role"),
        (chat(messages=[{"role": 7}]), "data.messages.0: a message needs a role"),
        (chat(messages=[{"role": DEEP}]), "data.messages.0: a message needs a role"),
        (chat(messages=[USER, {"role": "user", "content": [IMAGE]}]), "data.messages.1: images are taken as base64"),
        (chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "data.messages.0: images are"),
        (chat(tools={}), "data.tools: "),
        (chat(tool_choice=7), "data.tool_choice"),
        (chat(top_logprobs=-1), "data.top_logprobs: "),
        (job(timeout=0), "timeout: "),
        (job(timeout="inf"), "timeout: "),
        (job(timeout=[1]), "timeout: "),
        (job(expires_at="soon"), "expires_at: "),
        (job(max_attempts=0), "max_attempts: "),
        (job(max_attempts=1.5), "max_attempts: "),
        (job(on_crash="retry"), "on_crash: "),
        (job(unread_timeout=0), "unread_timeout: "),
        (job(unread_timeout=-1), "unread_timeout: "),
        (job(unread_timeout="inf"), "unread_timeout: "),
        (job(unread_timeout="soon"), "unread_timeout: "),
        (job(cache="maybe"), "cache: "),
        (job(worker=""), "worker: "),
        (job(worker="a b"), "worker: "),
        (job(worker=7), "worker: "),
        (job(traceparent={}), "traceparent: "),
    ],
)
def test_a_wrong_job_is_refused_by_the_name_of_the_field(fields: dict[str, Any], field: str) -> None:
    refused = refusal(fields)
    assert refused.error.code == "bad_job"
    assert str(refused).startswith(field)
    assert len(str(refused)) < 500


def test_an_unknown_parameter_is_refused_by_name() -> None:
    message = str(refusal(completion(max_token=64)))
    assert message.startswith("data.max_token: unknown parameter; known ones: ")
    assert {"max_tokens", "prompt", "stream"} <= set(message.partition("known ones: ")[2].split(", "))


def test_every_mistake_is_told() -> None:
    message = str(refusal(completion(max_tokens=0, top_p=2, banana=1)))
    assert all(field in message for field in ("data.max_tokens: ", "data.top_p: ", "data.banana: "))


@pytest.mark.parametrize(
    "fields",
    [
        completion(**{f"p{number}": 0 for number in range(3000)}),
        completion(**{"p" * 20_000: 0}),
        chat(messages=[0] * 5000),
        completion(stop=[0] * 5000),
    ],
    ids=["unknown-parameters", "long-name", "messages", "stop"],
)
def test_many_mistakes_still_make_a_short_message(fields: dict[str, Any]) -> None:
    assert len(str(refusal(fields))) < 4000


@pytest.mark.parametrize(
    "fields",
    [
        completion(prompt=["my secret"]),
        chat(messages="my secret"),
        chat(messages=["my secret"]),
        chat(messages=[{"content": "my secret"}]),
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "my secret"}]}]),
    ],
)
def test_what_people_write_is_not_repeated_in_a_message(fields: dict[str, Any]) -> None:
    assert "secret" not in str(refusal(fields))


@pytest.mark.parametrize(
    "fields",
    [
        chat(tool_choice={"type": "function", "function": {"name": "my secret"}}),
        chat(json_schema={"$ref": "#/my secret"}),
        completion(json_schema={"properties": {"my secret": {"pattern": "(?=my secret)"}}}),
    ],
)
def test_what_a_check_quotes_is_told_to_the_producer_and_not_to_the_log(fields: dict[str, Any]) -> None:
    error = refusal(fields).error
    assert "my secret" in str(error)
    assert "my secret" not in error.public
    assert error.public.startswith("data")


@pytest.mark.parametrize(
    "fields",
    [
        completion(max_tokens="SECRETVALUE"),
        completion(samplers=["SECRETVALUE"]),
        completion(defaults="SECRETVALUE"),
        completion(stream="SECRETVALUE"),
        job(timeout="SECRETVALUE"),
        job(on_crash="SECRETVALUE"),
        job(worker="SECRETVALUE!"),
        job(type="txt2img", data={"prompt": "x", "width": "SECRETVALUE"}),
    ],
)
def test_no_value_of_a_parameter_stands_in_the_log(fields: dict[str, Any]) -> None:
    error = refusal(fields).error
    assert "SECRETVALUE" in str(error)
    assert "SECRETVALUE" not in error.public


def test_unknown_fields_beside_the_parameters_are_ignored() -> None:
    assert parsed(job(user="u1", priority=[9], parameters=None, kind="x")) == parsed(job())


def test_a_job_that_says_little_has_the_documented_defaults() -> None:
    read = parsed(job())
    assert (read.id, read.type, read.type.kind, read.streamed) == ("a1", JobType.COMPLETION, Kind.TEXT, False)
    assert (read.timeout, read.expires_at, read.max_attempts, read.on_crash) == (None, None, 3, "continue")
    assert (read.cache, read.worker, read.traceparent, read.unread_timeout) == (None, None, None, None)
    assert isinstance(read.parameters, CompletionParameters)
    assert read.parameters.given() == {
        "prompt": "hi",
        "max_tokens": 150,
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.9,
        "repeat_penalty": 1.1,
        "stream": False,
    }


def test_the_fields_of_a_job_arrive() -> None:
    fields: dict[str, Any] = {
        "timeout": 2.5,
        "expires_at": 1.9e9,
        "max_attempts": 1,
        "on_crash": "fail",
        "unread_timeout": 0.5,
        "cache": False,
        "worker": "host-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    read = parsed(chat(stream=True, max_tokens=7) | fields)
    assert {name: getattr(read, name) for name in fields} == fields
    assert isinstance(read.parameters, ChatCompletionParameters)
    assert (read.streamed, read.parameters.max_tokens, read.parameters.messages) == (True, 7, [USER])


def test_messages_reach_the_engine_as_they_are() -> None:
    messages = [
        {"role": "system", "content": "be brief", "name": "s"},
        {"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}], "unheard_of": {"a": [1]}},
    ]
    parameters = parsed(chat(messages=messages)).parameters
    assert isinstance(parameters, ChatCompletionParameters)
    assert parameters.messages == messages


@pytest.mark.parametrize(
    ("type_", "more"), [(JobType.TXT2IMG, {}), (JobType.IMG2IMG, {"init_images": ["iVBORw0KGgo="]})]
)
def test_image_jobs_need_image_capacity_and_have_no_tokens(type_: JobType, more: dict[str, Any]) -> None:
    read = parsed(job(type=type_, data={"prompt": "a cat", "steps": 5, **more}))
    assert (read.type.kind, read.streamed) == (Kind.IMAGE, False)
    assert isinstance(read.parameters, ImageParameters)
    assert (read.parameters.steps, read.parameters.width) == (5, 512)


def test_text_is_kept_to_the_letter() -> None:
    prompt = 'tabs\t, "quotes", \x00, 猫, 🎉 and e\u0301'
    parameters = parsed(completion(prompt=prompt)).parameters
    assert isinstance(parameters, CompletionParameters)
    assert parameters.prompt == prompt


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"max_attempts": 11}, "max_attempts: Input should be less than or equal to 10"),
        ({"max_attempts": 10**18}, "max_attempts: Input should be less than or equal to 10"),
        ({"worker": "a" * 3000}, "worker: String should have at most 1024 characters"),
        ({"traceparent": "a" * 300}, "traceparent: String should have at most 256 characters"),
        ({"timeout": 1e10}, "timeout: Input should be less than or equal to 1000000000"),
        ({"unread_timeout": 1e10}, "unread_timeout: Input should be less than or equal to 1000000000"),
        ({"expires_at": -1e308}, "expires_at: Input should be greater than or equal to"),
    ],
)
def test_a_field_of_the_job_beyond_its_limit_is_told_the_limit_in_a_short_error(
    fields: dict[str, Any], reason: str
) -> None:
    payload = orjson.dumps({"id": "a1", "type": "completion", "data": {"prompt": "x"}} | fields)
    with pytest.raises(RefusedJobError) as caught:
        parse_job(payload, max_bytes=LIMIT)
    assert caught.value.error.code == "bad_job"
    assert reason in str(caught.value.error)
    assert len(str(caught.value.error)) < 300


def test_ten_attempts_are_taken() -> None:
    payload = orjson.dumps({"id": "a1", "type": "completion", "max_attempts": 10, "data": {"prompt": "x"}})
    assert parse_job(payload, max_bytes=LIMIT).max_attempts == 10
