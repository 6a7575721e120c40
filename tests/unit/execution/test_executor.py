"""Runs that somebody wants to stop."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from tests.support.runs import make_run
from velesio_worker.execution.executor import Executor
from velesio_worker.execution.run import Halt, Run

pytestmark = pytest.mark.anyio


def executor_of(run: Run) -> Executor:
    """An executor that runs this."""
    executor = Executor(*cast("Any", [None] * 3), stall=60)
    executor._runs[run] = None  # pyright: ignore[reportPrivateUsage]
    return executor


async def test_a_run_is_stopped_by_whoever_owns_its_job_now() -> None:
    run = make_run()
    executor_of(run).fence("a", 1)
    assert run.stop.halted is Halt.FENCED
    assert run.stop.scope.cancel_called


@pytest.mark.parametrize(("job_id", "attempt"), [("b", 1), ("a", 2)])
async def test_another_run_is_not(job_id: str, attempt: int) -> None:
    run = make_run()
    executor_of(run).fence(job_id, attempt)
    assert run.stop.halted is None


async def test_a_run_whose_outcome_is_known_is_not_stopped_any_more() -> None:
    """Nobody owns its job then: whoever looks at that moment takes it for another's, and the cache would lose it."""
    run = make_run()
    run.times.made_at = time.monotonic()
    executor = executor_of(run)
    executor.fence("a", 1)
    executor.cancel("a")
    assert run.stop.halted is None
