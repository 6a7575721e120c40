"""What the commands share: exit codes, the event loop, and how they print."""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import anyio
import orjson

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] (no other name)
"""What a command adds itself to."""


def run_async(main: Callable[[], Awaitable[int]]) -> int:
    """Run a coroutine function on uvloop where it is installed."""
    fast = importlib.util.find_spec("uvloop") is not None
    return anyio.run(main, backend_options={"use_uvloop": fast})


def print_json(value: object) -> None:
    """Print a value for programs."""
    print(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode())


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def harmless(text: str) -> str:
    """Write out what others could have the operator's terminal do; line feed and tab stay."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
