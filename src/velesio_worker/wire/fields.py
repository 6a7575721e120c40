"""Fields of JSON that somebody else wrote: of the type that is wanted, or not."""

from __future__ import annotations

from typing import Any, Final, cast

import orjson

LARGEST_COUNT: Final = 2**53
"""Larger counts are none: two of them are still a number that JSON can hold."""


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


def known_object(fields: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return a field that is an object; None if it is not."""
    value = fields.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
