"""What standard output and error may be given: colours, and lines that are drawn anew."""

from __future__ import annotations

import os
from typing import Final, TextIO

RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
_PLAIN: Final = frozenset({"dumb", "unknown"})


def has_colours(stream: TextIO) -> bool:
    """Whether a stream is written in colours: a terminal is, but for ``NO_COLOR``; with ``FORCE_COLOR`` any is."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_drawn(stream)


def is_drawn(stream: TextIO) -> bool:
    """Whether lines of a stream can be drawn anew: a terminal that is more than a printer."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in _PLAIN


def painted(text: str, colour: str, stream: TextIO) -> str:
    """Return a text in a colour, where the stream has any."""
    return f"\x1b[{colour}m{text}\x1b[0m" if has_colours(stream) else text
