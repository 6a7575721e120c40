"""What the headers of an answer say of the file in it (RFC 9110)."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterable, Mapping
from typing import Final

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_HUB_SHA256: Final = re.compile(r'"([0-9a-f]{64})"')


def total_length(headers: Mapping[str, str]) -> int | None:
    """Return the length of the whole file in bytes; None if it is not said."""
    place = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    length = place.group(2) if place else headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def range_start(headers: Mapping[str, str]) -> int | None:
    """Return where in the file the answer begins, in bytes; None if it is not said."""
    place = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    return int(place.group(1)) if place else None


def validator(headers: Mapping[str, str]) -> str | None:
    """Return what ``If-Range`` may hold: a strong ETag, else Last-Modified, else None."""
    etag = headers.get("etag", "")
    return etag if etag.startswith('"') else headers.get("last-modified")


def hub_sha256(answers: Iterable[Mapping[str, str]]) -> str | None:
    """Return the SHA-256 that the Hugging Face hub gives of a large file, in hexadecimal digits; None if it gives none.

    ``X-Linked-Etag`` rides on the hub's redirect to where the file lies; of small files it holds a git hash.
    """
    for headers in answers:
        if found := _HUB_SHA256.fullmatch(headers.get("x-linked-etag", "")):
            return found.group(1)
    return None


def retry_after(headers: Mapping[str, str]) -> float:
    """Return how many seconds the server wants to be left alone; 0 if it does not say so."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
