from __future__ import annotations

from typing import Any

import pytest

from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.text_parameters import CompletionParameters

ABSURD: list[tuple[dict[str, Any], str]] = [
    ({"stop": ["x"] * 65}, "64 strings at most"),
    ({"stop": "x" * 5000}, "4096 characters together"),
    ({"samplers": ["top_k"] * 33}, "at most 32"),
    ({"dry_sequence_breakers": ["x"] * 65}, "at most 64"),
    ({"dry_sequence_breakers": ["x" * 257]}, "at most 256"),
    ({"lora": [{"id": 0, "scale": 1}] * 65}, "at most 64"),
    ({"logit_bias": [[n, 1] for n in range(5000)]}, "4096 entries at most"),
    ({"grammar": 'root ::= "' + "x" * 300_000 + '"'}, "262144 characters at most"),
    ({"grammar": "root ::= " + "(" * 201 + '"a"' + ")" * 201}, "200 levels deep at most"),
    ({"grammar": 'root ::= "a"{1,100000}'}, "10000 times at most"),
    ({"grammar": 'root ::= "a"{ 99999999999999999999 }'}, "10000 times at most"),
    ({"grammar": "%llguidance {}\nstart: /(?=a)b/"}, "GBNF is wanted"),
    ({"grammar": 'root ::= "a"', "json_schema": {}}, "exclude each other"),
    ({"logit_bias": [[-5, 1]]}, "0 or more"),
    *(
        ({"logit_bias": bias}, "a bias is a number, or false")
        for bias in (
            [["x"]], [[1, "y"]], [[1, True]], [[True, 1]], [["", 1]], {"a": "b"}, [5], [[1, None]], [[1.5, 1]],
            [[1, 2, 3]],
        )
    ),
]  # fmt: skip
TAKEN: list[dict[str, Any]] = [
    {"stop": ["x" * 64] * 64},
    {"logit_bias": [[1, -100], ["word", 0.5], [2, False]]},
    {"logit_bias": {"50256": -100, "word": False}},
    {"grammar": 'root ::= "(" [(] "{100000}" # ((({99999}\n' + '"x"{1,10000} ("a" | "b")*'},
]


@pytest.mark.parametrize(("asked", "reason"), ABSURD)
def test_what_is_absurd_or_would_be_dropped_in_silence_is_refused_with_the_limit(
    asked: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        CompletionParameters.model_validate({"prompt": "x"} | asked)
    assert reason in str(refused.value)


@pytest.mark.parametrize("asked", TAKEN)
def test_what_is_usual_is_taken(asked: dict[str, Any]) -> None:
    taken = CompletionParameters.model_validate({"prompt": "x"} | asked)
    assert taken.model_dump(include=set(asked)) == asked


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


def test_a_tool_with_an_absurd_schema_is_refused() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(200)}}
    with pytest.raises(ValueError, match="nested deeper than 100 levels"):
        ChatCompletionParameters.model_validate({"messages": [{"role": "user", "content": "x"}], "tools": [tool]})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "data:image/png;base64,AAAA"},
        {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}},
        {"type": "image", "source": {"type": "base64", "data": "AAAA"}},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
    ],
)
def test_an_image_in_another_form_is_told_which_form_is_wanted(part: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="never fetched") as refused:
        ChatCompletionParameters.model_validate({"messages": [{"role": "user", "content": [part]}]})
    assert '{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}' in str(refused.value)


def test_a_grammar_beside_a_response_format_is_refused() -> None:
    asked = {"messages": [{"role": "user", "content": "x"}], "grammar": 'root ::= "a"'}
    with pytest.raises(ValueError, match="exclude each other"):
        ChatCompletionParameters.model_validate(asked | {"response_format": {"type": "json_object"}})
    ChatCompletionParameters.model_validate(asked | {"response_format": {"type": "text"}})
