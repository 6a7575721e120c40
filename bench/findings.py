"""What an attack found, and the memory of those attacked."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import psutil

from fleet import Fleet

MIB: Final = 1024 * 1024


class BrokenError(Exception):
    """Something that has to hold did not; says what."""


@dataclass(slots=True)
class Findings:
    """What did not hold, and what was drawn for it.

    Attributes:
        drawn: how many draws there were.
        ended: how jobs ended, by code or reason.
        worst: the largest figures, by name.
        broken: what did not hold, in words, with the file of what was drawn.
    """

    folder: Path
    drawn: Counter[str] = field(default_factory=Counter[str])
    ended: Counter[str] = field(default_factory=Counter[str])
    worst: dict[str, float] = field(default_factory=dict[str, float])
    broken: list[str] = field(default_factory=list[str])

    def note(self, name: str, figure: float) -> None:
        self.worst[name] = max(figure, self.worst.get(name, 0.0))

    def add(self, target: str, what: BrokenError, drawn: object) -> None:
        path = self.folder / f"{target}-{len(self.broken)}.txt"
        path.write_text(f"{what}\n{drawn!r}\n")
        self.broken.append(f"{target}: {what} ({path.name})")
        print(f"BROKEN {self.broken[-1]}", file=sys.stderr, flush=True)


class Memory:
    """The memory of processes, looked at ten times a second.

    Attributes:
        grown: by how much the worker and its engines are larger than at the start, in bytes, at most.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._first: dict[int, int] = {}
        self.grown = [0, 0]

    def _sizes(self) -> list[tuple[int, psutil.Process]]:
        workers = [worker for replica in self._fleet.replicas if (worker := replica.now)]
        return [
            *((0, psutil.Process(worker.process.pid)) for worker in workers),
            *((1, engine) for worker in workers for engine in worker.engines()),
        ]

    def look(self) -> None:
        with suppress(psutil.NoSuchProcess):
            for place, process in self._sizes():
                size = process.memory_info().rss
                first = self._first.setdefault(process.pid, size)
                self.grown[place] = max(self.grown[place], size - first)

    async def watch(self) -> None:
        while True:
            self.look()
            await anyio.sleep(0.1)
