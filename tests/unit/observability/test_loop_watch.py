"""A loop that does not move is told in the log, with the place where it is stuck."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import pytest

from velesio_worker.observability import monitor
from velesio_worker.observability.monitor import loop_watched

LIMIT = 10.0


@dataclass
class Loop:
    """A loop that is found silent for so many seconds, one figure per look."""

    silences: list[float]
    stuck: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def stuck_for(self) -> float:
        if not self.stuck.is_set():
            return 0
        if not self.silences:
            self.over.set()
            return 0
        return self.silences.pop(0)

    def a_call_that_takes_long(self) -> None:
        self.stuck.set()
        assert self.over.wait(LIMIT)


def told(caplog: pytest.LogCaptureFixture, *silences: float) -> list[tuple[str, str]]:
    """What the log says of a loop, level and message."""
    caplog.set_level("INFO")
    loop = Loop(list(silences))
    with loop_watched(loop.stuck_for, look_seconds=0.02):
        loop.a_call_that_takes_long()
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == monitor.__name__]


def test_it_is_told_once_and_where(caplog: pytest.LogCaptureFixture) -> None:
    lines = told(caplog, 11, 12, 13, 14, 0)
    assert [level for level, _ in lines] == ["CRITICAL", "WARNING"]
    message = lines[0][1]
    assert "the worker's event loop has not moved for 12 s: restart the worker. It is at " in message
    assert f"{__file__}:" in message
    assert " a_call_that_takes_long < " in message


def test_that_it_moves_again_is_told_and_the_next_time_too(caplog: pytest.LogCaptureFixture) -> None:
    assert [level for level, _ in told(caplog, 11, 12, 0, 0, 11, 12, 0)] == ["CRITICAL", "WARNING"] * 2


def test_a_process_that_was_woken_is_not_stuck(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, 11, 0, 11, 0) == []


def test_the_watch_ends_with_its_context(caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    assert told(caplog, 0) == []
    limit = time.monotonic() + LIMIT
    while threading.active_count() > before:
        assert time.monotonic() < limit
        time.sleep(0.001)
