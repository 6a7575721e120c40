"""Dockerfiles, read: their stages, and all that holds for one of the images."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "docker"
DOCKERFILES: Final = sorted(FOLDER.glob("Dockerfile*"))


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its continuation lines joined: ``COPY`` and ``a b /c``."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    base: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """A ``COPY``: ``stage`` is what ``--from`` says, None for the build context."""

    sources: tuple[str, ...]
    destination: str
    stage: str | None


def read(path: Path) -> tuple[dict[str, str], list[Stage]]:
    """Return the defaults of the global arguments, and the stages in order."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    defaults: dict[str, str] = {}
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "FROM":
            base, _, stage = value.partition(" AS ")
            stages.append(Stage(stage, base, ()))
        elif name and stages:
            last = stages[-1]
            stages[-1] = Stage(last.name, last.base, (*last.instructions, Instruction(name, value.strip())))
        elif name == "ARG":
            key, _, default = value.partition("=")
            defaults[key] = default
    return defaults, stages


def filled(text: str, values: Mapping[str, str]) -> str:
    """Fill ``$NAME`` and ``${NAME}`` in."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], ""), text)


class Image:
    """What one image is made of: its stage's instructions and those of the stages below it, in order.

    Args:
        dockerfile: the Dockerfile's name.
        target: the stage; the last by default, as a build takes it.
        arguments: build arguments.
    """

    def __init__(self, dockerfile: str, target: str | None = None, **arguments: str) -> None:
        defaults, stages = read(FOLDER / dockerfile)
        self.arguments = defaults | arguments
        by_name = {stage.name: stage for stage in stages}
        stage: Stage | None = by_name[target] if target else stages[-1]
        self.base = ""
        self.instructions: list[Instruction] = []
        while stage is not None:
            self.instructions[:0] = stage.instructions
            self.base = filled(stage.base, self.arguments)
            stage = by_name.get(self.base)

    def all(self, name: str) -> list[str]:
        return [instruction.value for instruction in self.instructions if instruction.name == name]

    def last(self, name: str) -> str:
        return self.all(name)[-1]

    def entrypoint(self) -> list[str]:
        return json.loads(self.last("ENTRYPOINT"))

    def environment(self) -> dict[str, str]:
        """What ``ENV`` sets, on top of a PATH as the bases have it."""
        values = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for line in self.all("ENV"):
            pairs = [word.partition("=") for word in shlex.split(line)]
            values |= {key: filled(value, values) for key, _, value in pairs}
        return values

    def labels(self) -> dict[str, str]:
        declared = [word.partition("=") for line in self.all("ARG") for word in shlex.split(line)]
        arguments = {key: default for key, _, default in declared}
        words = [word.partition("=") for line in self.all("LABEL") for word in shlex.split(line)]
        return {key.rpartition(".")[2]: filled(value, arguments) for key, _, value in words}


def copies(instructions: tuple[Instruction, ...] | list[Instruction]) -> list[Copy]:
    """Return what ``COPY`` instructions say."""
    found: list[Copy] = []
    for instruction in instructions:
        if instruction.name == "COPY":
            words = shlex.split(instruction.value)
            stage = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
            *sources, destination = [word for word in words if not word.startswith("--")]
            found.append(Copy(tuple(sources), destination, stage))
    return found
