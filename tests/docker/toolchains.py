"""Stand-ins for CMake and nvcc, and a kit of source and tools, so that a build takes no time and no network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.docker.dockerfiles import FOLDER

SCRIPT: Final = FOLDER / "build-llama-server.sh"

SERVER: Final = "#!/bin/sh\nexit 0\n"
"""What the stand-in for CMake builds; the script tries it with --version."""

_CMAKE: Final = """#!/bin/sh
# Notes its arguments; with --build it waits for the file `go`, if there is a file `wait`, and "builds".
here=$(dirname "$0")
printf '%s\\n' "$*" >> "$here/cmake.log"
[ ! -e "$here/refuses" ] || exit 1
if [ "$1" = --build ]; then
    [ ! -e "$here/fails" ] || exit 1
    touch "$here/building"
    while [ -e "$here/wait" ] && [ ! -e "$here/go" ]; do sleep 0.02; done
    mkdir -p "$2/bin"
    cp "$here/server" "$2/bin/llama-server"
    chmod 755 "$2/bin/llama-server"
fi
"""
_NVCC: Final = "#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n"
_BASICS: Final = ("basename", "cat", "chmod", "cp", "dirname", "flock", "id", "mkdir", "mktemp", "mv", "nproc", "rm")
_MORE_BASICS: Final = ("sed", "sh", "sleep", "touch")


def program(path: Path, text: str) -> None:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Toolchain:
    """A folder that is all of PATH, with what a build needs, and a kit.

    Args:
        folder: where both are made.
        nvcc: the release of CUDA that there is; None for none.
        server: what is built.
    """

    def __init__(self, folder: Path, *, nvcc: str | None = None, server: str = SERVER) -> None:
        self.programs = folder / "programs"
        self.kit = folder / "kit"
        self.temporary = folder / "temporary"
        (self.kit / "source").mkdir(parents=True)
        (self.kit / "source" / "LICENSE").write_text("MIT License\n")
        self.temporary.mkdir()
        program(self.programs / "cmake", _CMAKE)
        program(self.programs / "c++", "#!/bin/sh\n")
        (self.programs / "server").write_text(server)
        for name in (*_BASICS, *_MORE_BASICS):
            place = shutil.which(name)
            assert place is not None, name
            (self.programs / name).symlink_to(place)
        if nvcc:
            program(self.programs / "nvcc", _NVCC.format(release=nvcc))

    def start(self, destination: Path, **variables: str) -> subprocess.Popen[str]:
        """Start a build into ``destination``."""
        environment = {"PATH": str(self.programs), "LLAMA_KIT": str(self.kit), "TMPDIR": str(self.temporary)}
        return subprocess.Popen(
            [SCRIPT, destination],
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def build(self, destination: Path, **variables: str) -> tuple[int, str]:
        """Build into ``destination``; returns the exit code and what was said."""
        process = self.start(destination, **variables)
        said, _ = process.communicate(timeout=30)
        return process.returncode, said

    def commands(self) -> list[str]:
        """The command lines that CMake got."""
        log = self.programs / "cmake.log"
        return log.read_text().splitlines() if log.exists() else []

    def names(self, destination: Path) -> set[str]:
        """What lies in ``destination``, hidden files with it."""
        return {path.name for path in destination.iterdir()}
