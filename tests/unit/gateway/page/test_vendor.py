"""The libraries of the page are those that the lock names, with their licences, and nothing refers to another host."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from velesio_worker.gateway import page

STATIC: Final = Path(page.__file__).with_name("static")
VENDOR: Final = STATIC / "vendor"
LOCK: Final[list[dict[str, Any]]] = json.loads((VENDOR / "vendor.lock").read_text())
LISTED: Final[list[dict[str, Any]]] = json.loads((Path(__file__).parents[4] / "tools" / "vendor.json").read_text())

OWN: Final = sorted(
    path for path in STATIC.rglob("*") if VENDOR not in path.parents and path.suffix in {".js", ".css", ".html", ".svg"}
)
NAMESPACES: Final = re.compile(r"https?://www\.w3\.org/(?:2000/svg|1998/Math/MathML|1999/xlink)|https://html\.spec\S+")
IMPORT: Final = re.compile(r"""(?:\bfrom\s*|\bimport\s*\(?\s*)(["'])(?P<what>[^"'\n]+)\1""")
LOADS: Final = re.compile(r"""(?:\burl\(\s*["']?|@import\s+["']|\bsrc\s*=\s*["']|\bfetch\(\s*["'])(?:https?:)?//""")


def test_the_lock_is_of_the_packages_that_are_listed() -> None:
    keys = ("name", "version", "licence", "integrity", "folder", "licences")
    assert [[one[key] for key in keys] for one in LOCK] == [[one[key] for key in keys] for one in LISTED]


@pytest.mark.parametrize("package", LOCK, ids=lambda package: package["name"])
def test_each_file_is_as_it_was_vendored_and_has_its_licence(package: dict[str, Any]) -> None:
    folder = VENDOR / package["folder"]
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == {row["file"]: row["sha256"] for row in package["files"]}
    assert package["version"] in package["folder"]
    assert package["licences"]
    for name in package["licences"]:
        assert (folder / name).stat().st_size > 300


def test_nothing_else_lies_among_them() -> None:
    names = {path.name for path in VENDOR.iterdir()}
    assert names == {package["folder"] for package in LOCK} | {"vendor.lock"}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_nothing_of_the_page_names_another_host(path: Path) -> None:
    text = NAMESPACES.sub("", path.read_text())
    assert not re.findall(r"""https?://[^\s"'`)]+|["'(=]//[^\s"'`)]+""", text)


def test_modules_import_files_that_are_there_and_libraries_load_nothing_from_elsewhere() -> None:
    modules = [path for path in STATIC.rglob("*") if path.suffix in {".js", ".mjs"}]
    assert len(modules) > len(LOCK)
    for path in modules:
        text = path.read_text()
        if VENDOR in path.parents:
            assert not LOADS.search(text), path
            text = re.sub(r"/\*.*?\*/|^\s*(?://|\*).*$", "", text, flags=re.DOTALL | re.MULTILINE)
        for found in IMPORT.finditer(text):
            if VENDOR in path.parents and not found["what"].startswith("."):
                continue  # words in a text of its own; a bare import would be a complaint in the browser
            assert (path.parent / found["what"]).is_file(), (path, found["what"])


def test_the_markup_and_the_styles_name_files_that_are_there() -> None:
    for path in (STATIC / "index.html", *STATIC.glob("*.css")):
        for name in re.findall(r"""(?:href|src)="([^"]+)\"""", path.read_text()):
            assert (STATIC.parent / name).is_file(), name  # beside the page, whatever path a proxy has it under
    katex = next(VENDOR.glob("katex-*"))
    for name in re.findall(r"url\(([^)]+\.woff2)\)", (katex / "katex.css").read_text()):
        assert (katex / name).is_file(), name
