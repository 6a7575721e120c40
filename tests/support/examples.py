"""How many examples a test of properties has that wants more or fewer than the others."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import HealthCheck, settings

USUAL: Final = 100
"""Those of a test that says nothing, in the profile ``patient``."""


def examples(number: int, *, suppress: tuple[HealthCheck, ...] = ()) -> settings:
    """Have so many examples, and in the profile ``quick`` as much smaller a number as the others have there."""
    usual: Any = settings()  # those of the profile
    return settings(
        max_examples=max(1, number * usual.max_examples // USUAL),
        suppress_health_check=[*usual.suppress_health_check, *suppress],
    )
