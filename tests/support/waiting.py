"""Waiting for conditions that nobody announces."""

from __future__ import annotations

from collections.abc import Callable

import anyio

LIMIT = 60.0


async def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Wait until ``condition`` holds, for ``limit`` seconds at most."""
    with anyio.fail_after(limit):
        while True:
            if condition():
                return
            await anyio.sleep(0.005)
