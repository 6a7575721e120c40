"""A WebUI's answer, read without decoding its images, which are most of it: text jobs wait while JSON is decoded."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from velesio_worker.engines.http import decode_json

_SMALL: Final = 256 * 1024
_IMAGES: Final = re.compile(rb'\s*\{\s*"images"\s*:\s*\[')
"""How every known server begins."""

_NEXT: Final = re.compile(rb'\s*(?:,\s*)?("|\])')


def decode_answer(body: bytes) -> Any:  # noqa: ANN401 (JSON)
    """Decode an answer; None if it is no JSON. What does not begin with its images is decoded as a whole."""
    begin = _IMAGES.match(body) if len(body) > _SMALL else None
    cut = _cut_images(body, begin.end()) if begin is not None else None
    if cut is None:
        return decode_json(body)
    images, end = cut
    rest = decode_json(b"".join((body[: cast("re.Match[bytes]", begin).end()], body[end:])))
    return None if rest is None else cast("dict[str, Any]", rest) | {"images": images}


def _cut_images(body: bytes, at: int) -> tuple[list[str], int] | None:
    """Return the strings of an array, and where it ends; None if it holds anything else. Base64 needs no escapes."""
    images: list[str] = []
    while True:
        found = _NEXT.match(body, at)
        if found is None:
            return None
        if found.group(1) == b"]":
            return images, found.end() - 1
        end = body.find(b'"', found.end())
        if end < 0 or body.find(b"\\", found.end(), end) >= 0:
            return None
        try:
            images.append(body[found.end() : end].decode("ascii"))
        except UnicodeDecodeError:
            return None
        at = end + 1
