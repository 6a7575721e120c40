"""The manual as a site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT

pytestmark = pytest.mark.processes

_LOADED: Final = {("script", "src"), ("img", "src"), ("source", "src"), ("iframe", "src"), ("link", "href")}
_FROM_STYLE: Final = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]*)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, where no proxy answers."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "WARNING" not in said, said
    return folder


class _Loaded(HTMLParser):
    """Gathers what a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for key, value in attrs if value and (tag, key) in _LOADED]


def _loaded(page: Path) -> Iterator[str]:
    text = page.read_text("utf-8")
    yield from _FROM_STYLE.findall(text)
    if page.suffix == ".html":
        parser = _Loaded()
        parser.feed(text)
        yield from parser.addresses


def test_it_loads_nothing_from_another_host(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    addresses = {address for file in files for address in _loaded(file)}
    assert any(address.endswith(".css") for address in addresses), "the pages have a style"
    assert any(address.endswith(".js") for address in addresses), "the pages have a search"
    assert not [address for address in addresses if re.match(r"(?:https?:)?//", address)]


def test_it_has_the_marks_of_no_block_and_no_page_that_is_a_part_of_another(site: Path) -> None:
    pages = {file: file.read_text("utf-8") for file in site.rglob("*.html")}
    assert not [file for file, text in pages.items() if re.search(r"sh (?:needs|session|covered-by)=", text)]
    assert not [*site.rglob("*intro*"), *site.rglob("*.py")]
    assert (site / "changelog/index.html") in pages
