"""How often an image wants to be decoded: small files ask for more scans or frames than anybody has time for.

Sources: ITU T.81, section B.1 (JPEG's markers); GIF89a, sections 18 to 26.
"""

from __future__ import annotations

import re
from typing import Final

MOST_SCANS: Final = 64
"""How many scans a JPEG may have; progressive ones have about ten."""

MOST_FRAMES: Final = 64
"""How many frames a GIF, WebP or PNG may have, of which the first is used."""

_MOST_MARKERS: Final = 10_000
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""A marker; in the data of a scan ``ff`` is followed by 0, or by one that says where decoding may start anew."""

_START_OF_IMAGE: Final = 0xD8
_END_OF_IMAGE: Final = 0xD9
_START_OF_SCAN: Final = 0xDA
_FIRST_SEGMENT: Final = 0xC0
"""Markers below this one have no length; decoders look for the next behind them."""

_COLOURS_AT: Final = 10
_HEADER_BYTES: Final = 13
_IMAGE: Final = 0x2C
_EXTENSION: Final = 0x21
_TRAILER: Final = 0x3B


def has_too_many_scans(content: bytes) -> bool:
    """Whether this is a JPEG with more scans than :data:`MOST_SCANS`, or with markers without an end."""
    if not content.startswith(b"\xff\xd8"):
        return False
    scans = markers = at = 0
    while (found := _MARKER.search(content, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            return False
        scans += marker == _START_OF_SCAN
        markers += 1
        if scans > MOST_SCANS or markers > _MOST_MARKERS:
            return True
        if marker >= _FIRST_SEGMENT and marker != _START_OF_IMAGE:
            at += int.from_bytes(content[at : at + 2])  # its length counts itself
    return False


def has_too_many_frames(content: bytes) -> bool:
    """Whether this is a GIF with more frames than :data:`MOST_FRAMES`."""
    if not content.startswith(b"GIF8"):
        return False
    at = _HEADER_BYTES + _colours(content, _COLOURS_AT)
    frames = 0
    while at < len(content):
        kind = content[at]
        if kind == _TRAILER:
            return False
        if kind == _IMAGE:
            frames += 1
            if frames > MOST_FRAMES:
                return True
            at = _behind_blocks(content, at + 11 + _colours(content, at + 9))
        else:  # decoders walk over what they do not know
            at = _behind_blocks(content, at + 2) if kind == _EXTENSION else at + 1
    return False


def _colours(content: bytes, at: int) -> int:
    """Return the bytes of the table of colours that the flags at a place announce."""
    flags = content[at] if at < len(content) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _behind_blocks(content: bytes, at: int) -> int:
    """Return where the blocks that begin at a place have their end."""
    while at < len(content) and content[at]:
        at += content[at] + 1
    return at + 1
