from __future__ import annotations

from typing import Any

import pytest

from velesio_worker.wire.answer_schemas import lightened_tool
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.text_parameters import CompletionParameters

DOUBLING = "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1} r{n + 1}\n" for n in range(20)) + 'r20 ::= "a"?\n'
JSON_GRAMMAR = r"""
root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
ABSURD: list[tuple[dict[str, Any], str]] = [
    ({"stop": ["x"] * 65}, "at most 64"),
    ({"stop": "x" * 5000}, "at most 4096"),
    ({"stop": ["x" * 1000] * 5}, "4096 characters together"),
    ({"samplers": ["top_k"] * 13}, "at most 12"),
    ({"samplers": ["dry", "top_k", "dry"]}, "each sampler may be named once"),
    ({"samplers": ["typ_p", "typical_p"]}, "each sampler may be named once"),
    *(
        ({"samplers": samplers, **more}, "top_k, of 1 to 1000, comes before it")
        for samplers, more in (
            (["infill"], {}),
            (["infill", "top_k"], {}),
            (["top_k", "infill"], {"top_k": 0}),
            (["top_k", "infill"], {"top_k": 1001}),
        )
    ),
    ({"dry_sequence_breakers": ["x"] * 17}, "at most 16"),
    ({"dry_sequence_breakers": ["x" * 33] * 2}, "more than 64 characters"),
    ({"dry_penalty_last_n": 2**20 + 1}, "less than or equal to 1048576"),
    ({"repeat_last_n": 2**20 + 1}, "less than or equal to 1048576"),
    ({"temperature": 1e7}, "less than or equal to 1000000"),
    ({"presence_penalty": -1e7}, "greater than or equal to -1000000"),
    ({"prompt": [0] * 500_001}, "more than 500000 values"),
    ({"prompt": "x" * (8 * 2**20 + 1)}, "more than 8388608 characters"),
    ({"user": ["x"] * 1025}, "more than 1024 values"),
    ({"lora": [{"id": 0, "scale": 1}] * 65}, "at most 64"),
    ({"logit_bias": [[n, 1] for n in range(5000)]}, "4096 entries at most"),
    ({"grammar": 'root ::= "' + "x" * 300_000 + '"'}, "at most 262144 characters"),
    ({"grammar": "root ::= " + "(" * 201 + '"a"' + ")" * 201}, "200 levels deep at most"),
    ({"grammar": 'root ::= "a"{1,100000}'}, "10000 times at most"),
    ({"grammar": 'root ::= "a"{ 99999999999999999999 }'}, "10000 times at most"),
    ({"grammar": 'root ::= ((("a"{100}){100}){100})'}, "262144 characters at most"),
    ({"grammar": "root ::= " + '"a"{0,1999} ' * 10_000}, "262144 characters at most"),
    ({"grammar": "root ::= " + '"a"? ' * 70}, "64 ways"),
    ({"grammar": 'root ::= ("a" | "b"?){70}'}, "64 ways"),
    ({"grammar": 'root ::= "x" (' + '"a" | ' * 600 + '"b")'}, "512 ways"),
    ({"grammar": DOUBLING}, "ways"),
    ({"grammar": "".join(f'r{n} ::= "a"\n' for n in range(5010))}, "5000 rules at most"),
    ({"logit_bias": [["x" * 257, 1]]}, "a text of 256 characters at most"),
    ({"logit_bias": [[2**31, 1]]}, "32 bits"),
    ({"logit_bias": {"a": 1e7}}, "a bias is a number"),
    ({"json_schema": {"pattern": "^((a{100}){100}){100}$"}}, "repeats something 10000 times at most"),
    ({"json_schema": {"anyOf": [{"pattern": "a{6000}"}] * 2}}, "10000 times at most, all together"),
    ({"json_schema": {"anyOf": [{"multipleOf": 60_000}] * 2}}, "multipleOf come to 120000; 100000 together"),
    ({"json_schema": {"type": "array", "minItems": -20_000}}, "minItems can be enforced up to 10000"),
    ({"json_schema": {"const": "x" * 2**21}}, "more than 1048576 characters"),
    ({"json_schema": {"enum": [[0] * 100] * 600}}, "more than 50000 values"),
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
    {"grammar": JSON_GRAMMAR},
    {"grammar": "root ::= " + " | ".join(f'"choice {n}"' for n in range(500))},
    {"grammar": "root ::= " + '"a"? ' * 60},
    {"grammar": "root ::= " + "(" * 199 + '"a"' + ")*" * 199},
    {"grammar": "root ::= " + '("a") ' * 4000},
    {"json_schema": {"type": "string", "pattern": "^([a-z]{1,64}[.]){0,16}[a-z]{2,63}$"}},
    {"samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]},
    {"samplers": ["top_k", "infill"], "top_k": 1000},
    {"dry_sequence_breakers": ["\n", ":", '"', "*"]},
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


def of_chat(**fields: Any) -> ChatCompletionParameters:
    return ChatCompletionParameters.model_validate({"messages": [{"role": "user", "content": "x"}]} | fields)


def tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


MESSAGE: dict[str, Any] = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"messages": [MESSAGE] * 4097}, "at most 4096"),
        ({"messages": [MESSAGE | {"content": [{"type": "text", "text": "x"}] * 40_000}]}, "more than 100000 values"),
        ({"messages": [MESSAGE | {"tool_calls": [{"id": "x"}] * 60_000}]}, "more than 100000 values"),
        ({"tools": [tool({})] * 513}, "at most 512"),
        ({"tools": [tool({"type": "array", "minItems": 10**8})]}, "parameters: minItems can be enforced up to 10000"),
        ({"tools": [tool({"properties": {"a": {"maxLength": 10**8}}})]}, "parameters.properties.a: maxLength"),
        ({"tools": [tool({"pattern": "((a{100}){100}){100}"})]}, "repeats something 10000 times at most"),
        ({"tools": [tool({"enum": list(range(20_000))})]}, "1 to 10000 values"),
        ({"tool_choice": {"type": "x" * 2000}}, "more than 1024 characters"),
        ({"chat_template_kwargs": {str(n): n for n in range(1025)}}, "more than 1024 values"),
        (
            {"response_format": {"type": "json_schema", "schema": {"type": "string", "minLength": 10**8}}},
            "minLength can",
        ),
    ],
)
def test_what_is_absurd_in_a_chat_is_refused_with_the_limit(asked: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        of_chat(**asked)


LIGHTENED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"type": "array", "minItems": 10**8, "maxItems": 5}, {"type": "array", "maxItems": 5}),
    ({"properties": {"a": {"maxLength": 524_288}}}, {"properties": {"a": {}}}),
    ({"anyOf": [{"pattern": "((a{100}){100}){100}"}]}, {"anyOf": [{}]}),
    ({"items": {"type": "string", "pattern": "^(?!a)b$"}}, {"items": {"type": "string"}}),
    ({"patternProperties": {"(?=a)": {}, "^b": {"enum": []}}}, {"patternProperties": {"^b": {}}}),
    ({"enum": list(range(20_000))}, {}),
    (
        {"properties": {"enum": {"enum": ["a"], "maxLength": 3}}},
        {"properties": {"enum": {"enum": ["a"], "maxLength": 3}}},
    ),
    ({"properties": 3, "pattern": 3, "maxLength": "many"}, {"properties": 3, "pattern": 3, "maxLength": "many"}),
]


@pytest.mark.parametrize(("heavy", "light"), LIGHTENED)
def test_a_tool_without_what_would_be_refused_is_taken(heavy: dict[str, Any], light: dict[str, Any]) -> None:
    function = {"name": "f", "parameters": heavy}
    before = repr(function)
    lightened = lightened_tool(function)
    assert lightened == {"name": "f", "parameters": light}
    assert repr(function) == before
    of_chat(tools=[{"type": "function", "function": lightened}])


def test_a_tool_that_is_too_large_as_a_whole_stays_as_it_is_and_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    assert lightened_tool({"name": "f", "parameters": deep})["parameters"] is deep
    assert lightened_tool({"name": "f"}) == {"name": "f"}
    with pytest.raises(ValueError, match="nested deeper"):
        of_chat(tools=[tool(deep)])


def test_what_is_usual_in_a_chat_is_taken() -> None:
    of_chat(
        messages=[MESSAGE] * 4000,
        tools=[tool({"type": "object", "properties": {"a": {"type": "string", "maxLength": 100, "pattern": "^a+$"}}})]
        * 99,
        chat_template_kwargs={"enable_thinking": False},
    )
