"""Large base64, decoded such that other threads get their turn."""

from __future__ import annotations

import base64
import binascii
from typing import Final

_PIECE: Final = 4 * 64 * 1024
"""So many characters at a time: the interpreter lets nobody else work while it decodes one."""


def decode_base64(text: str) -> bytes:
    """Decode base64 with its padding and without line breaks. Slow for large texts: for a thread.

    Raises:
        ValueError: it is none.
    """
    if "=" in text[:-2]:
        raise ValueError("no base64: there is something behind its padding")
    try:
        return b"".join(base64.b64decode(text[at : at + _PIECE], validate=True) for at in range(0, len(text), _PIECE))
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from None


def without_spaces(text: str) -> str:
    """Return a text without its spaces and line breaks. Slow for large texts: for a thread."""
    return "".join(part for at in range(0, len(text), _PIECE) for part in text[at : at + _PIECE].split())
