"""The bytes of a job, read as producers really write them (wire protocol, section 1).

Strict JSON is read by orjson. What is not that is read once more, more slowly, since standard writers make more than
the standard allows: Python's ``json.dumps`` writes ``NaN`` and ``Infinity``, ``JSON.stringify`` halves of characters
outside the basic plane, .NET a byte-order mark before the text, or UTF-16.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import Any, Final, TypeGuard, cast

import orjson

from velesio_worker.wire.errors import UnusablePayloadError
from velesio_worker.wire.limits import LOOKED_AT, MOST_VALUES

JOB_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_QUOTE: Final = ord('"')
_WIDEST: Final = 4
"""Bytes of a character of UTF-32."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_REPLACEMENT: Final = "\ufffd"
_LEXEME: Final = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"|[{}\[\]:,]', re.DOTALL)
_PIECE: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{\[,]', re.DOTALL)
_ID: Final = re.compile(r'[{,]\s*"id"\s*:\s*"([^"\\]*)"')


def is_job_id(value: object) -> TypeGuard[str]:
    """Whether ``value`` may be a job's id: 1 to 128 of ``A-Z a-z 0-9 . _ : -``."""
    return isinstance(value, str) and JOB_ID.fullmatch(value) is not None


def read_payload(payload: bytes) -> tuple[object, str | None]:
    """Read a payload as JSON. Half characters, and bytes that are none, become U+FFFD.

    Returns:
        what it holds, and where that has a number that JSON does not have (``data.temperature``).

    Raises:
        UnusablePayloadError: it cannot be read, or holds too much.
    """
    if holds_too_much(payload):
        raise UnusablePayloadError(f"it holds more than {MOST_VALUES} values")
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


def holds_too_much(payload: bytes) -> bool:
    """Whether more would be built than its size tells: three bytes of JSON become a hundred of memory.

    What stands in strings is no value, so that is left out where it matters.
    """
    if sum(map(payload.count, (b",", b"{", b"["))) <= MOST_VALUES:
        return False
    if not json.detect_encoding(payload).startswith("utf-8"):
        return True
    values = strings = 0
    for piece in _PIECE.finditer(payload):
        if payload[piece.start()] == _QUOTE:
            strings += 1
        else:
            values += 1
        if values > MOST_VALUES or strings > 2 * MOST_VALUES + 1:
            return True
    return False


def job_id_in(payload: bytes) -> str | None:
    """Return the id of a job that may be wrong otherwise, or no JSON at all; None if it has no usable one."""
    try:
        fields, _ = read_payload(payload)
    except UnusablePayloadError:
        return id_at_ends(payload)
    job_id = cast("dict[str, Any]", fields).get("id") if isinstance(fields, dict) else None
    return job_id if is_job_id(job_id) else None


def id_at_ends(payload: bytes) -> str | None:
    """Return the id of a job that is damaged, cut off or too large, as its first and last 64 KiB tell it."""
    encoding = json.detect_encoding(payload[:LOOKED_AT])
    if payload.startswith((codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        encoding = f"{encoding}-be"  # the end has no mark that would tell
    found = _first_id(payload[:LOOKED_AT].decode(encoding, "replace"))
    if found is None and len(payload) > LOOKED_AT:
        begin = max(LOOKED_AT, len(payload) - LOOKED_AT)
        found = _last_id(payload[begin - begin % _WIDEST :].decode(encoding, "replace"))
    return found or None


def _first_id(text: str) -> str | None:
    """Look for the ``id`` of an object that begins so, not one within; empty if it has none that can be used."""
    depth, key, before = 0, "", ""
    for lexeme in _LEXEME.finditer(text):
        mark = lexeme.group()
        if mark in "{[":
            if not depth and mark == "[":
                return ""
            depth += 1
        elif mark in "}]":
            depth -= 1
            if not depth:
                return ""
        elif depth == 1 and mark == ":":
            key = before
        elif depth == 1 and key == '"id"' and before == ":":
            return lexeme.group(1) if is_job_id(lexeme.group(1)) else ""
        before = mark
    return None


def _last_id(text: str) -> str | None:
    """Look for the ``id`` of an object that ends so: what stands behind it closes the object, and nothing more."""
    for found in reversed(list(_ID.finditer(text))):
        depth, end = 1, 0
        for lexeme in _LEXEME.finditer(text, found.end()):
            depth += (lexeme.group() in "{[") - (lexeme.group() in "}]")
            if not depth:
                end = lexeme.end()
                break
        if end and not text[end:].strip() and is_job_id(found[1]):
            return found[1]
    return None
