"""Node with ioredis: tokens are printed as they are made, and every kind of entry is dealt with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from tests.examples.conftest import EXAMPLES, ChatWorker, program
from velesio_worker.wire.errors import OutOfMemoryError

pytestmark = pytest.mark.processes
INSTALL_SECONDS: Final = 60

StartProgram = Callable[[], AbstractContextManager["subprocess.Popen[str]"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with what it needs, as its head says to install it."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("install Node 20 or newer with npm (Debian and Ubuntu: apt install nodejs npm)")
    folder = tmp_path_factory.mktemp("node") / "node"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm had not fetched ioredis after {INSTALL_SECONDS} s")
    if done.returncode and any(word in done.stderr for word in ("ENOTFOUND", "ECONN", "EAI_AGAIN", "ETIMEDOUT", "E50")):
        pytest.skip(f"npm cannot fetch ioredis here: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def start(folder: Path, redis_url: str) -> StartProgram:
    return lambda: program(["node", folder / "chat.js", "Say hello."], env={"REDIS_URL": redis_url})


def test_tokens_are_printed_as_they_are_made(worker: ChatWorker, start: StartProgram) -> None:
    with start() as process:
        assert process.stdout is not None
        job = worker.take()
        assert job["data"]["messages"] == [{"role": "user", "content": "Say hello."}]
        worker.start(job["id"])
        worker.token(job["id"], "1-1", "Hello.")
        assert process.stdout.read(6) == "Hello."  # the job is not over yet
        worker.done(job["id"], "1-2", "Hello.")
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest == "\n[stop, 2 tokens]\n"


def test_a_lost_worker_is_told_and_the_answer_begins_anew_or_goes_on(worker: ChatWorker, start: StartProgram) -> None:
    with start() as process:
        job = worker.take()
        for attempt, (mode, text) in enumerate((("fresh", "Wrong"), ("restart", "Right"), ("continue", " on")), 1):
            worker.start(job["id"], mode, attempt)
            worker.token(job["id"], f"{attempt}-1", text)
        worker.done(job["id"], "3-2", "Right on")
        output, _ = process.communicate(timeout=60)
    assert [line for line in output.splitlines() if line] == [
        "Wrong",
        "[The worker was lost; the answer begins anew.]",
        "Right",
        "[The worker was lost; w3 goes on.]",
        " on",
        "[stop, 2 tokens]",
    ]


def test_an_error_is_told_and_is_the_exit_code(worker: ChatWorker, start: StartProgram) -> None:
    with start() as process:
        job = worker.take()
        error = OutOfMemoryError("There is no room.")
        worker.store(job["id"], error.result())
        worker.write(job["id"], "1-0", "error", error.entry(partial=False))
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == "\n[out_of_memory: There is no room. It may succeed another time.]\n"


def test_the_lock_names_no_host_and_pins_every_package() -> None:
    lock = (EXAMPLES / "node/package-lock.json").read_text("utf-8")
    assert '"resolved"' not in lock
    assert lock.count('"integrity"') == lock.count('"node_modules/')
