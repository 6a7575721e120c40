"""An image's final stage laid out in a folder, and its entry command run there as the image would run it.

What a ``COPY`` takes from the checkout is the real file. Stand-ins are the virtual environment (these tests' own
Python), llama-server where an image has one (the wheel's) and the build of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.docker.dockerfiles import ROOT, Image, copies
from tests.docker.pythons import lay_python, may_become_others
from tests.docker.toolchains import SCRIPT, Toolchain, program
from tests.support.processes import WorkerProcess


class Layout:
    """An image's files under ``root``.

    Args:
        image: the image.
        root: an empty folder that any user may enter.
        model: a model to lay where the image, or the operator's volume, has it.
    """

    def __init__(self, image: Image, root: Path, model: Path) -> None:
        self.image = image
        self.root = root
        self.workdir = self._place(image.last("WORKDIR"))
        for folder in ("", "binaries", "models", "models/text"):
            path = self.workdir / "data" / folder
            path.mkdir(parents=True)
            if os.getuid() == 0:
                os.chown(path, 10001, 0)
            path.chmod(0o775)
        for copy in copies(image.instructions):
            for source in () if copy.stage else copy.sources:
                target = self._place(copy.destination) / Path(source).name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, target)
        self._lay_python()
        link = self._place(image.environment().get("MODEL_PATH", "/app/data/models/text/model.gguf"))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(model)

    def _place(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _lay_python(self) -> None:
        """The virtual environment that the stage ``package`` makes."""
        python, variables = lay_python(self.root / "python")
        assignments = " ".join(f"{name}='{value}'" for name, value in variables.items())
        self.python = f"{assignments} exec {python}"
        self._script("/opt/velesio/bin/velesio-worker", "velesio_worker")

    def _script(self, path: str, module: str) -> None:
        program(self._place(path), f'#!/bin/sh\n{self.python} -m {module} "$@"\n')

    def lay_llama_server(self) -> None:
        """The server that a stage ``compiled`` or ``llama-server`` yields."""
        self._script("/opt/llama/bin/llama-server", "velesio_worker.engines.llama.embedded")

    def lay_toolchain(self) -> None:
        """What the stage ``toolchain`` yields, such that a build takes no time: the script itself is the real one."""
        server = (
            f'#!/bin/sh\n[ "$1" = --version ] && exit\n{self.python} -m velesio_worker.engines.llama.embedded "$@"\n'
        )
        tools = Toolchain(self._place("/opt/llama"), server=server)
        shutil.copytree(tools.programs, tools.kit / "tools" / "bin", symlinks=True)
        (tools.kit / "tools" / "bin").chmod(0o777)  # the stand-in for CMake keeps a log
        (self._place("/opt/llama/docker")).mkdir(exist_ok=True)
        shutil.copy(SCRIPT, self._place("/opt/llama/docker"))
        shutil.copytree(ROOT / "requirements", self._place("/opt/llama/requirements"))

    def environment(self) -> dict[str, str]:
        """What ``ENV`` sets, with paths under ``root`` wherever the image has something there."""
        values = self.image.environment()
        for name, value in values.items():
            parts = [str(self._place(part)) if self._is_ours(part) else part for part in value.split(os.pathsep)]
            values[name] = os.pathsep.join(parts)
        values["PATH"] = f"{values['PATH']}:{os.environ['PATH']}"  # for tini, wherever this host has it
        return values

    def _is_ours(self, path: str) -> bool:
        return path.startswith("/") and path != "/tmp" and self._place(path).exists()  # noqa: S108 (HOME in images)

    def entry(self, *arguments: str) -> list[str]:
        """The entry command; without tini where this host has none."""
        command = self.image.entrypoint()
        if shutil.which("tini") is None:
            command = command[command.index("--") + 1 :]
        return [*command, *arguments]


class ImageProcess(WorkerProcess):
    """The entry command of an image, run as a user of its own where the tests may do that.

    Args:
        log: where its log goes.
        layout: the image.
        settings: what an operator sets.
        user: the user's and the group's number.
    """

    def __init__(self, log: Path, layout: Layout, settings: Mapping[str, str], user: tuple[int, int]) -> None:
        super().__init__(log)
        self._layout = layout
        self._user = user if may_become_others() else None
        own = {"LOG_FORMAT": "json", "LLAMA_PORT": self.environment["LLAMA_PORT"], "TINI_SUBREAPER": "1"}
        self.environment = layout.environment() | own | dict(settings)

    def _popen(self, command: list[str], log: int) -> subprocess.Popen[bytes]:
        uid, gid = self._user or (None, None)
        groups: list[int] | None = [] if self._user else None
        return subprocess.Popen(
            command,
            cwd=self._layout.workdir,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=groups,
        )

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = self._popen(self._layout.entry(), log.fileno())

    def run(self, *command: str) -> int:
        """Run a command as HEALTHCHECK and ``docker exec`` do; returns its exit code."""
        with self._log.open("ab") as log, self._popen(list(command), log.fileno()) as process:
            return process.wait(30)
