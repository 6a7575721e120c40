"""Programs that tests run where they are there: the one on PATH, else that of Debian's package, not installed."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

FETCH_SECONDS: Final = 30
FORGET_SECONDS: Final = 600
"""After how long it is tried again to fetch what could not be fetched."""


class NoProgramError(Exception):
    """There is no such program, and why."""


@dataclass(frozen=True)
class DebianProgram:
    """A program, and the packages that it comes from.

    Attributes:
        name: of the program.
        packages: Debian's names of them: its own first, then those of libraries that it needs.
        install: how a person gets it.
    """

    name: str
    packages: tuple[str, ...]
    install: str


PROMTOOL: Final = DebianProgram(
    "promtool",
    ("prometheus",),
    "install promtool (Debian and Ubuntu: apt install prometheus; macOS: brew install prometheus)",
)
REDIS_CLI: Final = DebianProgram(
    "redis-cli",
    ("redis-tools", "liblzf1", "libjemalloc2"),
    "install redis-cli (Debian and Ubuntu: apt install redis-tools; macOS: brew install redis)",
)


def program_or_skip(program: DebianProgram, config: pytest.Config, factory: pytest.TempPathFactory) -> Path:
    """Return where a program is, fetched into pytest's cache if need be; without one the test is skipped."""
    cache: pytest.Cache | None = config.cache
    try:
        return find_program(program, cache.mkdir(program.name) if cache else factory.mktemp(program.name))
    except NoProgramError as error:
        pytest.skip(str(error))


def find_program(program: DebianProgram, cache: Path) -> Path:
    """Return the program, fetched into ``cache`` if need be; processes that want it at the same time wait for one.

    Raises:
        NoProgramError: there is none, and none was to be had within ``FETCH_SECONDS``.
    """
    installed = shutil.which(program.name)
    if installed:
        return Path(installed)
    kept, failure = cache / program.name, cache / "failure"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            if failure.exists() and time.time() - failure.stat().st_mtime < FORGET_SECONDS:
                raise NoProgramError(failure.read_text())
            try:
                _fetch(program, kept)
            except NoProgramError as error:
                failure.write_text(str(error))
                raise
    return kept


def _fetch(program: DebianProgram, target: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoProgramError(program.install)
    quick = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"]
    kept = target.parent / "unpacked"
    kept.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        _run(["apt-get", *quick, "download", *program.packages], folder, program)
        for package in folder.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(package), "."], folder, program)
        for file in (folder / "usr/bin" / program.name, *folder.glob("usr/lib/*/*.so*")):
            if file.exists():
                shutil.copy(file, kept)
    if not (kept / program.name).is_file():
        raise NoProgramError(f"Debian's package has no {program.name}: {program.install}")
    target.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{kept}" exec "{kept / program.name}" "$@"\n')
    target.chmod(0o755)


def _run(command: list[str], folder: Path, program: DebianProgram) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoProgramError(f"{command[0]} took longer than {FETCH_SECONDS} s: {program.install}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise NoProgramError(f"{command[0]}: {said[-1] if said else error}: {program.install}") from None
