from __future__ import annotations

from typing import Any

import pytest

from velesio_worker.wire.answer_schemas import MOST_OPTIONAL, checked_schema, for_engine
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.text_parameters import CompletionParameters


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "string", "pattern": "^(?=a)b$"}, "the schema: the pattern has (?="),
    ({"properties": {"a": {"items": {"pattern": "(?<!a)b"}}}}, "properties.a.items: the pattern has (?<!"),
    ({"anyOf": [{}, {"pattern": r"^(a)\1$"}]}, r"anyOf.1: the pattern has \1"),
    ({"pattern": r"[^]]\bfoo"}, r"the pattern has \b"),
    ({"patternProperties": {"^(?!a)": {}}}, "the pattern has (?!"),
    ({"pattern": "a" * 10_000}, "8192 characters"),
    ({"$ref": "https://example.org/x.json"}, "nothing is fetched"),
    ({"items": {"$ref": "other.json"}}, "items: $ref: other.json"),
    ({"$ref": "#/$defs/nope"}, "there is no #/$defs/nope"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "leads to itself"),
    ({"type": "array", "maxItems": 100_000}, "maxItems can be enforced up to 10000"),
    ({"type": "array", "items": {"minItems": 6000}, "maxItems": 6000}, "come to 12000"),
    ({"type": "string", "maxLength": 10**12}, "maxLength can be enforced up to"),
    ({"minimum": 3, "maximum": 1}, "minimum is above maximum"),
    ({"enum": []}, "enum can be enforced with 1 to"),
    ({"properties": {f"p{n}": {} for n in range(MOST_OPTIONAL + 1)}}, "that are not required"),
    (nested(200), "nested deeper than 100 levels"),
    ({"anyOf": [{} for _ in range(6000)]}, "6001 schemas within"),
    ({"x-guidance": {"bad": 1}}, "x-guidance"),
]
TAKEN: list[dict[str, Any]] = [
    {},
    {"pattern": r"[(?=a)\]]\(?=x\\b"},
    {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "object", "properties": {"n": {"$ref": "#"}}}}},
    {"$ref": "#here", "$defs": {"a": {"$anchor": "here"}}},
    {"$id": "https://example.org/x", "items": {"$ref": "https://example.org/x#/$defs/a"}, "$defs": {"a": {}}},
    {"properties": {f"p{n}": {} for n in range(900)}, "required": [f"p{n}" for n in range(900)]},
    {"maxItems": 10_000, "minimum": 1, "maximum": 10**30, "enum": [1], "format": ["odd"], "required": "odd"},
    nested(40),
]


@pytest.mark.parametrize(("schema", "reason"), REFUSED)
def test_a_schema_that_no_engine_enforces_is_refused_with_its_place(schema: dict[str, Any], reason: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(ValueError, match="json_schema") as refused:
        CompletionParameters.model_validate({"prompt": "x", "json_schema": schema})
    assert reason in str(refused.value)
    with pytest.raises(ValueError, match="response_format") as refused:
        ChatCompletionParameters.model_validate({"messages": messages, "response_format": wanted})
    assert reason in str(refused.value)


@pytest.mark.parametrize("schema", TAKEN)
def test_other_schemas_are_taken_as_they_are(schema: dict[str, Any]) -> None:
    assert checked_schema(schema) is schema


PARTLY: list[dict[str, Any]] = [
    {"uniqueItems": True},
    {"items": {"not": {}}},
    {"properties": {"a": {"format": "uri"}}},
    {"oneOf": [{}, {}]},
]


@pytest.mark.parametrize("schema", PARTLY)
def test_what_the_engine_cannot_enforce_does_not_keep_it_from_the_rest(schema: dict[str, Any]) -> None:
    assert for_engine(schema) == schema | {"x-guidance": {"lenient": True, "coerce_one_of": True}}
    assert for_engine({"type": "object", "properties": {"not": {}}}) == {"type": "object", "properties": {"not": {}}}
