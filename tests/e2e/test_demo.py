"""The demo does the main job for a newcomer and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support.environment import base_environment
from tests.support.processes import wait_until_gone

pytestmark = pytest.mark.engine
COMMAND = [sys.executable, "-m", "velesio_worker", "demo"]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=base_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def family(pid: int, *, at_least: int, limit: float = 100) -> list[psutil.Process]:
    """The processes that the demo started: Redis, the worker and the worker's engine."""
    deadline = time.monotonic() + limit
    while len(children := psutil.Process(pid).children(recursive=True)) < at_least:
        assert time.monotonic() < deadline, children
        time.sleep(0.02)
    return children


def test_the_demo_answers_sums_up_and_leaves_no_process() -> None:
    demo = start("--prompt", "Say yes.")
    children = family(demo.pid, at_least=3)
    output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, output
    assert "you> Say yes." in output
    assert "tokens/s" in output
    assert "stream:" in output
    for child in children:
        wait_until_gone(child)


def test_a_conversation_ends_with_the_input() -> None:
    demo = start("--chat")
    output, _ = demo.communicate("Say yes.\n\nAnd now no.\n", timeout=100)
    assert demo.returncode == 0, output
    assert output.count("you> ") == 4


def test_a_conversation_whose_worker_dies_ends_with_its_last_words() -> None:
    with start("--chat") as demo:
        assert demo.stdout is not None
        shown = ""
        while "you> " not in shown:
            shown += demo.stdout.read(1)
        (worker,) = (child for child in psutil.Process(demo.pid).children() if child.cmdline()[-1] == "run")
        worker.kill()
        assert demo.wait(timeout=100) == 1  # its input stays open: it must not wait for a line
        said = demo.stdout.read()
    assert "error: The worker has ended. Its last lines:" in said
    assert "Fatal Python error" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_interrupted_leaves_no_process(number: signal.Signals) -> None:
    with start("--chat") as demo:
        children = family(demo.pid, at_least=3)
        demo.send_signal(number)
        demo.wait(timeout=100)  # its input stays open: it must not wait for a line
    assert demo.returncode in {130, -number}
    for child in children:
        wait_until_gone(child)
