"""What the commands share: exit codes, the event loop, and how they print."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
import orjson

from velesio_worker.core.terminal import RED, painted
from velesio_worker.wire.printable import printable, printable_json

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130


def run_async(main: Callable[[], Awaitable[int]]) -> int:
    """Run a coroutine function on uvloop where it is installed."""
    fast = importlib.util.find_spec("uvloop") is not None
    return anyio.run(main, backend_options={"use_uvloop": fast})


def print_json(value: object) -> None:
    """Print a value for programs."""
    print(printable_json(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode()))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, each column as wide as its widest cell; a row is one line, whatever stands in it."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def complain(text: str) -> None:
    """Say on standard error what went wrong, and what to do."""
    print(f"{painted('error:', RED, sys.stderr)} {harmless(text)}", file=sys.stderr)


def harmless(text: str) -> str:
    """Write out what others could have the operator's terminal do; line feed and tab stay."""
    return printable(text, keep="\n\t")
