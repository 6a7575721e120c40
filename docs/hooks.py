"""What MkDocs has to be told of these pages, which are written to be read on GitHub as well."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT: Final = Path(__file__).resolve().parent.parent
_BESIDE: Final = {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
"""Pages that stand in the repository's root, and what they are called on the site."""

_MARKS: Final = re.compile(r"^(\s*```\w+)(?: +(?:needs|session|covered-by)=\S+)+$", re.MULTILINE)
_OUT_OF_DOCS: Final = re.compile(rf"\]\(((?:\.\./)*)\.\./({'|'.join(map(re.escape, _BESIDE))})(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Have the pages of the repository's root on the site."""
    for source, page in _BESIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(_ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Take the marks of the tests from code blocks, and have links lead to where files are on the site."""
    markdown = _MARKS.sub(r"\1", markdown)
    if page.file.src_uri in _BESIDE.values():
        return markdown.replace("](docs/", "](")
    return _OUT_OF_DOCS.sub(lambda link: f"]({link[1]}{_BESIDE[link[2]]}{link[3] or ''})", markdown)
