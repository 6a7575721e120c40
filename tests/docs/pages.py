"""The pages of the manual as the tests read them: code blocks, links and headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")))

_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_CODE: Final = re.compile(r"`[^`\n]*`")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
_TARGET: Final = re.compile(r"\]\([^)]*\)")
_NO_SLUG: Final = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: where it stands, its language, its marks behind the language, and its text without indentation."""

    line: int
    language: str
    marks: Mapping[str, str]
    text: str


def name(page: Path) -> str:
    """What a page is called in the tests' names."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in _FENCE.finditer(text):
        language, *words = found["info"].split() or [""]
        marks = {key: value for key, _, value in (word.partition("=") for word in words)}
        body = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        line = text.count("\n", 0, found.start()) + 1
        yield Block(line, language, marks, body)


def links(page: Path) -> list[str]:
    """Where a page's links and images lead, but for other hosts."""
    found = _LINK.findall(_CODE.sub("code", _FENCE.sub("", page.read_text("utf-8"))))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text("utf-8"))):
        slug = _NO_SLUG.sub("", _TARGET.sub("", heading).lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found
