"""What is left of engines whose worker was killed; real processes, and notes in a folder of the test's own.

No process but those that a test started can come to harm, whatever a mistake in the code makes of the notes.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from tests.support.gone import is_gone, wait_until_gone
from velesio_worker.engines.supervision import orphans
from velesio_worker.engines.supervision.orphans import MARK, end_orphans, new_mark, noted, notes_folder

PYTHON = [sys.executable, "-I", "-S", "-u", "-c"]
SLEEPER = "import time; print('up'); time.sleep(300)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(300)"
pytestmark = pytest.mark.processes

TOKEN = "VELESIO_TEST"
WORKER = """
import os, anyio
from velesio_worker.engines.supervision.process import running

async def main():
    lines = []
    command = ["sh", "-c", "sleep 300 & echo $!; wait"]
    async with running(command, env=os.environ, on_line=lines.append, remedy="", name="sh") as engine:
        while not lines:
            await anyio.sleep(0.01)
        print(engine.pid, lines[0], flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the notes; not made yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert notes_folder().parent == tmp_path
    return notes_folder()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """What the environment of this test's processes carries; all others are out of sight."""
    token = new_mark()
    every = psutil.process_iter

    def is_the_tests(process: psutil.Process) -> bool:
        try:
            return process.environ().get(TOKEN) == token
        except psutil.Error:
            return False

    def the_tests_own() -> Iterator[psutil.Process]:
        return filter(is_the_tests, every())

    monkeypatch.setattr(psutil, "process_iter", the_tests_own)
    return token


Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn(token: str) -> Iterator[Spawn]:
    """Starts processes in groups of their own; those that are left end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str = SLEEPER, **environ: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*PYTHON, code], stdout=subprocess.PIPE, env={TOKEN: token, **environ}, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def started(process: subprocess.Popen[bytes]) -> float:
    return psutil.Process(process.pid).create_time()


def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def write(folder: Path, file: str = "llama-server-1.json", /, **facts: object) -> Path:
    """A note of a worker that has ended."""
    folder.mkdir(mode=0o700, exist_ok=True)
    note = folder / file
    whole = {"name": "llama-server", "mark": new_mark(), "pid": gone(), "started": 0.0, "worker": gone()}
    note.write_bytes(orjson.dumps({**whole, **facts}))
    return note


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help is Linux's")
def test_what_an_engine_of_a_killed_worker_started_is_ended(
    folder: Path, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {**os.environ, "TMPDIR": str(folder.parent), TOKEN: token}
    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, env=environ) as worker:
        assert worker.stdout is not None
        engine, child = map(int, worker.stdout.readline().split())
        assert end_orphans() == [], "its worker lives"
        assert not is_gone(child)
        worker.kill()
    wait_until_gone(engine)  # the kernel's work
    assert not is_gone(child)
    (note,) = folder.iterdir()
    assert note.name == f"sh-{engine}.json"
    assert end_orphans() == [child]
    wait_until_gone(child)
    assert list(folder.iterdir()) == []
    assert "ending sh, which a worker that died left behind" in caplog.text
    assert end_orphans() == []


def test_the_engine_itself_is_ended_where_the_kernel_does_not_help(folder: Path, spawn: Spawn) -> None:
    engine = spawn()
    note = write(folder, pid=engine.pid, started=started(engine))
    assert end_orphans() == [engine.pid]
    assert is_gone(engine.pid)
    assert not note.exists()


def test_an_engine_that_does_not_heed_sigterm_is_killed(
    folder: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "_TERM_SECONDS", 0.2)
    mark = new_mark()
    deaf = spawn(DEAF, **{MARK: mark})
    write(folder, mark=mark)
    assert end_orphans() == [deaf.pid]
    wait_until_gone(deaf.pid)


def test_the_engine_of_a_worker_that_lives_is_left_alone(folder: Path, spawn: Spawn) -> None:
    mark = new_mark()
    engine, child = spawn(**{MARK: mark}), spawn(**{MARK: mark})
    with noted(engine.pid, mark, "llama-server"):
        (note,) = folder.iterdir()
        assert note.name == f"llama-server-{engine.pid}.json"
        assert end_orphans() == []
        assert note.exists()
    assert not is_gone(engine.pid)
    assert not is_gone(child.pid)
    assert list(folder.iterdir()) == []


def test_a_living_worker_is_told_by_its_hold_on_the_note_and_not_by_its_number(folder: Path, spawn: Spawn) -> None:
    mark = new_mark()
    engine = spawn(**{MARK: mark})
    with noted(engine.pid, mark, "llama-server"):
        (note,) = folder.iterdir()
        facts = orjson.loads(note.read_bytes())
        assert facts["worker"] == os.getpid()
        note.write_bytes(orjson.dumps({**facts, "worker": gone(), "started": 0.0}))  # as after a step of the clock
        assert end_orphans() == []
    write(folder, mark=mark, worker=os.getpid())  # a dead worker that had the number that this process has now
    assert end_orphans() == [engine.pid]


def test_a_process_that_has_the_number_of_a_dead_engine_is_left_alone(folder: Path, spawn: Spawn) -> None:
    stranger = spawn()
    note = write(folder, pid=stranger.pid, started=started(stranger) - 60)
    assert end_orphans() == []
    assert not is_gone(stranger.pid)
    assert not note.exists()


def test_processes_of_another_engine_are_left_alone(folder: Path, spawn: Spawn) -> None:
    other, orphan = spawn(**{MARK: new_mark()}), spawn(**{MARK: (mark := new_mark())})
    write(folder, mark=mark)
    assert end_orphans() == [orphan.pid]
    assert not is_gone(other.pid)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"7", b'"worker"', b"{}"])
def test_what_is_no_note_is_dropped(folder: Path, spawn: Spawn, content: bytes) -> None:
    folder.mkdir(mode=0o700)
    (folder / "damaged.json").write_bytes(content)
    engine = spawn()
    write(folder, "whole.json", pid=engine.pid, started=started(engine))
    assert end_orphans() == [engine.pid], "the others count all the same"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "facts",
    [
        {"mark": None},
        {"mark": ""},
        {"mark": "x"},
        {"mark": 5},
        {"pid": -1},
        {"pid": 0},
        {"pid": "1"},
        {"pid": None},
        {"pid": 1.5},
        {"pid": 2**63},
        {"started": "now"},
        {"started": None},
        {"worker": None},
        {"name": None},
    ],
    ids=str,
)
def test_a_damaged_note_is_dropped_and_ends_nobody(folder: Path, spawn: Spawn, facts: dict[str, Any]) -> None:
    bystander, engine = spawn(), spawn()
    whole: dict[str, Any] = {"pid": engine.pid, "started": started(engine)}
    write(folder, **(whole | facts))
    assert end_orphans() == []
    assert not is_gone(bystander.pid)
    assert not is_gone(engine.pid)
    assert list(folder.iterdir()) == []


def test_what_is_no_note_in_the_folder_harms_nothing(folder: Path) -> None:
    (folder / "folder.json").mkdir(parents=True)
    (folder / "other.txt").write_text("mine")
    assert end_orphans() == []
    assert (folder / "other.txt").exists()


def test_the_notes_are_for_this_user_only(folder: Path) -> None:
    with noted(os.getpid(), new_mark(), "llama-server"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.name == f"velesio-worker-{os.getuid()}"


def somebody_elses(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, os.getuid() + 1, -1)


def a_symlink(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)


def a_file(folder: Path) -> None:
    folder.write_text("")


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param(
            somebody_elses, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
        ),
        a_symlink,
        a_file,
    ],
)
def test_a_folder_that_somebody_else_put_there_is_not_used(
    folder: Path, spawn: Spawn, caplog: pytest.LogCaptureFixture, obstacle: Callable[[Path], None]
) -> None:
    obstacle(folder)
    engine = spawn()
    planted = None
    if folder.is_dir():
        planted = write(folder, pid=engine.pid, started=started(engine))
    assert end_orphans() == []
    assert not is_gone(engine.pid)
    with noted(engine.pid, new_mark(), "llama-server"):
        assert not folder.is_dir() or list(folder.iterdir()) == [planted]
    assert "set TMPDIR to a folder that is yours" in caplog.text


def test_tmpdir_says_where_the_notes_are(tmp_path: Path) -> None:
    code = "from velesio_worker.engines.supervision.orphans import notes_folder; print(notes_folder())"
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    found = subprocess.check_output([sys.executable, "-c", code], env=environ, text=True)
    assert found.strip() == str(tmp_path / f"velesio-worker-{os.getuid()}")


def test_an_engine_runs_though_no_note_of_it_can_be_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with noted(os.getpid(), new_mark(), "llama-server"):
        assert not (tmp_path / "missing").exists()
    assert end_orphans() == []


def test_a_process_that_is_gone_before_it_is_noted_is_no_trouble(folder: Path) -> None:
    with noted(gone(), new_mark(), "llama-server"):
        (note,) = folder.iterdir()
        note.unlink()  # as another worker may


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o750, 0o702])
def test_a_folder_that_others_may_use_is_not_believed(
    folder: Path, mode: int, spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    process = spawn()
    folder.mkdir(mode=0o700)
    started = psutil.Process(process.pid).create_time()
    note = {"name": "x", "mark": "0" * 16, "pid": process.pid, "started": started, "worker": 1}
    (folder / "x.json").write_bytes(orjson.dumps(note))
    folder.chmod(mode)
    assert end_orphans() == []
    assert process.poll() is None
    assert f"chmod 700 {folder}" in caplog.text


def test_what_is_no_plain_file_of_ones_own_is_no_note_and_is_not_waited_for(
    folder: Path, tmp_path: Path, spawn: Spawn
) -> None:
    process = spawn()
    folder.mkdir(mode=0o700)
    started = psutil.Process(process.pid).create_time()
    note = orjson.dumps({"name": "x", "mark": "0" * 16, "pid": process.pid, "started": started, "worker": 1})
    os.mkfifo(folder / "pipe.json")
    (tmp_path / "elsewhere").write_bytes(note)
    (folder / "link.json").symlink_to(tmp_path / "elsewhere")
    (folder / "open.json").write_bytes(note)
    (folder / "open.json").chmod(0o666)
    assert end_orphans() == []
    assert process.poll() is None
