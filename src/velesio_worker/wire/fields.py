"""Fields of JSON that somebody else wrote: of the type that is wanted, or not."""

from __future__ import annotations

import math
from typing import Any, Final, cast

import orjson

LARGEST_COUNT: Final = 2**53
"""Larger counts are none: two of them are still a number that JSON can hold."""


LONGEST_NAME: Final = 200
"""Characters of a name that somebody else gave."""

_LONGEST_KEY: Final = 64


def json_object(text: bytes) -> dict[str, Any]:
    """Read a JSON object; empty if it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def text_in(fields: dict[str, Any], name: str) -> str:
    """Return a field that is a text, or null or not there. Raises ValueError."""
    value = fields.get(name)
    if isinstance(value, str):
        return value
    if value is not None:
        raise ValueError(f"{name} is no text")
    return ""


def list_in(fields: dict[str, Any], name: str) -> list[Any]:
    """Return a field that is a list, or null or not there. Raises ValueError."""
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")  # noqa: TRY004 (as above)
    return cast("list[Any]", value)


def object_in(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a field that is an object, or null or not there. Raises ValueError."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")  # noqa: TRY004 (as above)
    return cast("dict[str, Any]", value)


def count_in(fields: dict[str, Any], name: str) -> int | None:
    """Return a field that is a count; None if it is not."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= LARGEST_COUNT else None


def numbers_in(fields: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the finite numbers in a field that is an object, by their names; None if it is none."""
    value = known_object(fields, name)
    if value is None:
        return None
    return {key: number for key, number in value.items() if len(key) <= _LONGEST_KEY and _is_finite(number)}


def number_in(fields: dict[str, Any], name: str) -> int | float | None:
    """Return a field that is a finite number; None if it is not."""
    value = fields.get(name)
    return value if _is_finite(value) else None


def _is_finite(value: object) -> bool:
    """Whether a value is a number that other readers of JSON can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and (isinstance(value, float) or abs(value) <= LARGEST_COUNT)


def name_in(text: str) -> str:
    """Return a name as it may stand in logs, streams and metrics: printable, on one line, not longer than people read.

    What cannot be printed becomes U+FFFD.
    """
    cut = text[:LONGEST_NAME]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in cut)


def known_object(fields: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return a field that is an object; None if it is not."""
    value = fields.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
