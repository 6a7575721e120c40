"""How much an engine may send for one job: what was asked of it is the worker's to keep."""

from __future__ import annotations

import math
import time
from typing import Any, Final

from velesio_worker.wire.errors import ResultTooLargeError
from velesio_worker.wire.text_parameters import UNLIMITED

CONTEXTS: Final = 16
"""A text without a limit ends after so many contexts: a server that shifts its context goes on beyond one."""

PROGRESS_SECONDS: Final = 0.1
"""How often it is told at most how far a prompt is read, after the first few times."""

_FIRST: Final = 10

_TEXTS: Final = frozenset({"text", "role", "content", "reasoning_content", "index", "finish_reason", "delta"})
"""What a choice of a text has; whatever else it has is gathered in the result with its event's other bytes."""


class Budget:
    """Counts what comes for one job.

    Args:
        largest: the largest result, in bytes (``MAX_RESULT_BYTES``).
        context: how many tokens the job's context has.
    """

    def __init__(self, largest: int, context: int) -> None:
        self._largest = largest
        self._context = context
        self._bytes = 0
        self._told_at = -math.inf
        self._told = 0
        self._whole = False
        self._most = context * CONTEXTS

    def allow(self, left: int) -> None:
        """Say how many tokens may still come; a server sends no more pieces than tokens."""
        self._most = self._context * CONTEXTS if left == UNLIMITED else left

    def spend(self, data: bytes, choice: dict[str, Any], pieces: int) -> bool:
        """Count a piece of output.

        Args:
            data: the event that it came with.
            choice: what is published of it.
            pieces: how many pieces there are with it.

        Returns:
            whether it has to be the last one.

        Raises:
            ResultTooLargeError: they are more than the result may have.
        """
        delta: dict[str, Any] | None = choice.get("delta")
        said = choice if delta is None else delta
        rich = said.keys() - _TEXTS or choice.keys() - _TEXTS
        size = len(data) if rich else sum(len(text) for text in said.values() if isinstance(text, str))
        return self.spend_text(size, pieces) and "tool_calls" not in said  # of which one token may begin several

    def spend_text(self, size: int, pieces: int) -> bool:
        """Count a piece of text of a ``size`` in bytes; otherwise as :meth:`spend`."""
        self._bytes += size
        if self._bytes > self._largest:
            raise ResultTooLargeError(
                f"The result has more than the {self._largest} bytes that MAX_RESULT_BYTES allows: ask for less."
            )
        return pieces > self._most

    def tells(self, *, whole: bool) -> bool:
        """Whether it is told how far the prompt is read: the first times, the last, and now and then between them."""
        now = time.monotonic()
        too_soon = self._told >= _FIRST and now - self._told_at < PROGRESS_SECONDS
        if self._whole or (too_soon and not whole):
            return False
        self._told_at, self._told, self._whole = now, self._told + 1, whole
        return True
