"""The page's styles: those of one tab touch nothing of the other."""

from __future__ import annotations

import re
from pathlib import Path

from velesio_worker.gateway import page

STATIC = Path(page.__file__).with_name("static")
SHARED = {"button", "icon", "icon-button"}
"""Small parts of app.css, which a tab may place in its own frame."""


def classes(name: str) -> set[str]:
    return set(re.findall(r"\.([a-z][a-z-]+)", (STATIC / name).read_text()))


def test_no_class_is_styled_by_both_tabs() -> None:
    assert classes("chat.css") & classes("images.css") <= SHARED
