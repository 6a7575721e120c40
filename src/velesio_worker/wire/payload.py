"""The bytes of a job, read as producers really write them (wire protocol, section 1).

Strict JSON is read by orjson. What is not that is read once more, more slowly, since standard writers make more than
the standard allows: Python's ``json.dumps`` writes ``NaN`` and ``Infinity``, ``JSON.stringify`` halves of characters
outside the basic plane, .NET a byte-order mark before the text, or UTF-16.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, TypeGuard, cast

import orjson

from velesio_worker.wire.errors import UnusablePayloadError

JOB_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

LOOKED_AT: Final = 64 * 1024
"""So many bytes of what cannot be read as JSON are looked through for an id."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_REPLACEMENT: Final = "\ufffd"
_LEXEME: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"|[{}\[\]:,]')


def is_job_id(value: object) -> TypeGuard[str]:
    """Whether ``value`` may be a job's id: 1 to 128 of ``A-Z a-z 0-9 . _ : -``."""
    return isinstance(value, str) and JOB_ID.fullmatch(value) is not None


def read_payload(payload: bytes) -> tuple[object, str | None]:
    """Read a payload as JSON. Half characters, and bytes that are none, become U+FFFD.

    Returns:
        what it holds, and where that has a number that JSON does not have (``data.temperature``).

    Raises:
        UnusablePayloadError: it cannot be read.
    """
    try:
        return orjson.loads(payload), None
    except orjson.JSONDecodeError as error:
        reason = str(error)
    odd: list[str] = []
    try:
        text = payload.decode(json.detect_encoding(payload), "replace")
        return _mended(json.loads(text, strict=False), (), odd), next(iter(odd), None)
    except (ValueError, RecursionError):
        raise UnusablePayloadError(f"not JSON: {reason}") from None


def _mended(value: object, path: tuple[str, ...], odd: list[str]) -> object:
    """Return the same without halves of characters; note where it has no finite number. Raises RecursionError."""
    match value:
        case str():
            return _SURROGATE.sub(_REPLACEMENT, value)
        case float() if not math.isfinite(value):
            odd.append(".".join(path))
            return None
        case list():
            items = enumerate(cast("list[Any]", value))
            return [_mended(item, (*path, str(number)), odd) for number, item in items]
        case dict():
            fields = cast("dict[str, Any]", value)
            return {str(_mended(name, (), odd)): _mended(item, (*path, name), odd) for name, item in fields.items()}
        case _:
            return value


def job_id_in(payload: bytes) -> str | None:
    """Return the id of a job that may be wrong otherwise, or no JSON at all; None if it has no usable one."""
    try:
        fields, _ = read_payload(payload)
    except UnusablePayloadError:
        return _first_id(payload)
    job_id = cast("dict[str, Any]", fields).get("id") if isinstance(fields, dict) else None
    return job_id if is_job_id(job_id) else None


def _first_id(payload: bytes) -> str | None:
    """Look for the ``id`` of an object that is damaged, cut off or too large: the job's own, not one within."""
    begin = payload[:LOOKED_AT]
    depth, key, before = 0, "", ""
    for lexeme in _LEXEME.finditer(begin.decode(json.detect_encoding(begin), "replace")):
        mark = lexeme.group()
        if mark in "{[":
            if not depth and mark == "[":
                return None
            depth += 1
        elif mark in "}]":
            depth -= 1
            if not depth:
                return None
        elif depth == 1 and mark == ":":
            key = before
        elif depth == 1 and key == '"id"' and before == ":":
            return lexeme.group(1) if is_job_id(lexeme.group(1)) else None
        before = mark
    return None
