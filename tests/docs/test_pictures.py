"""Pictures are small, are shown somewhere with words for those who cannot see them, and load nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import PAGES, ROOT

PICTURES: Final = sorted((ROOT / "docs/pictures").iterdir())
LARGEST: Final = 150 * 1024

_TEXT: Final = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
_MARKUP: Final = re.compile(r'<img alt="([^"]*)" src="([^"]+)"')
_OTHER: Final = re.compile(r'<source [^>]*srcset="([^"]+)"')


def shown() -> dict[Path, str]:
    """Every picture that a page shows, with its words; a variant of one has those of that one."""
    found: dict[Path, str] = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        for words, where in [*_TEXT.findall(text), *_MARKUP.findall(text)]:
            found[(page.parent / where).resolve()] = words
        found |= {(page.parent / where).resolve(): "variant" for where in _OTHER.findall(text)}
    return found


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_and_shown_with_words(picture: Path) -> None:
    assert picture.stat().st_size < LARGEST
    assert shown()[picture]


@pytest.mark.parametrize("picture", [path for path in PICTURES if path.suffix == ".svg"], ids=lambda path: path.name)
def test_a_drawing_loads_and_runs_nothing(picture: Path) -> None:
    drawing = picture.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?:|url\(|@import|<script|<image|<foreignObject|\son\w+=", drawing)


def test_every_picture_in_a_page_is_there() -> None:
    assert not [path for path in shown() if not path.is_file()]
