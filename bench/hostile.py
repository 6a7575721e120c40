"""What strangers may send: jobs, damage to a queue's keys, and answers of an engine, drawn by Hypothesis.

Small in the making and dear in the running: what is large is a small thing many times over.
"""

# Any JSON is drawn here.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import json
from typing import Any, Final, cast

from hypothesis import strategies as st

from velesio_worker.wire.jobs import JobType

MOST_BYTES: Final = 1024 * 1024
TIMES: Final = st.sampled_from([*[1, 1, 1, 2, 3, 8, 30] * 3, 100, 1000, 10_000, 100_000])
"""How often a small thing is repeated; mostly not so often that it is refused."""

COUNTS: Final = st.sampled_from(
    [*[0, 1, 2, 3, 8, 30, 100] * 4, -1, 1000, 9999, 10_001, 10**6, 10**8, 2**31 - 1, 2**31, 2**63, 10**30]
)
ODD: Final = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\x1b[31m",
        "\ud800",
        "\u202e",
        "\n",
        "'",
        '"',
        "\\",
        "{",
        "[" * 300,
        "(" * 3000,
        "é" * 50,
        "🦆" * 9,
    ]
)
LEAVES: Final = st.none() | st.booleans() | COUNTS | st.floats() | ODD | st.text(max_size=12)
VALUES: Final = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | ODD, inner, max_size=3)
)


def many(one: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Draw a list of one thing, often repeated."""
    return st.builds(lambda value, times: [value] * _fitting(value, times), one, TIMES)


def _fitting(value: Any, times: int) -> int:
    """Return how often a value may be there at most."""
    return min(times, MOST_BYTES // (len(json.dumps(value)) + 1))


def deep(value: Any, wrap: str, times: int) -> Any:
    """Put a value into lists or objects, many levels deep."""
    for _ in range(min(times, 1000)):
        value = [value] if wrap == "list" else {wrap: value}
    return value


LONG: Final = st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=8) | ODD, TIMES)

# Regular expressions, grammars and schemas: what an engine compiles.
TIMES_OF: Final = st.sampled_from(
    ["*", "+", "?", "{2}", "{0,3}", "{100}", "{1,1000}", "{9999}", "{1000000}", "{5,}", ""]
)
PATTERNS: Final = st.recursive(
    st.sampled_from(["a", "[a-z]", ".", "\\d", "(a|b?)", "\\w", "[^x]", "\\p{L}", "^a", "b$", "(?=x)", "(", "\\1"]),
    lambda inner: (
        st.builds(lambda one, times: f"({one}){times}", inner, TIMES_OF)
        | st.builds(lambda one, other: f"({one}|{other})", inner, inner)
        | st.builds(lambda one, times: one * _fitting(one, times), inner, TIMES)
    ),
    max_leaves=6,
)
GROUPS: Final = st.recursive(
    st.sampled_from(['"a"', "[a-z]", '"\\x41"', ".", "root", "one", '""', "[^\\n]", "nowhere", '"' + "b" * 500 + '"']),
    lambda inner: (
        st.builds(lambda one, times: f"({one}){times}", inner, TIMES_OF)
        | st.builds(lambda one, other: f"({one} | {other})", inner, inner)
        | st.builds(lambda one, times: "(" * min(times, 10_000) + one + ")" * min(times, 10_000), inner, TIMES)
        | st.builds(lambda one, times: " ".join([one] * _fitting(one, times)), inner, TIMES)
    ),
    max_leaves=6,
)


def _grammar(root: str, one: str, rules: int) -> str:
    chain = [f"r{n} ::= r{n + 1} r{n + 1} | {one}" for n in range(min(rules, 10_000))]
    return "\n".join([f"root ::= {root} one", f"one ::= {one}", *chain, f"r{len(chain)} ::= {one}"])[:MOST_BYTES]


GRAMMARS: Final = st.builds(_grammar, GROUPS, GROUPS, TIMES) | LONG


def _chain(times: int) -> dict[str, Any]:
    """Twice the next, and so on: in full it has 2 ** times ends."""
    times = min(times, 1000)
    chain = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(times)}
    return {"$ref": "#/$defs/d0", "$defs": chain | {f"d{times}": {"type": "string"}}}


NAMES: Final = st.sampled_from(["a", "b", "$ref", "type", "items", "x" * 500, "é", ""])


def _within(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner}, optional={"minItems": COUNTS, "maxItems": COUNTS}
        )
        | st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(NAMES, inner, max_size=4)},
            optional={"required": st.lists(NAMES, max_size=4), "additionalProperties": inner, "minProperties": COUNTS},
        )
        | st.builds(lambda key, of: {key: of}, st.sampled_from(["anyOf", "allOf", "oneOf", "prefixItems"]), many(inner))
        | st.builds(lambda key, one: {key: one}, st.sampled_from(["not", "if", "items", "contains"]), inner)
        | st.builds(deep, inner, st.sampled_from(["items", "not", "additionalProperties"]), TIMES)
        | st.builds(
            lambda one, times: {"type": "object", "properties": {f"p{n}": one for n in range(_fitting(one, times))}},
            inner,
            TIMES,
        )
    )


SCHEMAS: Final = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "boolean", "null", "banana"])},
        optional={
            "minLength": COUNTS,
            "maxLength": COUNTS,
            "minimum": COUNTS | st.floats(),
            "multipleOf": COUNTS,
            "pattern": PATTERNS,
            "format": st.sampled_from(["date", "uuid", "email", "banana"]),
        },
    )
    | st.builds(lambda value: {"const": value}, VALUES | LONG)
    | st.builds(lambda values: {"enum": values}, many(LEAVES) | many(LONG.filter(lambda text: len(text) < 1000)))
    | st.builds(lambda pattern: {"type": "string", "pattern": pattern}, PATTERNS)
    | st.builds(_chain, TIMES)
    | st.sampled_from([{"$ref": "#"}, {"$ref": "#/nowhere"}, {"$ref": "http://127.0.0.1:9/x"}, True, False]),
    _within,
    max_leaves=5,
)
CONTENTS: Final = (
    LONG
    | many(st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=9)))
    | st.builds(lambda url: [{"type": "image_url", "image_url": {"url": url}}], LONG)
    | VALUES
)
MESSAGES: Final = many(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool", "banana"]), "content": CONTENTS},
        optional={
            "tool_calls": many(st.just({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}})),
            "reasoning_content": LONG,
        },
    )
)
TOOLS: Final = many(
    st.builds(
        lambda name, schema: {"type": "function", "function": {"name": name, "parameters": schema}},
        st.sampled_from(["f", "", "x" * 300]),
        SCHEMAS,
    )
)
SHAPES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "grammar": GRAMMARS,
    "json_schema": SCHEMAS,
    "response_format": SCHEMAS.map(lambda schema: {"type": "json_schema", "json_schema": {"schema": schema}}),
    "messages": MESSAGES,
    "tools": TOOLS,
    "stop": many(LONG),
    "samplers": many(st.sampled_from(["penalties", "dry", "top_k", "min_p", "xtc", "infill", "banana"])),
    "logit_bias": many(st.builds(lambda token, bias: [token, bias], COUNTS | ODD, st.floats() | st.booleans())),
    "dry_sequence_breakers": many(LONG),
    "prompt": LONG | many(COUNTS) | st.just("Once upon a time"),
    "input": LONG | many(LONG),
    "documents": many(LONG),
    "tokens": many(COUNTS),
    "content": LONG,
    "input_extra": many(st.builds(lambda text: {"text": text, "filename": text}, LONG)),
    "lora": many(st.builds(lambda number: {"id": number, "scale": 1}, COUNTS)),
    "chat_template_kwargs": st.dictionaries(st.sampled_from(["enable_thinking", "messages", "x"]), VALUES, max_size=3),
}
"""What the parameters that an engine takes apart are drawn from; all others are odd values."""

ID: Final = "fuzz-0000000000"
"""Stands for the id of a job; whoever pushes it puts one of the same length there."""

NEEDED: Final[dict[JobType, dict[str, Any]]] = {
    JobType.COMPLETION: {"prompt": "Once upon a time"},
    JobType.CHAT_COMPLETION: {"messages": [{"role": "user", "content": "Hello"}]},
    JobType.INFILL: {"input_prefix": "x", "input_suffix": "y"},
    JobType.EMBEDDING: {"input": "x"},
    JobType.RERANK: {"query": "x", "documents": ["y"]},
    JobType.TOKENIZE: {"content": "x"},
    JobType.DETOKENIZE: {"tokens": [1]},
    JobType.COUNT_TOKENS: {"prompt": "x"},
    JobType.APPLY_TEMPLATE: {"messages": [{"role": "user", "content": "x"}]},
}
"""What each type of text job cannot do without."""


@st.composite
def _data(draw: st.DrawFn, type_: JobType) -> dict[str, Any]:
    known = sorted(type_.parameters.model_fields)
    writes = "max_tokens" in known
    data = NEEDED[type_] | ({"max_tokens": draw(st.sampled_from([1, 4, 24]))} if writes else {})
    shaped = sorted(SHAPES.keys() & known)
    for name in draw(st.lists(st.sampled_from(shaped), min_size=1, max_size=2, unique=True)) if shaped else ():
        data[name] = draw(SHAPES[name])
        if (type_, name) == (JobType.EMBEDDING, "content"):
            del data["input"]
    if draw(st.integers(0, 3)) == 0:  # mostly refused
        for name in draw(st.lists(st.sampled_from(known) | ODD, min_size=1, max_size=3, unique=True)):
            data[name] = draw(COUNTS | VALUES)
    return data


ENVELOPE: Final = {
    **dict.fromkeys(("timeout", "expires_at", "on_crash", "cache", "traceparent", "created_at"), VALUES),
    "max_attempts": COUNTS,
    "worker": LONG,
}


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a job without its id: any type that needs no other engine, any parameters."""
    type_ = draw(st.sampled_from([*NEEDED, *[JobType.COMPLETION, JobType.CHAT_COMPLETION] * 4]))
    extra = draw(st.fixed_dictionaries({}, optional=ENVELOPE)) if draw(st.integers(0, 5)) == 0 else {}
    return {"type": type_, **extra, "data": draw(_data(type_) if draw(st.integers(0, 30)) else VALUES)}


def _pushed(job: dict[str, Any]) -> bytes:
    whole = json.dumps({"id": ID, **job}).encode()
    return (
        whole
        if len(whole) <= MOST_BYTES
        else json.dumps({"id": ID, "type": job["type"], "data": NEEDED[job["type"]]}).encode()
    )


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Draw what is pushed under the id ``ID``: mostly a job, sometimes what became of it on a bad line."""
    whole = _pushed(draw(jobs()))
    if draw(st.integers(0, 9)):
        return whole
    place = draw(st.integers(0, len(whole)))
    match draw(st.integers(0, 4)):
        case 0:
            return whole[:place]
        case 1:
            return whole[:place] + draw(st.binary(max_size=8)) + whole[place:]
        case 2:
            return draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"[", b" " * 100_000])) + whole
        case 3:
            return whole + draw(st.sampled_from([b"}", b"\0", b"," * 100_000, b"{}" * 50_000]))
        case _:
            odd = draw(st.sampled_from([b'"x":NaN,"data"', b'"x":1' + b"0" * 5000 + b',"data"']))
            return whole.replace(b'"data"', odd)


# Damage to the keys of a queue and of its jobs. What takes a job's bytes away is no damage but a loss, so none does.
NEW_VALUES: Final = st.sampled_from(
    ["", "x", "-1", "0", "1e308", "nan", "9" * 30, "{}", "[]", "null", "\0\xff", "w:" * 200]
)
FIELDS: Final = st.sampled_from(
    ["attempt", "base", "returned", "owner", "slot", "nonce", "finished_by", "cancel", "event", "data", "kinds",
     "slots", "text_state", "{llama_queue}:active:x:text-0", "{other}:list", "x"]
)  # fmt: skip
SCORES: Final = st.sampled_from([0.0, 1.0, -1e300, 1e300, float("inf"), 1e12])
IDS: Final = st.sampled_from(
    ["*", "0-1", "1-0", "999-0", "99999999999999-0", "18446744073709551615-18446744073709551615"]
)
DAMAGE: Final = st.one_of(
    st.tuples(st.just("hset"), FIELDS, NEW_VALUES),
    st.tuples(st.just("hdel"), FIELDS),
    st.tuples(st.just("zadd"), SCORES, NEW_VALUES),
    st.tuples(st.just("zrem"), NEW_VALUES),
    st.tuples(st.just("xadd"), IDS, FIELDS, NEW_VALUES),
    st.tuples(st.just("xtrim"), st.just("MAXLEN"), st.just(0)),
    st.tuples(st.just("lpush"), NEW_VALUES),
    st.tuples(st.just("rpush"), NEW_VALUES),
    st.tuples(st.just("pexpire"), st.sampled_from([1, 10**12])),
    st.tuples(st.just("set"), NEW_VALUES),
    st.tuples(st.just("del")),
)
"""A command and what follows the key."""

HARMLESS_TO_LISTS: Final = frozenset({"lpush", "rpush"})

# What an engine that is nobody's friend answers.
_PIECES: Final[list[dict[str, Any]]] = [
    {"content": "a"},
    {"content": 5},
    {"content": {"a": [1]}},
    {"content": "x" * 100_000},
    {"content": "a", "completion_probabilities": [{"id": 1}] * 100},
    {"prompt_progress": {"processed": 1, "total": 2, "cache": 0}},
    {"prompt_progress": 5},
    {"error": {"message": "A" * 100_000, "code": "x"}},
    {"content": "", "stop": True, "stop_type": "eos", "tokens_evaluated": "a", "tokens_predicted": -9},
    {"content": "", "stop": True, "stop_type": "limit", "tokens_evaluated": 2**64 - 1, "tokens_predicted": 2**64 - 1},
    {"content": "", "stop": True, "timings": cast("dict[str, Any]", deep(1, "list", 300))},
]
EVENTS: Final = (
    st.sampled_from(_PIECES).map(lambda piece: b"data: " + json.dumps(piece).encode() + b"\n\n")
    | VALUES.map(lambda value: b"data: " + json.dumps(value).encode() + b"\n\n")
    | st.binary(max_size=60)
    | st.sampled_from([b": comment\n\n", b"\n" * 1000, b"data: ", b"data: [DONE]\n\n", b"data: {", b"a" * 100_000])
)
BODIES: Final = st.lists(
    st.builds(lambda event, times: event * min(times, 10**7 // len(event or b"x")), EVENTS, TIMES), max_size=6
)
HEADS: Final = st.sampled_from([
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3221225472\r\n\r\n",
    b"HTTP/1.1 500 X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"",
])  # fmt: skip
ANSWERS: Final[st.SearchStrategy[tuple[bytes, list[bytes]]]] = st.tuples(HEADS, BODIES)
"""The first bytes of an answer, and what follows them."""
