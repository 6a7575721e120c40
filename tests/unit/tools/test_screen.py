"""A recorded terminal's screen holds what a terminal would show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.pictures.screen import BASIC, PLAIN, Screen, Style

SHOWN = {
    "what is too long goes on below": ("abcdefghijkl", "abcdefghij\nkl"),
    "a line that is full does not make an empty one": ("abcdefghij\r\nkl", "abcdefghij\nkl"),
    "a carriage return has the line written over": ("abc\rX", "Xbc"),
    "a backspace goes back": ("abc\b\bX", "aXc"),
    "erased to the end": ("abcdef\x1b[3D\x1b[K", "abc"),
    "erased from the beginning": ("abcdef\x1b[3D\x1b[1KX", "   Xef"),
    "a whole line is erased": ("abc\x1b[2K\rX", "X"),
    "all is erased": ("abc\r\ndef\x1b[2J\x1b[HX", "X"),
    "what is below is erased": ("ab\r\ncd\r\nef\x1b[2;2H\x1b[J", "ab\nc"),
    "moves": ("\x1b[2;3Ha\x1b[Ab\x1b[2Bc\x1b[1Gd\x1b[C\x1b[9De", "   b\n  a\ne   c"),
    "moves end at the edges": ("\x1b[99;99Hx\x1b[99Ay", "         y\n\n\n         x"),
    "what does not fit scrolls away": ("1\r\n2\r\n3\r\n4\r\n5", "2\n3\n4\n5"),
    "titles and modes are passed over": (
        "\x1b]0;title\x07a\x1b[?1049hb\x1b(Bc\x1b[>1ud\x1b[2 qe\x1bP+q\x1b\\",
        "abcde",
    ),
}


@pytest.mark.parametrize(("written", "shown"), SHOWN.values(), ids=SHOWN.keys())
def test_what_is_written_stands_where_a_terminal_has_it(written: str, shown: str) -> None:
    screen = Screen(10, 4)
    screen.feed(written)
    assert screen.text() == shown
    piecewise = Screen(10, 4)
    for character in written:  # sequences may be cut anywhere
        piecewise.feed(character)
    assert piecewise.shown() == screen.shown()


STYLES = {
    "\x1b[1;31m": Style(ink=BASIC[1], bold=True),
    "\x1b[91;104m": Style(ink=BASIC[9], paper=BASIC[12]),
    "\x1b[38;5;196m": Style(ink="#ff0000"),
    "\x1b[48;5;244m": Style(paper="#808080"),
    "\x1b[38;2;1;2;3;4m": Style(ink="#010203", underlined=True),
    "\x1b[2;3;7m": Style(dim=True, italic=True, reversed=True),
    "\x1b[1;31m\x1b[22;39m": PLAIN,
    "\x1b[1;44m\x1b[m": PLAIN,
    "\x1b[38m": PLAIN,
}


@pytest.mark.parametrize("written", STYLES)
def test_characters_look_as_they_were_told_to(written: str) -> None:
    screen = Screen(3, 1)
    screen.feed(written + "x\x1b[0my")
    assert screen.cells[0][:2] == [("x", STYLES[written]), ("y", PLAIN)]


@given(st.text(st.sampled_from("ab\r\n\b\x1b[;?0123456789HJKmABCDG]\x07"), max_size=60))
def test_nothing_that_is_written_breaks_the_screen(written: str) -> None:
    screen = Screen(5, 3)
    screen.feed(written)
    assert [len(row) for row in screen.shown()] == [5, 5, 5]
