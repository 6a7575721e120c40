from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import psutil
import pytest

from tests.support.gone import is_gone, wait_until_gone
from tests.support.waiting import until
from velesio_worker.engines.supervision import process as module
from velesio_worker.engines.supervision.orphans import MARK, notes_folder
from velesio_worker.engines.supervision.output import BURST_LINES, LINES_A_SECOND, OutputBudget
from velesio_worker.engines.supervision.process import EngineProcess, running
from velesio_worker.wire.errors import EngineStartError

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

# Parent and child write to one pipe: each line is one write, which no other interrupts; print() makes several.
PYTHON = [sys.executable, "-I", "-S", "-u", "-c"]
SLEEPER = "import sys, time; sys.stdout.write('up\\n'); time.sleep(300)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-I', '-S', '-u', '-c', {child!r}], start_new_session={away})
sys.stdout.write(f'child {{child.pid}}\\n')
{then}
"""


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's engines are noted, here and in processes that it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return notes_folder()


def ignore(_line: str) -> None:
    """Leave the line to the process's tail."""


@asynccontextmanager
async def script(code: str, on_line: Callable[[str], None] = ignore) -> AsyncGenerator[EngineProcess, None]:
    async with running([*PYTHON, code], env=os.environ, on_line=on_line, remedy="check it") as process:
        yield process


async def lines_of(code: str) -> list[str]:
    lines: list[str] = []
    with anyio.fail_after(60):
        async with script(code, lines.append) as process:
            await process.wait()
            await process.drained()
    return lines


async def has_written(process: EngineProcess, lines: int = 1) -> None:
    await until(lambda: len(process.tail) >= lines)


@pytest.fixture
def strays() -> Iterator[list[int]]:
    """Processes that outlive what started them; ended after the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo", ["one", "two"]),
        (b"\n \none\n", ["one"]),
        (b"", []),
        (b"caf\xe9 \xff\n", ["caf\ufffd \ufffd"]),
        ("猫 🎉\n".encode(), ["猫 🎉"]),
    ],
)
async def test_each_line_of_output_is_handed_on(output: bytes, lines: list[str]) -> None:
    assert await lines_of(f"import sys; sys.stdout.buffer.write({output!r})") == lines


async def test_standard_error_is_read_like_standard_output() -> None:
    assert await lines_of("import os; os.write(1, b'out\\n'); os.write(2, b'err\\n')") == ["out", "err"]


async def test_much_output_blocks_nobody_and_none_of_it_is_lost() -> None:
    lines = await lines_of("for number in range(20000): print('line', number)")
    assert lines == [f"line {number}" for number in range(20000)]


async def test_a_line_without_end_is_handed_on_in_parts() -> None:
    lines = await lines_of("import sys; sys.stdout.write('x' * 1_000_000 + '\\nnext\\n')")
    assert "".join(lines[:-1]) == "x" * 1_000_000
    assert lines[-1] == "next"
    assert max(map(len, lines)) <= 128 * 1024


async def test_what_is_cleaned_away_is_neither_handed_on_nor_kept() -> None:
    lines: list[str] = []

    def clean(line: str) -> str | None:
        return line.replace("secret", "…") if "drop" not in line else None

    code = "print('a secret'); print('drop'); print('b')"
    async with running(
        [*PYTHON, code], env=os.environ, on_line=lines.append, clean=clean, remedy="check it"
    ) as process:
        await process.wait()
        await process.drained()
        assert lines == ["a …", "b"]
        assert list(process.tail) == lines


async def test_the_last_lines_are_kept() -> None:
    async with script("for number in range(100): print(number)") as process:
        await process.wait()
        await process.drained()
        assert process.bytes == len("".join(f"{number}\n" for number in range(100)))
        assert list(process.tail) == [str(number) for number in range(100 - module.TAIL_LINES, 100)]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("pass", "ended with exit code 0"),
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 1)", "was ended by"),
    ],
)
async def test_how_it_ended_is_told(code: str, text: str) -> None:
    async with script(code) as process:
        with anyio.fail_after(60):
            await process.wait()
        assert text in process.how_it_ended()


async def test_a_process_that_runs_is_told_from_one_that_ended() -> None:
    async with script(SLEEPER) as process:
        assert process.returncode is None
        assert process.how_it_ended() == "still runs"
    assert process.returncode == -signal.SIGTERM
    assert is_gone(process.pid)


async def test_a_process_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    with anyio.fail_after(60):
        async with script(DEAF) as process:
            await has_written(process)
    assert process.returncode == -signal.SIGKILL
    assert is_gone(process.pid)


async def test_a_process_that_does_not_even_heed_sigkill_is_waited_for_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unheeded(_group: int, _number: int) -> None:
        """The signal waits, as it does while the kernel is busy with a driver that hangs."""

    monkeypatch.setattr(module, "STOP_SECONDS", 0.02)
    monkeypatch.setattr(module, "UNKILLABLE_SECONDS", 0.02)
    async with script(SLEEPER) as process, anyio.create_task_group() as group:
        with monkeypatch.context() as patch:
            patch.setattr(os, "killpg", unheeded)
            group.start_soon(process.stop)
            await until(lambda: caplog.text.count("dmesg") == 2)
            assert process.returncode is None
        process.kill()
        await process.wait()


@pytest.mark.parametrize("then", ["time.sleep(300)", "sys.exit(7)"], ids=["parent-runs", "parent-ended"])
async def test_what_a_process_started_ends_with_it(monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    with anyio.fail_after(60):
        async with script(PARENT.format(child=DEAF, away=False, then=then)) as process:
            await has_written(process, lines=2)
            child = int(next(line for line in process.tail if "child" in line).split()[1])
            assert not is_gone(child)
    assert is_gone(process.pid)
    wait_until_gone(child)


async def test_killing_ends_a_process_and_what_it_started_at_once() -> None:
    async with script(PARENT.format(child=DEAF, away=False, then="time.sleep(300)")) as process:
        await has_written(process, lines=2)
        child = int(next(line for line in process.tail if "child" in line).split()[1])
        psutil.Process(process.pid).suspend()
        process.kill()
        with anyio.fail_after(60):
            assert await process.wait() == -signal.SIGKILL
        assert process.how_it_ended() == "was ended by SIGKILL"
        wait_until_gone(child)
        process.kill()  # once more, which has nothing to end


async def test_the_end_of_a_process_is_noticed_though_its_child_holds_the_output() -> None:
    async with script(PARENT.format(child=SLEEPER, away=False, then="sys.stdin.read(); sys.exit(7)")) as process:
        with anyio.fail_after(60):
            assert await process.wait() == 7
            await process.drained()
        assert "child" in process.tail[0]


async def test_stopping_does_not_wait_for_a_child_that_left_the_group(strays: list[int]) -> None:
    with anyio.move_on_after(100) as scope:
        async with script(PARENT.format(child=SLEEPER, away=True, then="time.sleep(300)")) as process:
            await has_written(process, lines=2)
            strays.append(int(next(line for line in process.tail if "child" in line).split()[1]))
            watch = anyio.current_time()
            async with anyio.create_task_group() as group:
                group.start_soon(end_after, 30, strays)
                await process.stop()
                group.cancel_scope.cancel()
            assert anyio.current_time() - watch < 20
    assert not scope.cancelled_caught


async def end_after(seconds: float, pids: list[int]) -> None:
    """Unblock a stop that waits for the wrong process."""
    await anyio.sleep(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def test_cancelling_stops_the_process() -> None:
    pids: list[int] = []
    with anyio.fail_after(60):
        with anyio.CancelScope() as scope:
            async with script(SLEEPER) as process:
                pids.append(process.pid)
                await has_written(process)
                scope.cancel()
                await process.wait()
    assert scope.cancelled_caught
    assert all(map(is_gone, pids))


async def test_cancelling_at_the_very_start_leaves_nothing() -> None:
    before = psutil.Process().children()
    with anyio.fail_after(60):
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with script(SLEEPER) as process:
                await process.wait()
    assert scope.cancelled_caught
    assert psutil.Process().children() == before
    gc.collect()  # a process that nobody waited for would warn here


@pytest.mark.parametrize(
    ("program", "reason"), [("missing", "No such file"), ("folder", "Permission denied"), ("text", "denied|format")]
)
async def test_a_program_that_cannot_be_run_is_told_with_the_remedy(tmp_path: Path, program: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no program")
    command = [str(tmp_path / program)]
    with pytest.raises(EngineStartError, match=reason) as caught:
        async with running(command, env=os.environ, on_line=ignore, remedy="check STARTUP_COMMAND"):
            raise AssertionError
    assert str(caught.value).startswith(f"{command[0]} cannot be run")
    assert str(caught.value).endswith(": check STARTUP_COMMAND")


async def test_the_environment_is_the_one_given() -> None:
    lines: list[str] = []
    code = "import os; print(sorted(name for name in os.environ if name != 'LC_CTYPE'), os.environ['A'])"
    async with running([*PYTHON, code], env={"A": "1"}, on_line=lines.append, remedy="") as process:
        await process.wait()
        await process.drained()
    assert lines == [f"['A', '{MARK}'] 1"]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_process_is_noted_for_as_long_as_it_runs(notes: Path) -> None:
    async with running([*PYTHON, SLEEPER], env=os.environ, on_line=ignore, remedy="", name="sleeper") as process:
        assert names(notes) == [f"sleeper-{process.pid}.json"]
        await has_written(process)
        mark = psutil.Process(process.pid).environ()[MARK]
        assert mark in (notes / f"sleeper-{process.pid}.json").read_text()
    assert names(notes) == []


async def test_no_two_processes_have_the_same_mark() -> None:
    code = f"import os; print(os.environ['{MARK}'])"
    assert await lines_of(code) != await lines_of(code)


WORKER = f"""
import anyio
from velesio_worker.engines.supervision.process import running

async def main():
    async with running({[*PYTHON, SLEEPER]!r}, env={{}}, on_line=lambda line: None, remedy="") as process:
        while not process.bytes:
            await anyio.sleep(0.01)
        print(process.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help is Linux's")
def test_the_process_ends_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        assert not is_gone(child)
        worker.kill()
        wait_until_gone(child)


ORPHAN: Final = """
import os, time
from velesio_worker.engines.supervision.process import die_with
parent = os.getpid()
if not os.fork():
    while os.getppid() == parent:
        time.sleep(0.01)
    die_with(parent)
    time.sleep(300)
"""
"""A process whose parent is gone before it could ask to be told of that."""


def test_a_process_whose_parent_was_killed_as_it_was_started_ends_at_once() -> None:
    started = subprocess.Popen([sys.executable, "-c", ORPHAN], start_new_session=True)
    started.wait(60)
    deadline = time.monotonic() + 60
    try:
        while group_lives(started.pid):
            assert time.monotonic() < deadline, "the child lives on"
            time.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


FLOOD = "import os\nwhile True: os.write(1, b'x\\n' * 30000)"


async def test_an_engine_that_writes_without_an_end_holds_nobody_up() -> None:
    lines: list[str] = []
    turns = 0
    async with script(FLOOD, OutputBudget(lines.append).take):
        ends = time.monotonic() + 2.5
        while time.monotonic() < ends:
            await anyio.lowlevel.checkpoint()
            turns += 1
        since = time.process_time()
        await anyio.sleep(1)
        used = time.process_time() - since
    assert used < 0.7  # of one second
    assert turns > 200
    assert len(lines) < BURST_LINES + 6 * LINES_A_SECOND
    assert [line for line in lines if "lines left out" in line]


async def test_what_was_left_out_is_said_though_nothing_follows() -> None:
    lines: list[str] = []
    code = f"import sys, time; sys.stdout.write('x\\n' * {BURST_LINES + 1000}); sys.stdout.flush(); time.sleep(300)"
    async with script(code, OutputBudget(lines.append).take):
        await until(lambda: lines[-1:] != ["x"] and len(lines) > BURST_LINES)
    assert lines[-1].endswith("lines left out: more than 200 a second")


async def test_the_last_lines_are_kept_whatever_was_left_out() -> None:
    async with script("print('x\\n' * 100000 + 'the reason')") as process:
        with anyio.fail_after(60):
            await process.wait()
            await process.drained()
        assert process.tail[-1] == "the reason"


async def test_lines_show_no_secrets() -> None:
    assert await lines_of("print('HF_TOKEN=abc at redis://:abc@host')") == ["HF_TOKEN=*** at redis://:***@host"]
