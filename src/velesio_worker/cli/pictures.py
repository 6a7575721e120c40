"""Pictures in terminals that can show them: kitty's graphics protocol, and iTerm2's inline images.

Which terminal it is tells the environment alone: nothing is asked of it, and nothing is written to what is no terminal.
Sources: sw.kovidgoyal.net/kitty/graphics-protocol and iterm2.com/documentation-images.html.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TextIO

from velesio_worker.core.terminal import is_drawn

PNG: Final = b"\x89PNG\r\n\x1a\n"
LARGEST: Final = 512
"""Pixels of the longer side; larger ones are shown smaller."""

_CHUNK: Final = 4096
_KITTY: Final = frozenset({"ghostty", "kitty"})
_ITERM: Final = frozenset({"iTerm.app", "WezTerm", "mintty", "vscode"})


class Graphics(StrEnum):
    """How a terminal is given a picture."""

    KITTY = "kitty"
    ITERM = "iterm"


def graphics_of(stream: TextIO, environ: Mapping[str, str]) -> Graphics | None:
    """Tell by the environment how the terminal behind a stream shows pictures; None: it is none, or shows none."""
    terminal, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if not is_drawn(stream) or "TMUX" in environ or terminal.startswith(("screen", "tmux")):
        return None  # a multiplexer shows none, whatever terminal it runs in
    if "KITTY_WINDOW_ID" in environ or terminal in {"xterm-kitty", "xterm-ghostty"} or program in _KITTY:
        return Graphics.KITTY
    return Graphics.ITERM if program in _ITERM or environ.get("LC_TERMINAL") == "iTerm2" else None


def drawn(png: bytes, graphics: Graphics) -> str:
    """Return what has a terminal show a picture. Raises ValueError: it is none."""
    data = base64.b64encode(_smaller(png)).decode()
    if graphics is Graphics.ITERM:
        return f"\x1b]1337;File=inline=1;size={len(data) * 3 // 4}:{data}\a\n"
    chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    heads = ["a=T,f=100,q=2,", *[""] * (len(chunks) - 1)]
    more = [*[1] * (len(chunks) - 1), 0]
    return "".join(map("\x1b_G{}m={};{}\x1b\\".format, heads, more, chunks)) + "\n"


def _smaller(png: bytes) -> bytes:
    """Return a picture written anew, so that a terminal gets one that Pillow can read, and none that is too large."""
    from PIL import Image  # noqa: PLC0415 (only where it is shown)

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.thumbnail((LARGEST, LARGEST))
            written = io.BytesIO()
            image.save(written, "PNG")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be read: {error}") from None
    return written.getvalue()
