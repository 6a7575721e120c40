"""Tables with hundreds of rows that take no time and no fixture: one test for all of them, which names what fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import pytest

_LONGEST: Final = 300
"""Characters of a row that are shown."""

_FAILURES: Final = (Exception, pytest.fail.Exception)


def table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Run a test once for each row; it fails with all rows that do, each with its values.

    A test for each would cost more than what is tested, in every process of a run. ``parametrize`` is for rows that
    take fixtures, or time.

    Args:
        names: the test's parameters.
        rows: a value for each of them.
    """
    listed = list(rows)
    assert listed, "a table without rows tests nothing"

    def decorate(test: Callable[..., None]) -> Callable[[], None]:
        def run() -> None:
            failed: list[BaseException] = []
            for row in listed:
                try:
                    test(**dict(zip(names, row, strict=True)))
                except _FAILURES as error:
                    shown = ", ".join(f"{name}={value!r}" for name, value in zip(names, row, strict=True))
                    error.add_note(f"in the row {shown:.{_LONGEST}}")
                    failed.append(error)
            if failed:
                raise BaseExceptionGroup(f"{len(failed)} of {len(listed)} rows", failed)

        run.__name__, run.__qualname__, run.__module__ = test.__name__, test.__qualname__, test.__module__
        run.__doc__ = test.__doc__
        return run

    return decorate
