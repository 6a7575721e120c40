"""``velesio-worker models`` as a process, against a server of files."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.file_server import Answer, FileServer
from tests.support.environment import base_environment
from tests.support.forks import run_forked
from tests.support.gguf_files import gguf
from tests.support.servers import wait_until
from tests.support.terminals import environment, in_terminal
from velesio_worker.cli.main import main

pytestmark = pytest.mark.processes

MEBIBYTE = 1024 * 1024
MODEL = b"GGUF" + bytes(range(256)) * (9 * MEBIBYTE // 256)
SUM = hashlib.sha256(MODEL).hexdigest()
SOURCE = "hf:o/r/m.gguf"
HUB_PATH = "/o/r/resolve/main/m.gguf"
PAINT = re.compile(r"\x1b\[(?:\?25[lh]|[0-9;]*m)")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({HUB_PATH: MODEL}).serving() as serving:
        yield serving


class Command:
    """``velesio-worker models`` with a folder of its own."""

    def __init__(self, server: FileServer, folder: Path) -> None:
        self.folder = folder
        self.target = folder / "m.gguf"
        self.part = folder / "m.gguf.part"
        self.environment = base_environment() | {
            "MODEL_PATH": str(folder / "model.gguf"),
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": "hf_1",
            "NO_PROXY": "127.0.0.1",
            "TERM": "xterm",
        }

    def start(self, *arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "velesio_worker", "models", *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=self.folder.parent
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run it; returns its exit code and what it wrote to standard output and error."""
        return run_forked(self.environment, "models", *arguments, place=self.folder.parent)

    def interrupt(self, process: subprocess.Popen[str]) -> str:
        """Press Ctrl-C once some of the model is there; returns what it wrote to standard error."""
        wait_until(lambda: self.part.exists() and self.part.stat().st_size >= 4 * MEBIBYTE, "a part", 60)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
        assert (process.returncode, output) == (130, "")
        return error


@pytest.fixture
def command(server: FileServer, tmp_path: Path) -> Command:
    return Command(server, tmp_path / "models")


def test_a_model_is_pulled_into_the_folder_of_models(server: FileServer, command: Command) -> None:
    code, output, error = command.run("pull", SOURCE)
    assert (code, output) == (0, f"{command.target}\n")
    assert error.endswith(f"to use it: MODEL_PATH={command.target}\n")
    assert command.target.read_bytes() == MODEL
    assert server.asked("authorization") == ["Bearer hf_1"]


def test_without_a_terminal_there_are_few_lines_of_progress(command: Command) -> None:
    *lines, told, _ = command.run("pull", SOURCE)[2].splitlines()
    assert told == f"its SHA-256 is {SUM}; to have no other: #sha256={SUM} behind the source"
    lines = [line for line in lines if "came over http://" not in line]
    assert lines[0] == "  0 %  0 of 9 MiB  0.0 MiB/s"
    assert re.fullmatch(r"100 %  9 of 9 MiB  [\d.]+ MiB/s  0:00 left", lines[-1])
    assert len(lines) <= 11


def test_on_a_terminal_one_line_is_rewritten(command: Command) -> None:
    ours, its = pty.openpty()
    with command.start("pull", SOURCE, "--sha256", SUM, stderr=its) as process:
        os.close(its)
        shown = b""
        while not shown.endswith(b"m.gguf\r\n"):
            shown += os.read(ours, 65536)
        assert process.wait(60) == 0
    os.close(ours)
    *drawn, last = re.split(r"\r(?:\x1b\[2K)?", PAINT.sub("", shown.decode()).partition("\r\n")[0])
    assert all(one.startswith("m.gguf ━") for one in drawn if one)
    assert re.match(r"m\.gguf ━+ 9\.0/9\.0 MiB ([\d.]+ [MG]B/s|\?) +[\d:-]+$", last), last
    assert re.search(r"\nto use it: MODEL_PATH=.*m\.gguf\r\n$", PAINT.sub("", shown.decode()))


def test_what_is_logged_meanwhile_stands_on_lines_of_its_own_above_the_bar(
    server: FileServer, command: Command
) -> None:
    server.answers = [Answer(cut=4 * MEBIBYTE)]
    with in_terminal(
        environment(**command.environment), "models", "pull", SOURCE, place=command.folder.parent
    ) as terminal:
        code, shown = terminal.ended()
    assert code == 0
    lines = [re.split(r"\r(?:\x1b\[2K)?", line)[-1] for line in PAINT.sub("", shown).split("\r\n")]
    (told,) = [line for line in lines if "the download broke off" in line]
    assert re.match(r"\d{4}-\d\d-\d\dT", told)
    assert len([line for line in lines if "━" in line]) == 1


def test_a_terminal_that_draws_nothing_anew_has_lines(command: Command) -> None:
    env = environment(**command.environment | {"TERM": "dumb"})
    with in_terminal(env, "models", "pull", SOURCE, place=command.folder.parent) as terminal:
        code, shown = terminal.ended()
    assert code == 0
    assert "  0 %  0 of 9 MiB" in shown
    assert "\x1b" not in shown


def test_a_pull_that_was_interrupted_goes_on(server: FileServer, command: Command) -> None:
    server.answers = [Answer(stall=8 * MEBIBYTE)]
    with command.start("pull", SOURCE, "--sha256", SUM) as process:
        error = command.interrupt(process)
    assert error.endswith("stopped; the same command goes on from here\n")
    assert "Traceback" not in error
    assert not command.target.exists()
    there = command.part.stat().st_size
    assert command.run("pull", SOURCE, "--sha256", SUM)[0] == 0
    assert command.target.read_bytes() == MODEL
    assert server.asked("range") == [None, f"bytes={there}-"]
    assert [path.name for path in command.folder.iterdir()] == ["m.gguf"]


def test_a_pull_that_was_killed_goes_on(server: FileServer, command: Command) -> None:
    server.answers = [Answer(stall=8 * MEBIBYTE)]
    with command.start("pull", SOURCE) as process:
        wait_until(lambda: command.part.exists() and command.part.stat().st_size >= 4 * MEBIBYTE, "a part", 60)
        process.kill()
    there = command.part.stat().st_size
    assert command.run("pull", f"{SOURCE}#sha256={SUM}")[0] == 0
    assert server.asked("range") == [None, f"bytes={there}-"]
    assert [path.name for path in command.folder.iterdir()] == ["m.gguf"]


def test_two_processes_pull_it_once(server: FileServer, command: Command) -> None:
    server.answers = [Answer(stall=8 * MEBIBYTE)]
    with command.start("pull", SOURCE) as first:
        wait_until(command.part.exists, "a part", 60)
        with command.start("pull", SOURCE) as second:
            assert second.stderr is not None
            assert re.match(r" [ \d]\d %", second.stderr.readline())  # it waits, and shows how far the other is
            server.go_on.set()
            second.communicate(timeout=60)
        first.communicate(timeout=60)
    assert (first.returncode, second.returncode, len(server.requests)) == (0, 0, 1)
    assert command.target.read_bytes() == MODEL


def test_what_was_pulled_is_told_to_programs(server: FileServer, command: Command) -> None:
    for downloaded in (True, False):
        code, output, _ = command.run("pull", f"{SOURCE}#sha256={SUM}", "--json")
        assert code == 0
        assert json.loads(output) == {"path": str(command.target), "sha256": SUM, "downloaded": downloaded}
    assert len(server.requests) == 1


def test_a_model_that_is_there_is_said_to_be(server: FileServer, command: Command) -> None:
    command.folder.mkdir()
    command.target.write_bytes(b"GGUF")
    code, output, error = command.run("pull", SOURCE)
    assert (code, output) == (0, f"{command.target}\n")
    assert "it was there already: remove it to download it anew" in error
    code, output, error = command.run("pull", SOURCE, "--sha256", SUM)
    assert (code, output) == (1, "")
    assert f"expected is {SUM}. Remove it" in error
    assert server.requests == []


@pytest.mark.parametrize("to", ["there/x y.gguf", "models"])
def test_it_can_be_put_elsewhere(command: Command, to: str) -> None:
    command.folder.mkdir()
    target = command.folder.parent / (to if to.endswith(".gguf") else f"{to}/m.gguf")
    code, output, error = command.run("pull", SOURCE, "--to", to)
    assert (code, output) == (0, f"{target}\n")
    assert target.read_bytes() == MODEL
    assert f"MODEL_PATH='{target}'" in error or " " not in str(target)


def test_a_pull_that_fails_says_why_and_ends_with_1(server: FileServer, command: Command) -> None:
    assert command.run("pull", "hf:o/r/x.gguf") == (
        1,
        "",
        f"error: {server.url}/o/r/resolve/main/x.gguf does not exist (404): check the name\n",
    )
    code, _, error = command.run("pull", SOURCE, "--sha256", "0" * 64)
    assert code == 1
    assert error.endswith(
        f"error: {server.url}{HUB_PATH} has another checksum: expected SHA-256 {'0' * 64}, got {SUM}. "
        "What has come is removed: check the source, try again\n"
    )
    assert list(command.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing command"),
        (["pull"], "missing argument 'SOURCE'"),
        (["pull", "m.gguf"], "'***' must be a URL such as https://host/model.gguf, or hf:owner/repo/model.gguf"),
        (["pull", SOURCE, "--sha256", "12"], "64 hexadecimal digits"),
    ],
)
def test_a_wrong_argument_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["models", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_two_checksums_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", f"{SOURCE}#sha256={SUM}", "--sha256", "0" * 64]) == 2
    assert "two checksums" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bad.gguf").write_bytes(b"x")
    (tmp_path / "tiny.gguf").write_bytes(gguf())
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "tiny.gguf"))
    return tmp_path


def test_the_models_of_the_folder_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder
    assert main(["models", "list"]) == 0
    heading, bad, tiny = capsys.readouterr().out.splitlines()
    assert heading.split() == ["model", "architecture", "parameters", "context", "size", "hash"]
    assert re.match(r"bad\.gguf +- +- +- +0 MiB  [0-9a-f]{10}  \w+", bad)
    assert re.fullmatch(r"tiny\.gguf \(MODEL_PATH\)  llama +0\.00 B +2048 +0 MiB  [0-9a-f]{10}", tiny)


def test_the_list_can_be_read_by_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder
    assert main(["models", "list", "--json"]) == 0
    bad, tiny = json.loads(capsys.readouterr().out)
    assert (bad["filename"], bad["loaded"], bool(bad["error"])) == ("bad.gguf", False, True)
    assert (tiny["filename"], tiny["loaded"], tiny["architecture"]) == ("tiny.gguf", True, "llama")


def test_an_empty_folder_is_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "none/m.gguf"))
    assert main(["models", "list"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"no models in {tmp_path}/none\n")
    assert main(["models", "list", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"
