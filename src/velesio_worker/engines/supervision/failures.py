"""How often an engine has failed, and when it is tried again."""

from __future__ import annotations

import random
from typing import Final

import anyio

FAILURES: Final = 5
"""So many failures in a row, none after a steady run, and an engine is given up."""

LONGEST_DELAY: Final = 60.0
RETRY_SECONDS: Final = 300.0
"""After how long an engine that was given up is tried again all the same."""


class Failures:
    """What has gone wrong with one engine.

    Attributes:
        count: how often it has failed in a row.
        reason: why it was given up; empty if it was not.
        last_error: what happened last; empty if nothing did since it was ready.
        losses: how often it went away while it served.
    """

    def __init__(self) -> None:
        self.count = 0
        self.reason = ""
        self.last_error = ""
        self.losses = 0
        self._retry_at = float("inf")
        self._fingerprint: object = None

    @property
    def near_the_end(self) -> bool:
        """Whether one more failure is one too many."""
        return self.count + 1 >= FAILURES

    def forgive(self) -> None:
        """Begin anew: it may be tried again."""
        self.reason = ""
        self.count = 0

    def add(self, reason: str, *, final: bool) -> str | None:
        """Count a failure; returns None, or how often it failed, for people, if it is given up now."""
        self.count += 1
        if not final and self.count < FAILURES:
            return None
        often = "" if final else f"it failed {self.count} times in a row; the last time: "
        self.reason = often + reason
        self._retry_at = anyio.current_time() + RETRY_SECONDS
        return often

    def remember(self, fingerprint: object) -> None:
        """Keep what changes when somebody mends what the engine was given up for."""
        self._fingerprint = fingerprint

    def is_mended(self, fingerprint: object) -> bool:
        """Whether it may be tried again: somebody mended it, or enough time has gone by."""
        return anyio.current_time() > self._retry_at or fingerprint != self._fingerprint

    def delay(self) -> float:
        """How long to wait before the next try, in seconds: longer each time."""
        return min(LONGEST_DELAY, 2.0 ** (self.count - 1)) * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)
