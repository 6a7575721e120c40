"""What a run says of itself; jobs that were taken together wait for each other, but not for ever."""

from __future__ import annotations

import time

import anyio
import pytest

from tests.support.runs import make_run
from tests.support.waiting import until
from velesio_worker.execution.run import BatchMember, batch_of
from velesio_worker.wire.errors import InternalError
from velesio_worker.wire.events import Done

pytestmark = pytest.mark.anyio


class Arrivals:
    """Who is through."""

    def __init__(self) -> None:
        self.through: list[int] = []

    async def arrive(self, member: BatchMember, number: int) -> None:
        await member.arrive()
        self.through.append(number)


async def turns() -> None:
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


PATIENCE = 60.0


async def test_each_waits_until_all_are_there() -> None:
    arrivals, places = Arrivals(), batch_of(3, patience=PATIENCE)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in (0, 1):
                group.start_soon(arrivals.arrive, places[number], number)
            await turns()
            assert arrivals.through == []
            group.start_soon(arrivals.arrive, places[2], 2)
    assert sorted(arrivals.through) == [0, 1, 2]


async def test_nobody_waits_for_one_that_gave_up() -> None:
    arrivals, places = Arrivals(), batch_of(3, patience=PATIENCE)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in (0, 1):
                group.start_soon(arrivals.arrive, places[number], number)
            await turns()
            places[2].give_up()
    assert sorted(arrivals.through) == [0, 1]


async def test_one_that_arrives_and_gives_up_more_than_once_counts_once() -> None:
    arrivals, places = Arrivals(), batch_of(3, patience=PATIENCE)
    async with anyio.create_task_group() as group:
        group.start_soon(arrivals.arrive, places[0], 0)
        await turns()
        for _ in range(5):
            places[0].give_up()
            places[1].give_up()
        await turns()
        assert arrivals.through == [], "the third may still come"
        places[2].give_up()
        await until(lambda: arrivals.through)


async def test_a_job_on_its_own_waits_for_nobody() -> None:
    (place,) = batch_of(1, patience=PATIENCE)
    with anyio.fail_after(60):
        await place.arrive()
    assert batch_of(0, patience=PATIENCE) == []


async def test_who_comes_late_waits_no_more() -> None:
    first, second = batch_of(2, patience=PATIENCE)
    with anyio.fail_after(60):
        second.give_up()
        await first.arrive()
        await second.arrive()


async def test_a_wait_ends_after_a_moment_whoever_is_missing() -> None:
    first, _ = batch_of(2, patience=0.05)
    with anyio.fail_after(60):
        await first.arrive()


async def test_one_that_is_cancelled_while_it_waits_has_arrived() -> None:
    arrivals, (first, second) = Arrivals(), batch_of(2, patience=PATIENCE)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(arrivals.arrive, first, 0)
            await turns()
            group.cancel_scope.cancel()
        await second.arrive()
    assert arrivals.through == []


@pytest.mark.parametrize(
    ("outcome", "success", "utilisation"),
    [(Done({"text": "x"}, "stop"), True, None), (InternalError("no"), False, 97)],
)
async def test_what_is_kept_of_the_last_job_has_the_five_fields_of_the_protocol(
    outcome: Done | InternalError, utilisation: int | None, *, success: bool
) -> None:
    run = make_run()
    run.outcome = outcome
    before = time.time()
    entry = run.entry(utilisation)
    assert before - 0.001 <= entry.pop("timestamp") <= time.time() + 0.001
    assert 2 <= entry.pop("duration") < 60
    assert entry == {"job_type": "completion", "success": success, "gpu_utilization": utilisation}
