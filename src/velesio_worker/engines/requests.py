"""What a job has asked of its engine: who is to blame if that dies or hangs meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto


class Stage(Enum):
    """How far a request has come."""

    UNSENT = auto()
    READ = auto()
    """The engine has it, and has made nothing of it yet."""
    ANSWERED = auto()
    """Its first token came: it is not what an engine dies of."""
    OVER = auto()


class Blame(Enum):
    """Whose request an engine was reading when it was lost."""

    NOBODYS = auto()
    ANOTHERS = auto()
    SHARED = auto()
    """This one and others."""
    OWN = auto()


@dataclass(slots=True, eq=False)
class EngineRequest:
    """One job's request to its engine.

    Attributes:
        alone: whether it is to be read while no other is: an engine was lost when it read this one before. Set once one
            is, too, for whoever sends it the next time.
        stage: how far it has come.
        blame: whose request the engine was reading when this one left it; of interest if the engine was lost then.
        on_answer: called once it is read.
    """

    alone: bool = False
    stage: Stage = Stage.UNSENT
    blame: Blame = Blame.NOBODYS
    on_answer: Callable[[], None] = lambda: None

    @property
    def stopped(self) -> bool:
        """Whether it left its engine in the middle."""
        return self.stage in {Stage.READ, Stage.ANSWERED}

    def sent(self) -> None:
        """The engine is to read it now."""
        if self.stage is Stage.UNSENT:
            self.stage = Stage.READ

    def answered(self) -> None:
        """The engine has read it."""
        if self.stage is Stage.READ:
            self.stage = Stage.ANSWERED
            self.on_answer()

    def over(self) -> None:
        """It has ended in good order."""
        self.stage = Stage.OVER
