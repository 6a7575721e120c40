"""Engines that a worker which died left behind: noted in a file while they run, ended when the next worker starts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from velesio_worker.core.logs import get_logger

MARK: Final = "VELESIO_ENGINE"
"""A variable in the environment of an engine and all that it starts; its value is drawn for each engine."""

_TERM_SECONDS: Final = 5.0
_SAME_SECONDS: Final = 1.0
"""Start times of one process differ by less, however they are read."""

_OTHERS: Final = 0o077
_WRITABLE_BY_OTHERS: Final = 0o022
_LARGEST: Final = 64 * 1024
"""Bytes of a note that are read; one has some hundred."""

Pid = Annotated[int, Field(ge=1, lt=2**31)]

log = get_logger(__name__)


class _Note(BaseModel):
    """What is known of an engine, and of its worker; strict, since processes are ended on the word of it."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: str
    mark: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    pid: Pid
    started: float
    worker: Pid


def new_mark() -> str:
    """Return a value for :data:`MARK`."""
    return secrets.token_hex(8)


def notes_folder() -> Path:
    """The folder of the notes: one for each user of this host."""
    return Path(tempfile.gettempdir()) / f"velesio-worker-{os.getuid()}"


def _own_folder() -> Path | None:
    """Make the folder; None if it cannot be had, or somebody else put another one there."""
    folder, remedy = Path("the temporary folder"), "set TMPDIR to a folder that is yours"
    with contextlib.suppress(OSError):
        folder = notes_folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
            if not facts.st_mode & _OTHERS:
                return folder
            remedy = f"others may write or read there: remove what is in it, and chmod 700 {folder}"
    log.warning(f"no notes on engines can be kept in {folder}: {remedy}", action="no_notes")
    return None


def _open(path: Path) -> BinaryIO:
    """Open a note; whatever else lies under its name is an OSError, and nothing is waited for."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    facts = os.fstat(file.fileno())
    if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & _WRITABLE_BY_OTHERS:
        return file
    file.close()
    raise OSError(f"{path} is no note of this user's")


def noted(pid: int, mark: str, name: str) -> contextlib.ExitStack:
    """Keep a note of a running engine, whose environment carries ``mark`` as :data:`MARK`, until the context is left.

    It is locked, which says that this worker lives: the kernel undoes that however the worker ends, and neither a new
    start of the machine, nor its clock, nor a container's process numbers can make a living worker look like a dead
    one. Where no note can be kept the engine runs without.
    """
    folder = _own_folder()
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        if folder is not None:
            started = 0.0  # what it started is known by its mark, should it have ended already
            with contextlib.suppress(psutil.Error):
                started = psutil.Process(pid).create_time()
            note = _Note(name=name, mark=mark, pid=pid, started=started, worker=os.getpid())
            path = folder / f"{name}-{pid}.json"
            draft = path.with_suffix(".draft")  # so that nobody sees the note without its lock
            file = stack.enter_context(draft.open("wb"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(note.model_dump_json().encode())
            file.flush()
            draft.rename(path)
            stack.callback(_drop, path)
            return stack.pop_all()
    return contextlib.ExitStack()


def _drop(note: Path) -> None:
    with contextlib.suppress(OSError):
        note.unlink()


def end_orphans() -> list[int]:
    """End what is left of engines whose worker is gone, and return the ids; blocks for seconds if there is any."""
    folder = _own_folder()
    ended: list[int] = []
    for path in sorted(folder.glob("*.json")) if folder else ():
        with contextlib.suppress(OSError), _open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its worker lives
            try:
                note = _Note.model_validate_json(file.read(_LARGEST))
            except ValidationError:
                log.debug(f"{path} is no note of an engine", action="bad_note")
            else:
                family = [process for process in psutil.process_iter() if _belongs(process, note)]
                why = f"ending {note.name}, which a worker that died left behind"
                ended += _end(family, why, dead_worker=note.worker)
            path.unlink()
    return ended


def end_marked(mark: str, name: str) -> None:
    """End what an engine of that :data:`MARK` left outside its process group; blocks for seconds if there is any."""
    family = [process for process in psutil.process_iter() if _is_marked(process, mark)]
    _end(family, f"ending what {name} left behind")


def _end(family: Sequence[psutil.Process], why: str, **facts: int) -> list[int]:
    for process in family:
        log.warning(why, action="orphan_ended", pid=process.pid, **facts)
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(family, timeout=_TERM_SECONDS)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=_TERM_SECONDS)
    return [process.pid for process in family]


def _is_marked(process: psutil.Process, mark: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return process.pid != os.getpid() and process.environ().get(MARK) == mark
    return False


def _belongs(process: psutil.Process, note: _Note) -> bool:
    """Whether a process is that engine, or was started by it: it carries the mark, or its number and start time fit."""
    if _is_marked(process, note.mark):
        return True
    with contextlib.suppress(psutil.Error):
        same = process.pid == note.pid != os.getpid() and abs(process.create_time() - note.started) < _SAME_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    return False
