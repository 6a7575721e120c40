"""JSON schemas that an answer has to obey: what no engine can hold an answer to, said before it is sent.

llama-server answers freely, and says so in its log alone, where it cannot compile a schema. The limits are those of its
build b11434 with LLGuidance, found by trying.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any, Final, cast
from urllib.parse import unquote

from velesio_worker.wire.bounded import within
from velesio_worker.wire.limits import (
    LONGEST_PATTERN,
    MOST_ENUM,
    MOST_MULTIPLES,
    MOST_PATTERN_REPEATED,
    MOST_SCHEMA_CHARACTERS,
    MOST_SCHEMA_DEPTH,
    MOST_SCHEMA_ITEMS,
    MOST_SCHEMA_LENGTH,
    MOST_SCHEMA_VALUES,
    MOST_SCHEMAS,
    MOST_TOOL_REPEATED,
)

Schema = dict[str, Any]

MOST_OPTIONAL: Final = 400
"""Properties of one object that are not required: each is four rows of 2,000 that its parser has."""

_COUNTS: Final = {
    **dict.fromkeys(("minLength", "maxLength"), MOST_SCHEMA_LENGTH),
    **dict.fromkeys(("minProperties", "maxProperties", "minItems", "maxItems"), MOST_SCHEMA_ITEMS),
    "multipleOf": MOST_MULTIPLES,
}
WITHIN_SCHEMA: Final = within(MOST_SCHEMA_VALUES, MOST_SCHEMA_CHARACTERS)
_OPPOSITES: Final = (
    ("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"),
)  # fmt: skip
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_ONES: Final = (
    "items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_NOT_ENFORCED: Final = frozenset({
    "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "contains", "dependencies",
    "dependentRequired", "dependentSchemas", "else", "if", "maxContains", "minContains", "not", "oneOf",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
})  # fmt: skip
_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "unknown"}
)
_LENIENT: Final = {"lenient": True, "coerce_one_of": True}
_ASSERTION: Final = re.compile(
    r"""(?x) \\[bB] | \\[1-9] | \\k[<{'] | \(\?<?[=!] | \(\?>
    | \\. | \[\^?\]?(?:\\.|[^\]\\])*\]  # what is passed over: escapes and classes
    """,
    re.DOTALL,
)
_PASSED_OVER: Final = re.compile(r"\\[^bBk1-9]|\[")
_PIECE: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]|\{(?P<least>\d+)(?:,(?P<most>\d*))?\}|.", re.DOTALL)
_DIGITS: Final = 9


def checked_schema(schema: Schema) -> Schema:
    """Return a schema as it is, if an engine may be held to it.

    Raises:
        ValueError: it cannot, and where.
    """
    check_size(schema)
    items = multiples = repeated = 0
    places = list(_walk(schema))
    if len(places) > MOST_SCHEMAS:
        raise ValueError(f"it has {len(places)} schemas within; {MOST_SCHEMAS} at most can be enforced")
    known = {str(one[name]) for _, one in places for name in ("$id", "id") if isinstance(one.get(name), str)}
    anchors = {str(one[name]) for _, one in places for name in ("$anchor", "$dynamicAnchor") if name in one}
    for place, one in places:
        if reason := _reason(one) or _bad_reference(one, schema, known, anchors):
            raise ValueError(f"{'.'.join(place) or 'the schema'}: {reason}")
        multiples += int(abs(_number(one, "multipleOf") or 0))
        repeated += sum(map(_repeated, _patterns(one)))
        items += max((count for name in ("minItems", "maxItems") if type(count := one.get(name)) is int), default=0)
    if items > MOST_SCHEMA_ITEMS:
        raise ValueError(f"its minItems and maxItems come to {items}; {MOST_SCHEMA_ITEMS} together can be enforced")
    if multiples > MOST_MULTIPLES:
        raise ValueError(f"its multipleOf come to {multiples}; {MOST_MULTIPLES} together can be enforced")
    if repeated > MOST_PATTERN_REPEATED:
        raise ValueError(f"its patterns repeat something {MOST_PATTERN_REPEATED} times at most, all together")
    return schema


def for_engine(schema: Schema) -> Schema:
    """Return a schema as the engine is to get it: what it cannot enforce is not to keep it from the rest."""
    odd = any(_NOT_ENFORCED & one.keys() or str(one.get("format", "date")) not in _FORMATS for _, one in _walk(schema))
    return schema | {"x-guidance": _LENIENT} if odd else schema


def check_size(schema: Any) -> None:  # noqa: ANN401 (any JSON)
    """Check how deep a schema is nested, and how much is in it.

    Raises:
        ValueError: more than an engine can read.
    """
    level: list[Any] = [schema]
    for _ in range(MOST_SCHEMA_DEPTH):
        level = [value for one in level for value in _values(one)]
        if not level:
            return
        if len(level) > MOST_SCHEMA_VALUES:
            raise ValueError(f"it has {len(level)} values in one level; {MOST_SCHEMA_VALUES} at most can be enforced")
    raise ValueError(f"it is nested deeper than {MOST_SCHEMA_DEPTH} levels, which cannot be enforced")


def check_tool(function: Schema) -> None:
    """Check a tool's function for what its parameters would cost an engine, obeyed or not.

    Raises:
        ValueError: more than an engine can read.
    """
    check_size(function)
    for place, one in _walk(cast("Schema", function.get("parameters") or {})):
        if reason := _cost(one, MOST_TOOL_REPEATED):
            raise ValueError(f"{'.'.join(('parameters', *place))}: {reason}")


def lightened_tool(function: Schema) -> Schema:
    """Return a tool's function without what :func:`check_tool` would refuse in the schemas of its parameters.

    Whoever runs the tool checks what it is called with. What is too large as a whole stays, and is refused.
    """
    try:
        check_size(function)
    except ValueError:
        return function
    lightened = deepcopy(function)
    for _, one in _walk(cast("Schema", lightened.get("parameters") or {})):
        for name in one.keys() & {*_COUNTS, "enum", "pattern"}:
            if _cost({name: one[name]}, MOST_TOOL_REPEATED):
                del one[name]
        if isinstance(by_pattern := one.get("patternProperties"), dict):
            one["patternProperties"] = {
                name: inner for name, inner in cast("Schema", by_pattern).items() if not _bad_pattern(str(name))
            }
    return lightened


def _values(value: Any) -> Iterable[Any]:  # noqa: ANN401 (any JSON)
    if isinstance(value, dict):
        return cast("Schema", value).values()
    return cast("list[Any]", value) if isinstance(value, list) else ()


def _walk(schema: Schema) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Yield each schema within a schema, with its place."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while waiting:
        place, one = waiting.pop()
        if not isinstance(one, dict):
            continue
        fields = cast("Schema", one)
        yield place, fields
        for name in fields.keys() & {*_MAPS, *_LISTS, *_ONES}:
            inner = fields[name]
            if name in _MAPS and isinstance(inner, dict):
                waiting += [((*place, name, str(key)), value) for key, value in cast("Schema", inner).items()]
            elif name in _LISTS and isinstance(inner, list):
                waiting += [((*place, name, str(n)), value) for n, value in enumerate(cast("list[Any]", inner))]
            else:
                waiting.append(((*place, name), inner))


def _cost(schema: Schema, largest: int = 0) -> str:
    """Say what of a schema would cost an engine too much; ``largest``: a lower limit of its numbers, if not 0."""
    for name, enforced in _COUNTS.items():
        most = min(enforced, largest or enforced)
        if (count := _number(schema, name)) is not None and abs(count) > most:
            return f"{name} can be enforced up to {most}"
    if reason := next((why for why in map(_bad_pattern, _patterns(schema)) if why), ""):
        return reason
    enum = schema.get("enum")
    if isinstance(enum, list) and not 0 < len(cast("list[Any]", enum)) <= MOST_ENUM:
        return f"enum can be enforced with 1 to {MOST_ENUM} values"
    return ""


def _reason(schema: Schema) -> str:
    """Say why a schema cannot be enforced, without those within it; empty if it can."""
    if reason := _cost(schema):
        return reason
    for least, most in _OPPOSITES:
        low, high = _number(schema, least), _number(schema, most)
        if low is not None and high is not None and low > high:
            return f"{least} is above {most}, so that nothing obeys it"
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, dict):
        needed = {str(name) for name in cast("list[Any]", required)} if isinstance(required, list) else set[str]()
        if len(cast("Schema", properties).keys() - needed) > MOST_OPTIONAL:
            return f"more than {MOST_OPTIONAL} properties that are not required cannot be enforced"
    return "x-guidance is the worker's own: leave it out" if "x-guidance" in schema else ""


def _number(schema: Schema, name: str) -> float | None:
    value = schema.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _patterns(schema: Schema) -> list[str]:
    patterns: list[str] = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
    if isinstance(by_pattern := schema.get("patternProperties"), dict):
        patterns += list(cast("Schema", by_pattern))
    return patterns


def _bad_pattern(pattern: str) -> str:
    if len(pattern) > LONGEST_PATTERN:
        return f"a pattern has {LONGEST_PATTERN} characters at most"
    for found in _ASSERTION.finditer(pattern):
        if not _PASSED_OVER.match(found.group()):
            return f"the pattern has {found.group()}, and looking around or back cannot be enforced"
    if _repeated(pattern) > MOST_PATTERN_REPEATED:
        return (
            f"a pattern repeats something {MOST_PATTERN_REPEATED} times at most, what is repeated within counted again"
        )
    return ""


def _repeated(pattern: str) -> int:
    """How large a pattern is with its repetitions written out; those without an end count once."""
    outer: list[int] = []
    size = last = 0
    for found in _PIECE.finditer(pattern):
        piece = found.group()
        if piece == "(":
            outer.append(size)
            size = last = 0
        elif piece == ")" and outer:
            last = size
            size += outer.pop()
        elif found["least"] is not None:
            counts = [int(count[:_DIGITS]) for count in (found["least"], found["most"]) if count]
            size += last * (max(counts) - 1)
            last *= max(counts)
        else:
            last = 1
            size += 1
        if size > MOST_PATTERN_REPEATED:
            return size
    return size


def _bad_reference(schema: Schema, root: Schema, known: set[str], anchors: set[str]) -> str:
    """Say why what a schema refers to cannot be had; empty if it can, or there is nothing."""
    seen: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str):
        where, _, fragment = reference.partition("#")
        if where and where not in known:
            return f"$ref: {reference[:200]} is not part of the schema, and nothing is fetched"
        if where or fragment in anchors:
            return ""
        if reference in seen:
            return f"$ref: {reference[:200]} leads to itself"
        seen.add(reference)
        target: Any = root
        for step in unquote(fragment).split("/")[1:]:
            target = _inner(target, step.replace("~1", "/").replace("~0", "~"))
        if target is None or (fragment and not fragment.startswith("/")):
            return f"$ref: there is no {reference[:200]} in the schema"
        if not isinstance(target, dict):
            return ""
        schema = cast("Schema", target)
    return ""


def _inner(value: Any, step: str) -> Any:  # noqa: ANN401 (any JSON)
    match value:
        case dict():
            return cast("Schema", value).get(step)
        case list() if step.isdecimal() and int(step[:9]) < len(cast("list[Any]", value)):
            return cast("list[Any]", value)[int(step[:9])]
        case _:
            return None
