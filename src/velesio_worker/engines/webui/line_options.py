"""How the line before a WebUI is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Merging:
    """How many images may be made at once for several jobs; outlives the WebUI.

    Attributes:
        most: so many.
    """

    most: int


@dataclass(frozen=True, slots=True)
class LineOptions:
    """How a line treats its WebUI.

    Attributes:
        merging: how many images may be made at once for several jobs.
        shared: whether others may use the WebUI, too.
        previews: whether progress is shown in pictures.
        work: how much the WebUI has done so far, as a number that rises while it works; None if nobody can know.
        kill: ends a WebUI that goes on with what nobody wants; None if it is not the worker's own.
    """

    merging: Merging
    shared: bool
    previews: bool
    work: Callable[[], float] | None
    kill: Callable[[], None] | None
