"""Engines that a worker which died left behind: noted in a file while they run, ended when the next worker starts."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import orjson
import psutil

from velesio_worker.logs import get_logger

MARK: Final = "VELESIO_ENGINE"
"""A variable in the environment of an engine and all that it starts; its value is drawn for each engine."""

_TERM_SECONDS: Final = 5.0
_SAME_SECONDS: Final = 1.0
"""Start times of one process differ by less, however they are read."""

log = get_logger(__name__)


def new_mark() -> str:
    """Return a value for :data:`MARK`."""
    return secrets.token_hex(8)


def notes_folder() -> Path:
    """The folder of the notes: one for each user of this host."""
    return Path(tempfile.gettempdir()) / f"velesio-worker-{os.getuid()}"


def _own_folder() -> Path | None:
    """Make the folder; None if it cannot be had, or somebody else put another one there."""
    folder = notes_folder()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
            return folder
    log.warning(f"no notes on engines can be kept in {folder}: set TMPDIR to a folder that is yours", action="no_notes")
    return None


@contextlib.contextmanager
def noted(pid: int, mark: str, name: str) -> Generator[None, None, None]:
    """Keep a note of a running engine.

    Args:
        pid: its process, the leader of a process group of its own.
        mark: what its environment carries as :data:`MARK`.
        name: what it is called.
    """
    folder = _own_folder()
    note = folder / f"{name}-{pid}.json" if folder else None
    if note is not None:
        facts = {"name": name, "mark": mark, "engine": _identity(pid), "worker": _identity(os.getpid())}
        with contextlib.suppress(OSError):
            note.write_bytes(orjson.dumps(facts))
    try:
        yield
    finally:
        if note is not None:
            with contextlib.suppress(OSError):
                note.unlink()


def _identity(pid: int) -> dict[str, Any]:
    try:
        return {"pid": pid, "started": psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid, "started": 0.0}


def _lives(identity: dict[str, Any]) -> bool:
    """Whether a process of that number and start time is there."""
    try:
        process = psutil.Process(identity["pid"])
        same = abs(process.create_time() - identity["started"]) < _SAME_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end_orphans() -> list[int]:
    """End what is left of engines whose worker is gone; blocks for a few seconds if there is any.

    Returns:
        the processes that were ended.
    """
    folder = _own_folder()
    ended: list[int] = []
    for note in sorted(folder.glob("*.json")) if folder else ():
        try:
            facts: dict[str, Any] = orjson.loads(note.read_bytes())
            if _lives(facts["worker"]):
                continue
            ended += _end_family(facts)
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
            log.debug(f"{note} is no note of an engine", action="bad_note")
        with contextlib.suppress(OSError):
            note.unlink()
    return ended


def _end_family(facts: dict[str, Any]) -> list[int]:
    family = [process for process in psutil.process_iter() if _belongs(process, facts)]
    for process in family:
        log.warning(
            f"ending {facts['name']}, which a worker that died left behind",
            action="orphan_ended",
            pid=process.pid,
            dead_worker=facts["worker"]["pid"],
        )
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(family, timeout=_TERM_SECONDS)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=_TERM_SECONDS)
    return [process.pid for process in family]


def _belongs(process: psutil.Process, facts: dict[str, Any]) -> bool:
    """Whether a process is that engine, or was started by it: it carries the mark, or its number and start time fit."""
    if process.pid == facts["engine"]["pid"]:
        return _lives(facts["engine"])
    try:
        return process.environ().get(MARK) == facts["mark"]
    except (psutil.Error, OSError):
        return False
