"""A worker or its engine is killed in mid-stream: the sentence goes on, with nothing lost and nothing twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from bench.judge import Watched

from tests.e2e.crashes import MAX_TOKENS, Pair, assert_right, modes, report

pytestmark = [pytest.mark.engine, pytest.mark.anyio, pytest.mark.timeout(300)]

STREAMS = 20
LANES = 4
GAP_SECONDS = 6.0


@pytest.fixture
async def lanes(redis_url: str, model_path: Path, tmp_path: Path) -> AsyncIterator[list[Pair]]:
    """Pairs of workers, each on a queue of its own, so that the waiting for one goes on beside that for another."""
    common = {"REDIS_URL": redis_url, "MODEL_PATH": str(model_path)}
    pairs = [Pair(tmp_path, QUEUE_NAME=f"lane{number}", **common) for number in range(LANES)]
    yield pairs
    for pair in pairs:
        await pair.__aexit__()


async def strike_streams(lanes: list[Pair], strike: str) -> tuple[list[Watched], list[float]]:
    """Strike ``STREAMS`` streams one after the other, some in each lane."""
    jobs: list[Watched] = []
    gaps: list[float] = []

    async def lane(pair: Pair, count: int) -> None:
        for number in range(count):
            await pair.whole()
            job = await pair.submit(f"{pair.queue}-{number}")
            gaps.append(await pair.follow(job, getattr(pair, strike)))
            jobs.append(job)

    async with anyio.create_task_group() as group:
        for pair in lanes:
            group.start_soon(lane, pair, STREAMS // LANES)
    return jobs, gaps


@pytest.mark.parametrize("strike", ["kill_worker", "kill_engine"])
async def test_a_stream_goes_on_after_a_kill(lanes: list[Pair], strike: str) -> None:
    jobs, gaps = await strike_streams(lanes, strike)
    report(strike, gaps)
    assert_right(jobs)
    assert len(jobs) == STREAMS
    assert [modes(job) for job in jobs] == [["fresh", "continue"]] * STREAMS
    assert all((job.result or {})["usage"]["completion_tokens"] == MAX_TOKENS for job in jobs)
    assert max(gaps) < GAP_SECONDS
