"""A drawn terminal shows what stood there, and when; nothing is loaded for it."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from tools.pictures.screen import Screen
from tools.pictures.svg import LONGEST_PAUSE, Rows, Run, moving, still, timed

SVG = "{http://www.w3.org/2000/svg}"


def frames(*steps: tuple[float, str], columns: int = 20, rows: int = 3) -> list[tuple[float, Rows]]:
    screen = Screen(columns, rows)
    found: list[tuple[float, Rows]] = []
    for moment, text in steps:
        screen.feed(text)
        found.append((moment, screen.shown()))
    return found


def spans(runs: list[Run]) -> list[tuple[str, float, float | None]]:
    return [(run.text, round(run.since, 2), run.until if run.until is None else round(run.until, 2)) for run in runs]


def test_what_is_added_to_a_line_is_drawn_once() -> None:
    runs, seconds = timed(frames((0.1, "One"), (0.5, " two"), (1.0, "\r\nThree")))
    assert spans(runs) == [("One", 0.1, None), ("two", 0.5, None), ("Three", 1.0, None)]
    assert [(run.row, run.column) for run in runs] == [(0, 0), (0, 4), (1, 0)]
    assert seconds == 1.0


def test_what_is_written_over_goes_when_the_new_comes() -> None:
    runs, _ = timed(frames((0.1, "10 %"), (0.5, "\r20 %"), (1.0, "\r\x1b[K")))
    assert spans(runs) == [("10 %", 0.1, 0.5), ("20 %", 0.5, 1.0)]


def test_what_stays_beside_what_changes_is_drawn_once() -> None:
    lines = [(0.2 * n, f"\r\x1b[32mloading\x1b[0m {n} of 3") for n in (1, 2, 3)]
    runs, _ = timed(frames(*lines))
    assert [span for span in spans(runs) if span[0] == "loading"] == [("loading", 0.2, None)]
    assert [span for span in spans(runs) if span[0] != "loading"] == [
        ("1 of 3", 0.2, 0.4),
        ("2 of 3", 0.4, 0.6),
        ("3 of 3", 0.6, None),
    ]


def test_long_pauses_are_shortened_and_what_is_too_quick_comes_together() -> None:
    runs, seconds = timed(frames((0.0, "a"), (0.01, "b"), (60.0, "c"), (60.5, "d")))
    assert spans(runs)[0] == ("ab", 0.0, None)
    assert LONGEST_PAUSE < seconds < LONGEST_PAUSE + 0.6


def test_the_drawing_is_sound_safe_and_tells_what_it_shows() -> None:
    drawn = moving(
        frames((0.1, "<b> & \x1b[31mred\x1b[0m"), (0.5, "\r\x1b[44mgone\x1b[0m"), (1, "\r\x1b[2Kend")),
        title="t",
        label="It says end",
    )
    root = ET.fromstring(drawn)  # noqa: S314 (our own)
    assert root.findtext(f"{SVG}title") == "It says end"
    texts = {text.text: text.get("class") for text in root.iter(f"{SVG}text")}
    assert {"<b> &", "red", "gone", "end"} <= texts.keys()
    style = root.findtext(f"{SVG}style") or ""
    assert "prefers-reduced-motion" in style
    # Where nothing moves, what went is not there, and the end is.
    assert re.search(rf"\.{texts['gone']}{{visibility:hidden", style)
    assert not re.search(rf"\.{texts['end']}{{visibility:hidden", style)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|<script", drawn)


def test_a_still_has_colours_and_no_motion() -> None:
    [(_, shown)] = frames((0.0, "\x1b[7mreversed\x1b[0m plain"))
    drawn = still(shown, title="t", label="l")
    assert "animation:t" not in drawn
    root = ET.fromstring(drawn)  # noqa: S314 (our own)
    assert [text.text for text in root.iter(f"{SVG}text")] == ["t", "reversed", "plain"]
    assert len(list(root.iter(f"{SVG}rect"))) == 2
