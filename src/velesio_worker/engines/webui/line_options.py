"""How the line before a WebUI is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a WebUI is looked at, and how long it is waited for; in seconds where nothing else is said.

    Attributes:
        poll: how often it is asked how far it is.
        preview_polls: every which of these asks for a picture, too, which costs the WebUI some work.
        interrupt: how often a request that nobody wants any more is interrupted: one that comes too early is lost.
        replace: how long such a request may go on before a WebUI of the worker's own is replaced.
        listen: how often signs of life are looked for where progress does not show them.
        unknown: how long a request that was sent may be unknown by its id before the WebUI is taken to keep none.
    """

    poll: float = 0.5
    preview_polls: int = 4
    interrupt: float = 0.5
    replace: float = 20.0
    listen: float = 5.0
    unknown: float = 10.0


USUAL: Final = Pace()


@dataclass(frozen=True, slots=True)
class LineOptions:
    """How a line treats its WebUI.

    Attributes:
        most: how many images may be made at once for several jobs.
        shared: whether others may use the WebUI, too.
        previews: whether progress is shown in pictures.
        work: how much the WebUI has done so far, as a number that rises while it works; None if nobody can know.
        kill: ends a WebUI that goes on with what nobody wants; None if it is not the worker's own.
        pace: how often it is looked at.
    """

    most: int
    shared: bool
    previews: bool
    work: Callable[[], float] | None = None
    kill: Callable[[], None] | None = None
    pace: Pace = USUAL
