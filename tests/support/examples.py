"""How many examples a test of properties has that wants more or fewer than the others."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import HealthCheck, settings

USUAL: Final = 100
"""Those of a test that says nothing, where ``number`` is meant as it stands; the profiles have a share of that."""


def examples(number: int, *, suppress: tuple[HealthCheck, ...] = ()) -> settings:
    """Have so many examples, as much more or fewer than other tests as that is of the usual number."""
    usual: Any = settings()  # those of the profile
    return settings(
        max_examples=max(1, number * usual.max_examples // USUAL),
        suppress_health_check=[*usual.suppress_health_check, *suppress],
    )
