"""JSON that an engine sends: read whatever its bytes are, and not deeper than it can be written again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import orjson

DEEPEST: Final = 200
"""How deep an answer may be nested: orjson reads 1,024 levels and writes 254, with those that are put around it."""


def decode_json(data: bytes) -> Any:  # noqa: ANN401 (JSON)
    """Decode JSON; bytes that are no UTF-8 become U+FFFD, and what is no JSON, or too deep to be kept, becomes None."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            document = orjson.loads(data.decode(errors="replace"))
        except orjson.JSONDecodeError:
            return None
    if len(data) <= 2 * DEEPEST:  # each level takes two bytes: an event of a token ends here
        return document
    opened = data.count(b"{") + data.count(b"[")  # which is quick, and nearly always enough to know
    return document if opened <= DEEPEST or not _too_deep(document) else None


def _too_deep(document: object) -> bool:
    """Whether a document is nested deeper than ``DEEPEST``."""
    level = [document]
    for _ in range(DEEPEST + 1):
        level = [inner for outer in level for inner in _within(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _within(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()
