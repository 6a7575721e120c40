"""A program is recorded as it behaves in a terminal."""

from __future__ import annotations

import os
import sys

import pytest
from tools.pictures.recording import in_terminal

pytestmark = pytest.mark.processes

PROGRAM = """
import os, sys
print(os.get_terminal_size(), sys.stdout.isatty(), os.environ.get("NO_COLOR"))
print("name?", end="", flush=True)
print("you said", sys.stdin.readline().strip())
sys.exit(3)
"""


def test_what_a_program_writes_is_noted_with_its_time_and_it_takes_keys() -> None:
    with in_terminal([sys.executable, "-c", PROGRAM], {**os.environ, "NO_COLOR": "1"}, columns=70, rows=5) as terminal:
        assert terminal.watch(lambda: "name?" in terminal.screen.text(), 60)
        terminal.press("häßlich\n")
        code = terminal.to_its_end(60)
    assert code == 3
    assert terminal.screen.text().splitlines() == [
        "os.terminal_size(columns=70, lines=5) True None",
        "name?häßlich",
        "you said häßlich",
    ]
    moments = [moment for moment, _ in terminal.frames]
    assert moments == sorted(moments)
    assert len(moments) >= 2


def test_a_program_that_does_not_end_is_ended() -> None:
    with in_terminal(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(999)"], os.environ, columns=20, rows=2
    ) as terminal:
        assert terminal.watch(lambda: "up" in terminal.screen.text(), 60)
        assert not terminal.watch(lambda: False, 0.1)
    assert terminal.process.returncode is not None
