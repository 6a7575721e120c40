"""A worker or its engine is killed in mid-stream: the sentence goes on, with nothing lost and nothing twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from bench.judge import Pause, Watched

from tests.support.crashes import MAX_TOKENS, Noise, Pair, assert_right, first_token, modes, report, seconds
from tests.support.tiny import brisk_model_path as model_path

__all__ = ["model_path"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.anyio, pytest.mark.timeout(600)]

STREAMS = 8
LANES = 2
AT_A_TIME = 3
"""Streams of a lane at a time: as many as one worker runs, so that none has to wait for a place."""

GAP_SECONDS = 6.0


@pytest.fixture
async def lanes(redis_url: str, model_path: Path, tmp_path: Path) -> AsyncIterator[list[Pair]]:
    """Pairs of workers, each on a queue of its own, so that the waiting for one goes on beside that for another."""
    common = {"REDIS_URL": redis_url, "MODEL_PATH": str(model_path), "LLM_CONCURRENCY": str(AT_A_TIME)}
    pairs = [Pair(tmp_path, QUEUE_NAME=f"lane{number}", **common) for number in range(LANES)]
    yield pairs
    for pair in pairs:
        await pair.__aexit__()


async def strike_streams(pair: Pair, strike: str, count: int) -> list[tuple[Watched, Pause]]:
    """Strike until ``count`` streams were struck in the middle; returns all streams, and their longest pauses.

    A stroke hits those streams that the same worker has, one or more. One that ended while the stroke was on its way
    was not struck.
    """
    followed: list[tuple[Watched, Pause]] = []
    number = 0
    while sum(was_struck(job) for job, _ in followed) < count:
        await pair.whole()
        jobs = await pair.submit_all(f"{pair.queue}-{number}", AT_A_TIME)
        followed += zip(jobs, await pair.follow_all(jobs, getattr(pair, strike)), strict=True)
        number += 1
        assert number <= 2 * count, "most streams end before they can be struck"
    return followed


def starts(jobs: list[Watched]) -> dict[str, list[tuple[float, str, str]]]:
    """When, how and on which worker the attempts of jobs began."""
    begun = {job.id: [entry for entry in job.entries if entry.event == "start"] for job in jobs}
    return {
        job_id: [(entry.at, entry.data["mode"], entry.data["worker"]) for entry in entries]
        for job_id, entries in begun.items()
    }


def was_struck(job: Watched) -> bool:
    return modes(job) != ["fresh"]


@pytest.mark.parametrize("strike", ["kill_worker", "kill_engine"])
async def test_a_stream_goes_on_after_a_kill(lanes: list[Pair], strike: str) -> None:
    followed: list[tuple[Watched, Pause]] = []
    noise = Noise()

    async def strike_lane(pair: Pair) -> None:
        followed.extend(await strike_streams(pair, strike, STREAMS // LANES))

    async with anyio.create_task_group() as listening:
        listening.start_soon(noise.listen)
        async with anyio.create_task_group() as group:
            for pair in lanes:
                group.start_soon(strike_lane, pair)
        listening.cancel_scope.cancel()
    jobs = [job for job, _ in followed]
    struck = [(job, pause) for job, pause in followed if was_struck(job)]
    report(strike, [pause for _, pause in struck])
    assert_right(jobs)
    assert len(struck) >= STREAMS
    twice = [job for job, _ in struck if modes(job) != ["fresh", "continue"]]
    assert not twice, (starts(twice), [line for pair in lanes for line in pair.lost_engines()])
    assert all((job.result or {})["usage"]["completion_tokens"] == MAX_TOKENS for job in jobs)
    # The machine is given what it takes for itself, and as long to read a prompt once more as it took for one before.
    reading = max(first_token(job) for job in jobs)
    waited = {job.id: seconds(pause) - noise.during(pause) - reading for job, pause in struck}
    assert max(waited.values()) < GAP_SECONDS, (waited, reading)
