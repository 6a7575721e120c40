"""Requests that come again and again, or many at once, and that nobody wants to hear of each time."""

from __future__ import annotations

from typing import Final

_PAGE: Final = "/"
_FILES: Final = "/static/"

QUIET_ROUTES: Final = frozenset({"/livez", "/readyz", "/health", "/metrics", "/static/{path:path}"})
"""Their lines are for ``LOG_LEVEL=debug``."""


def is_counted(path: str) -> bool:
    """Whether a request takes part of a caller's limits: orchestrators' do not, nor the chat page's two dozen files."""
    return path not in QUIET_ROUTES and path != _PAGE and not path.startswith(_FILES)
