"""Pythons of their own, for what is measured beside this project, and the environment that our own processes have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent


class MissingPeerError(Exception):
    """A peer is not to be had; the text says why."""


def environment() -> dict[str, str]:
    """Return what our own processes run with: the sources of this very tree."""
    return {**os.environ, "LOG_FORMAT": "json", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}


def interpreter(name: str) -> str:
    """Return the Python of the environment that requirements/<name>.txt describes; makes it if need be.

    Raises:
        MissingPeerError: it cannot be made.
    """
    pins, folder = ROOT / "requirements" / f"{name}.txt", ROOT / "data" / "binaries" / name
    python, made_from = folder / "bin" / "python", folder / "pins.txt"
    if made_from.exists() and made_from.read_bytes() == pins.read_bytes():
        return str(python)
    print(f"==> installing requirements/{name}.txt into {folder.relative_to(ROOT)} (once)", file=sys.stderr, flush=True)
    install = (str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            [*install, "--require-hashes", "--no-deps", "-r", str(pins)],
            check=True,
            timeout=600,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise MissingPeerError(f"requirements/{name}.txt cannot be installed here ({error})") from None
    shutil.copy(pins, made_from)
    return str(python)
