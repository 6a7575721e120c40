"""Prometheus's own checker of rules: the one on PATH, else that of Debian's package, unpacked and not installed."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

INSTALL: Final = "install promtool (Debian and Ubuntu: apt install prometheus; macOS: brew install prometheus)"
FETCH_SECONDS: Final = 30
FORGET_SECONDS: Final = 600
"""After how long it is tried again to fetch what could not be fetched."""


class NoPromtoolError(Exception):
    """There is no promtool, and why."""


def find_promtool(cache: Path) -> Path:
    """Return the program, fetched into ``cache`` if need be; processes that want it at the same time wait for one.

    Raises:
        NoPromtoolError: there is none, and none was to be had within ``FETCH_SECONDS``.
    """
    installed = shutil.which("promtool")
    if installed:
        return Path(installed)
    kept, failure = cache / "promtool", cache / "failure"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            if failure.exists() and time.time() - failure.stat().st_mtime < FORGET_SECONDS:
                raise NoPromtoolError(failure.read_text())
            try:
                _fetch(kept)
            except NoPromtoolError as error:
                failure.write_text(str(error))
                raise
    return kept


def _fetch(target: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoPromtoolError(INSTALL)
    quick = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"]
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        _run(["apt-get", *quick, "download", "prometheus"], folder)
        for package in folder.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(package), "."], folder)
        try:
            (folder / "usr/bin/promtool").replace(target)
        except FileNotFoundError:
            raise NoPromtoolError(f"Debian's package has no promtool: {INSTALL}") from None


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoPromtoolError(f"{command[0]} took longer than {FETCH_SECONDS} s: {INSTALL}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise NoPromtoolError(f"{command[0]}: {said[-1] if said else error}: {INSTALL}") from None
