"""Which terminal is given a picture, and what it is given."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from velesio_worker.cli.pictures import LARGEST, Graphics, drawn, graphics_of


class Stream(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


KITTY, ITERM = Graphics.KITTY, Graphics.ITERM


@pytest.mark.parametrize(
    ("environ", "graphics"),
    [
        ({"TERM": "xterm-kitty"}, KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, KITTY),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, ITERM),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, ITERM),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, ITERM),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM": "screen-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),  # noqa: S108
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, None),
        ({}, None),
    ],
)
def test_the_environment_tells_how_a_terminal_shows_pictures(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], graphics: Graphics | None
) -> None:
    monkeypatch.setenv("TERM", environ.get("TERM", ""))
    assert graphics_of(Stream(terminal=True), environ) is graphics
    assert graphics_of(Stream(terminal=False), environ) is None


def png(width: int, height: int) -> bytes:
    written = io.BytesIO()
    Image.effect_noise((width, height), 50).save(written, "PNG")
    return written.getvalue()


def given(text: str) -> Image.Image:
    if text.startswith("\x1b]"):
        found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=\d+:([A-Za-z0-9+/=]+)\a\n", text)
        assert found
        data = found[1]
    else:
        chunks = re.findall(r"\x1b_G(a=T,f=100,q=2,)?m=([01]);([A-Za-z0-9+/=]*)\x1b\\", text)
        assert [bool(head) for head, _, _ in chunks] == [True] + [False] * (len(chunks) - 1)
        assert [more for _, more, _ in chunks] == ["1"] * (len(chunks) - 1) + ["0"]
        assert all(len(chunk) <= 4096 for _, _, chunk in chunks)
        data = "".join(chunk for _, _, chunk in chunks)
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("graphics", Graphics)
def test_a_picture_is_given_whole_and_not_too_large(graphics: Graphics) -> None:
    assert given(drawn(png(64, 32), graphics)).size == (64, 32)
    assert given(drawn(png(1024, 512), graphics)).size == (LARGEST, LARGEST // 2)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n\x1b[2J", png(64, 64)[:200], b"GIF89a"])
def test_what_is_no_picture_is_not_given_to_a_terminal(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        drawn(data, KITTY)
