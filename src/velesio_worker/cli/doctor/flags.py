"""Which flags a llama-server knows, by its own help, and which command lines can be asked for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

_FLAG: Final = re.compile(r"(?<![\w-])--?[A-Za-z][A-Za-z0-9_-]*")
_ENTRY: Final = re.compile(r" {0,4}-")
_REMOVED: Final = "argument has been removed"
_SERVER: Final = re.compile(r"llama-server[\w-]*")
_EMBEDDED: Final = ["-m", "velesio_worker.engines.llama.embedded"]
_TRANSPARENT: Final = frozenset({"chrt", "env", "ionice", "nice", "numactl", "setsid", "stdbuf", "taskset"})
"""Programs that do no more than start another on this machine: with --help behind it, that one shows its help."""


def split_command(argv: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Part a command into what starts llama-server, and llama-server's arguments.

    Returns:
        both; None for a command that may start anything, so that it cannot be asked for its help: a shell, a script,
        a container, another machine.
    """
    if list(argv[1:3]) == _EMBEDDED:
        return list(argv[:3]), list(argv[3:])
    for index, word in enumerate(argv):
        if _SERVER.fullmatch(PurePath(word).name):
            plain = index == 0 or PurePath(argv[0]).name in _TRANSPARENT
            return (list(argv[: index + 1]), list(argv[index + 1 :])) if plain else None
    return None


def known_flags(help_lines: Sequence[str]) -> frozenset[str]:
    """Return the flags that a llama-server's help tells of, without those that it tells were removed."""
    entries: list[list[str]] = [[]]
    for line in help_lines:
        if _ENTRY.match(line):
            entries.append([])
        entries[-1].append(line)
    texts = (" ".join(" ".join(entry).split()) for entry in entries)
    return frozenset(flag for text in texts if _REMOVED not in text for flag in _FLAG.findall(text))


def unknown_flags(arguments: Sequence[str], known: frozenset[str]) -> list[str]:
    """Return the flags among arguments that are not known, each once; in long ones ``_`` goes for ``-``."""
    found: list[str] = []
    for word in arguments:
        flag = word.partition("=")[0]
        name = flag.replace("_", "-") if flag.startswith("--") else flag
        if _FLAG.fullmatch(flag) and name not in known and flag not in found:
            found.append(flag)
    return found
