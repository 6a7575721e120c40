"""Text that others wrote, as a line of the log, a terminal or an error may show it."""

from __future__ import annotations

import re
from typing import Final

_CONTROLS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: line breaks, and what has a terminal do something
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing round
    "\u2028\u2029\ud800-\udfff]"  # line breaks of Unicode, and halves of characters, which cannot be written
)
_ABOVE_C0: Final = re.compile(_CONTROLS.pattern.replace("\x00-\x1f", ""))
_LONG_NUMBER: Final = re.compile(r"[0-9]{41,}")
_DIGITS: Final = 20
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, keep: str = "") -> str:
    """Write out control characters, each as JSON does.

    Args:
        text: what somebody else wrote.
        keep: those that may stay, such as the line breaks of a text of several lines.
    """
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _written(found[0]), text)


def printable_json(text: str) -> str:
    """Write out the control characters in JSON that stand raw in its strings; it means the same afterwards.

    Those below U+0020 cannot: outside of strings they are its line breaks.
    """
    return text if text.isascii() and "\x7f" not in text else _ABOVE_C0.sub(lambda found: _written(found[0]), text)


def short_numbers(text: str) -> str:
    """Cut numbers of more than 40 digits."""
    return _LONG_NUMBER.sub(lambda found: f"{found[0][:_DIGITS]}…", text)


def _written(character: str) -> str:
    return _SHORT.get(character) or f"\\u{ord(character):04x}"
