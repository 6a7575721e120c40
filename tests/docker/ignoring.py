"""Which files ``.dockerignore`` lets into a build: Docker's rules, as far as that file makes use of them."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath


def _matches(pattern: str, path: PurePosixPath) -> bool:
    """A pattern matches a path if it matches the path or a folder above it; ``*`` does not cross a slash."""
    parts = {"**/": "(?:.*/)?", "*": "[^/]*"}
    expression = "".join(parts.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*/|\*)", pattern))
    return any(re.fullmatch(expression, str(candidate)) for candidate in (path, *path.parents))


def is_sent(rules: Path, path: str) -> bool:
    """Tell if a file of the context, relative to it, is sent to the build: the last rule that matches decides."""
    sent = True
    for line in rules.read_text().splitlines():
        if line and not line.startswith("#") and _matches(line.removeprefix("!"), PurePosixPath(path)):
            sent = line.startswith("!")
    return sent
