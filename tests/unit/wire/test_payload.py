"""What standard writers write is read; of what cannot be read, the id is found all the same."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.wire import payload as payload_module
from velesio_worker.wire.errors import BadJobError, TooLargeError, UnusablePayloadError
from velesio_worker.wire.jobs import RefusedJobError, parse_job
from velesio_worker.wire.limits import LOOKED_AT, MOST_VALUES
from velesio_worker.wire.payload import job_id_in
from velesio_worker.wire.text_parameters import CompletionParameters

JOB: dict[str, Any] = {"id": "a1", "type": "completion", "data": {"prompt": "hi"}}


def prompt_of(payload: bytes, *, max_bytes: int = 10_000) -> str:
    job = parse_job(payload, max_bytes=max_bytes)
    assert job.id == "a1"
    assert isinstance(job.parameters, CompletionParameters)
    assert isinstance(job.parameters.prompt, str)
    return job.parameters.prompt


def refusal(payload: bytes, *, max_bytes: int = 10_000) -> RefusedJobError:
    with pytest.raises(RefusedJobError) as caught:
        parse_job(payload, max_bytes=max_bytes)
    return caught.value


@pytest.mark.parametrize("half", [chr(0xD83D), chr(0xDE00), chr(0xDE00) + chr(0xD83D)])
def test_half_a_character_is_replaced(half: str) -> None:
    assert prompt_of(json.dumps(JOB | {"data": {"prompt": f"Thanks {half}!"}}).encode()) == (
        "Thanks " + "\ufffd" * len(half) + "!"
    )


def test_a_whole_character_beside_a_half_one_stays() -> None:
    payload = rb'{"id":"a1","type":"completion","data":{"prompt":"\ud83d\ude00 \ud83d"}}'
    assert prompt_of(payload) == "\U0001f600 \ufffd"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_in_an_encoding_that_json_has_had_is_read(encoding: str) -> None:
    whole = JOB | {"data": {"prompt": "gr\u00fc\u00df \U0001f600"}}
    assert prompt_of(json.dumps(whole, ensure_ascii=False).encode(encoding)) == "gr\u00fc\u00df \U0001f600"


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert prompt_of(b'{"id":"a1","type":"completion","data":{"prompt":"a\xff\xfeb"}}') == "a\ufffd\ufffdb"


def test_a_line_break_within_a_text_is_read() -> None:
    assert prompt_of(b'{"id":"a1","type":"completion","data":{"prompt":"a\nb"}}') == "a\nb"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("data", "path"),
    [
        ('{"prompt":"hi","temperature":%s}', "data.temperature"),
        ('{"prompt":"hi","logit_bias":[[1,%s]]}', "data.logit_bias.0.1"),
        ('{"prompt":"hi","json_schema":{"a":{"b":%s}}}', "data.json_schema.a.b"),
    ],
)
def test_what_is_no_number_is_refused_by_name(number: str, data: str, path: str) -> None:
    refused = refusal(f'{{"id":"a1","type":"completion","data":{data % number}}}'.encode())
    assert (refused.job_id, refused.type) == ("a1", "completion")
    assert isinstance(refused.error, BadJobError)
    assert str(refused.error).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"id": "a1"',
        b'{"id": "a1"} x',
        b'{"id": "a1", "type": ',
        b'{"type": "completion", "data": {"id": "b", "prompt": "}"}, "id": "a1", "x": tru}',
        b'{"type": "completion", "data": [{"id": "b"}], "id" : "a1", }',
        b'{"note": "the \\"id\\": \\"b\\"", "id": "a1", data: {}}',
        b"{'type': 'completion', \"id\": \"a1\"}",
        b'{"id": "a1", "data": ' + b"[" * 100_000,
    ],
)
def test_the_id_of_what_is_no_json_is_found(payload: bytes) -> None:
    refused = refusal(payload, max_bytes=1_000_000)
    assert refused.job_id == "a1"
    assert isinstance(refused.error, BadJobError)
    assert "not JSON" in str(refused.error)


@pytest.mark.parametrize(
    "payload",
    [
        b'["id", "a1"',
        b'{"data": {"id": "a1"}',
        b'{"data": "id", "a1": ',
        b'{"id": "a b", "x": ',
        b'{"id": 7, "x": "a1", ',
        b'{"id": ["a1"], ',
        b'"id": "a1"',
        b'{} "id": "a1"',
    ],
)
def test_what_is_no_id_of_the_job_is_not_taken_for_it(payload: bytes) -> None:
    with pytest.raises(UnusablePayloadError):
        parse_job(payload, max_bytes=10_000)


LONG: Final = "x" * 2 * LOOKED_AT
NESTED: Final = [{"id": "b1"}, {"id": "b2"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-be", "BOM and utf-16-be"])
@pytest.mark.parametrize(
    "fields",
    [
        JOB | {"data": {"prompt": LONG}},
        {"data": {"prompt": LONG}, "id": "a1"},
        {"data": {"prompt": LONG}, "id": "a1", "type": "completion", "more": NESTED},
        {"data": {"prompt": LONG + ', "id": "b1"}'}, "id": "a1"},
        {"data": {"prompt": LONG, "id": "b1"}, "id": "a1", "more": ', "id": "b1"}'},
    ],
)
def test_the_id_of_what_is_too_large_is_found_at_either_end(fields: dict[str, Any], encoding: str) -> None:
    mark, encoding = ("\ufeff", encoding[8:]) if encoding.startswith("BOM") else ("", encoding)
    refused = refusal((mark + json.dumps(fields)).encode(encoding), max_bytes=1000)
    assert refused.job_id == "a1"
    assert isinstance(refused.error, TooLargeError)
    assert "MAX_JOB_BYTES allows 1000" in str(refused.error)


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps({"more": LONG, "id": "a1", "data": {"prompt": LONG}}),
        json.dumps({"data": {"prompt": LONG, "id": "a1"}}),
        json.dumps([LONG, {"id": "a1"}]),
        json.dumps({"data": {"prompt": LONG}, "id": "a1"})[:-1],
        json.dumps({"data": {"prompt": LONG}, "id": "a b"}),
        json.dumps({"id": "a b", "data": LONG + '", "id": "a1"}'}),
    ],
)
def test_what_is_too_large_and_shows_no_id_at_its_ends_is_unusable(payload: str) -> None:
    with pytest.raises(UnusablePayloadError, match="MAX_JOB_BYTES allows 1000"):
        parse_job(payload.encode(), max_bytes=1000)


@pytest.mark.parametrize("value", ["{}", "[]", '""', "0", '{"a":[]}', '[[[""]]]'])
def test_more_values_than_a_job_may_hold_are_not_built(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = MOST_VALUES if value == "{}" else 1000
    monkeypatch.setattr(payload_module, "MOST_VALUES", most)
    values = ",".join([value] * (most + 1))
    payload = f'{{"id":"a1","type":"completion","data":{{"prompt":"x","zz":[{values}]}}}}'.encode()
    monkeypatch.setattr(payload_module.orjson, "loads", never)
    monkeypatch.setattr(payload_module.json, "loads", never)
    refused = refusal(payload, max_bytes=100_000_000)
    assert refused.job_id == "a1"
    assert str(refused.error) == f"it holds more than {most} values"
    assert job_id_in(payload) == "a1"


def never(*_: object, **__: object) -> object:
    raise AssertionError("it was read")


@pytest.mark.parametrize("text", ['a,"b",{[', "\\,", '\\"{,'])
def test_commas_and_brackets_of_a_text_are_no_values(text: str) -> None:
    text *= MOST_VALUES // 2
    payload = json.dumps({"id": "a1", "type": "completion", "data": {"prompt": text}}).encode()
    assert prompt_of(payload, max_bytes=100_000_000) == text


@pytest.mark.parametrize("digits", [4000, 5000, 100_000])
def test_a_number_that_json_cannot_hold_is_answered(digits: int) -> None:
    number = "9" * digits
    for payload in (
        f'{{"id":"a1","type":"completion","data":{{"prompt":"x","max_tokens":{number}}}}}',
        f'{{"data":{{"prompt":"x","max_tokens":{number}}},"type":"completion","id":"a1"}}',
    ):
        refused = refusal(payload.encode(), max_bytes=1_000_000)
        assert (refused.job_id, refused.error.code) == ("a1", "bad_job")
        assert "nested" not in str(refused.error)


@given(st.data())
def test_damage_behind_the_id_hides_it_from_nobody(data: st.DataObject) -> None:
    payload = bytearray(orjson.dumps(JOB | {"data": {"prompt": data.draw(st.text(max_size=40)), "seed": 1}}))
    behind = payload.index(b"a1") + 3
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(behind, len(payload) - 1))
        match data.draw(st.sampled_from(["replaced", "left out", "put in", "cut off"])):
            case "replaced":
                payload[place] = data.draw(st.integers(0, 255))
            case "left out" if len(payload) > behind + 1:
                del payload[place]
            case "put in":
                payload.insert(place, data.draw(st.integers(0, 255)))
            case _ if place > behind:
                del payload[place:]
            case _:
                pass
    assert job_id_in(bytes(payload)) in {"a1", None if b'"id"' in payload[behind:] else "a1"}
    with suppress(RefusedJobError):
        assert parse_job(bytes(payload), max_bytes=10_000).id == "a1"
