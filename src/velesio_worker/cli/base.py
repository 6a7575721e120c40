"""What the commands share: exit codes, the event loop."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] (no other name)
"""What a command adds itself to."""


def run_async(main: Callable[[], Awaitable[int]]) -> int:
    """Run a coroutine function on uvloop where it is installed."""
    fast = importlib.util.find_spec("uvloop") is not None
    return anyio.run(main, backend_options={"use_uvloop": fast})
