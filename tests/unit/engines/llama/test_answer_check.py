from __future__ import annotations

from typing import Any

import pytest

from tests.doubles.engine import Answer, EngineDouble, sse
from tests.support.llama_chunks import (
    CHAT,
    COMPLETION,
    FIRST_DELTA,
    chat,
    chat_end,
    completion,
    conversation,
    last_piece,
    piece,
    run,
)
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.answers import AnswerCheck
from velesio_worker.wire.errors import BadJobError

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        ('{"a": 1}', "stop", ""),
        ('{"a": "x"}', "stop", "a: "),
        ("{}", "stop", '"a" is a required property'),
        ("```json", "stop", "it is no JSON"),
        ("", "stop", "it is no JSON"),
        ('{"a":', "length", ""),
        (" tru", "length", ""),
        ("-", "length", ""),
        ("", "length", ""),
        ("The answer", "length", "it does not begin as JSON"),
        ("\n```", "length", "it does not begin as JSON"),
        ("The answer", "cancelled", ""),
    ],
)
async def test_an_answer_is_compared_with_its_schema(text: str, reason: str, said: str) -> None:
    check = AnswerCheck(SCHEMA)
    await check.prepare()
    breach = await check.breach(text, reason)
    assert bool(breach) == bool(said)
    assert said in breach


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strange"},
        {"minLength": -1},
        {"properties": []},
        {"pattern": "^(a$"},
        {"pattern": "^(?:(?:a{1,1000}){1,1000}){1,1000}$"},
        {"$schema": "https://example.org/schema"},
    ],
)
async def test_what_is_no_schema_is_a_bad_job(schema: dict[str, Any]) -> None:
    with pytest.raises(BadJobError, match="The JSON schema cannot be enforced"):
        await AnswerCheck(schema).prepare()


async def test_a_pattern_that_takes_others_for_ever_takes_a_moment() -> None:
    check = AnswerCheck({"type": "string", "pattern": "^(a+)+$"})
    await check.prepare()
    assert await check.breach(f'"{"a" * 100_000}b"', "stop")


async def test_an_answer_that_breaches_its_schema_is_done_with_a_warning(
    double: EngineDouble, http: EngineHTTP
) -> None:
    double.answers[COMPLETION] = [Answer([sse(piece("no JSON"), last_piece())])]
    _, _, done = await run(completion(http, json_schema=SCHEMA))
    warnings = ["The answer does not obey the JSON schema: it is no JSON."]
    assert done.result["warnings"] == done.entry()["warnings"] == warnings


async def test_an_answer_that_obeys_has_no_warnings(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[CHAT] = [Answer([sse(FIRST_DELTA, chat({"content": '{"a":1}'}), *chat_end())])]
    wanted = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    _, _, done = await run(conversation(http, response_format=wanted))
    assert "warnings" not in done.result
    assert "warnings" not in done.entry()
    assert double.requests[-1].body["response_format"] == wanted


async def test_a_chat_that_breaches_what_its_engine_cannot_enforce_says_so(
    double: EngineDouble, http: EngineHTTP
) -> None:
    schema = {"type": "array", "uniqueItems": True}
    double.answers[CHAT] = [Answer([sse(FIRST_DELTA, chat({"content": "[1, 1]"}), *chat_end())])]
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    _, _, done = await run(conversation(http, response_format=wanted))
    assert "non-unique" in done.result["warnings"][0]
    sent = double.requests[-1].body["response_format"]["json_schema"]["schema"]
    assert sent == schema | {"x-guidance": {"lenient": True, "coerce_one_of": True}}
