"""A Python that any user of this host may run."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import sysconfig
from pathlib import Path
from typing import Final

import velesio_worker

PACKAGES: Final = Path(os.path.realpath(velesio_worker.__file__)).parents[1]
_LEFT_OUT: Final = shutil.ignore_patterns("site-packages", "test", "idlelib", "tkinter", "config-*")


def is_open(path: Path) -> bool:
    """Tell if any user can reach a file."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def may_become_others() -> bool:
    """Tell if tests may run a process as any user, and if that one could read the project."""
    return os.getuid() == 0 and is_open(PACKAGES / "x") and is_open(Path(sys.prefix) / "x")


def lay_python(folder: Path) -> tuple[Path, dict[str, str]]:
    """Return this Python, in ``folder`` if it lies where only its owner may look, and what it wants in PATH variables.

    The files are linked rather than copied where that can be.
    """
    program = Path(os.path.realpath(sys.executable))
    paths = [str(PACKAGES), *(path for path in sys.path if path.startswith(sys.prefix + os.sep))]
    variables = {"PYTHONPATH": os.pathsep.join(paths)}
    if is_open(program):
        return program, variables
    standard = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    shutil.copytree(standard, folder / "lib" / standard.name, ignore=_LEFT_OUT, copy_function=_link)
    for library in standard.parent.glob("libpython*.so*"):
        _link(str(library), str(folder / "lib" / library.name))
    (folder / "bin").mkdir()
    _link(str(program), str(folder / "bin" / program.name))
    return folder / "bin" / program.name, variables | {"LD_LIBRARY_PATH": str(folder / "lib")}


def _link(source: str, target: str) -> str:
    with contextlib.suppress(OSError):
        os.link(source, target)
        return target
    return shutil.copy(source, target)
