"""What an engine that is lost costs a job: an attempt if it was reading that job's request, else none."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.doubles.engine import Answer, End
from tests.support.llama_chunks import COMPLETION
from tests.support.text_bench import Bench, cut, whole
from velesio_worker.engines.requests import Blame, Stage

pytestmark = pytest.mark.anyio

UNREAD = cut()


async def counted(commands: Any) -> tuple[int, bool]:
    """How many attempts of the job count, and whether it is suspected."""
    attempt, returned, suspect = await commands.hmget("{result:a}:job", "attempt", "returned", "suspect")
    return int(attempt) - int(returned or 0), suspect == b"1"


@pytest.mark.parametrize(
    ("blame", "expected"),
    [
        (Blame.NOBODYS, (1, False)),
        (Blame.ANOTHERS, (0, False)),
        (Blame.SHARED, (0, True)),
        (Blame.OWN, (1, True)),
    ],
)
async def test_a_crash_costs_whoever_is_to_blame(
    bench: Bench, commands: Any, blame: Blame, expected: tuple[int, bool]
) -> None:
    await bench.submit(max_attempts=2)
    bench.double.answers[COMPLETION] = [UNREAD, whole("Once")]
    bench.source.blame = blame
    await bench.run()
    assert (await counted(commands), await bench.waits()) == (expected, True)
    assert bench.source.complaints == ["lost"]
    bench.source.blame = Blame.NOBODYS
    await bench.run()
    assert (await bench.result())["text"] == "Once"
    assert bench.source.alone == [False, expected[1]]


@pytest.mark.parametrize(("blame", "code"), [(Blame.ANOTHERS, None), (Blame.SHARED, None), (Blame.OWN, "stalled")])
async def test_so_does_a_hang(bench: Bench, blame: Blame, code: str | None) -> None:
    await bench.submit(max_attempts=1)
    bench.double.answers[COMPLETION] = [Answer(end=End.SILENT), whole("Once")]
    bench.source.blame = blame
    bench.stall = 0.2
    executor = bench.executor()
    async with anyio.create_task_group() as group:
        group.start_soon(executor.watch)
        await bench.run(executor)
        group.cancel_scope.cancel()
    assert bench.source.complaints == ["sent nothing for 0.2 s"]
    assert await bench.waits() == (code is None)
    if code is not None:
        result = await bench.result()
        assert result["code"] == "engine_stalled"
        assert result["error"].endswith("(STALL_SECONDS). It was reading this job's request when that happened.")
        assert len(await bench.letters()) == 1


async def test_a_job_that_ends_engines_is_told_so_in_the_end(bench: Bench, commands: Any) -> None:
    await bench.submit(max_attempts=2)
    bench.double.answers[COMPLETION] = [UNREAD]
    bench.source.blame = Blame.OWN
    for _ in range(2):
        await bench.run()
    assert (await bench.result()) == {
        "code": "engine_crashed",
        "error": "llama-server went away while the job ran. It was reading this job's request when that happened.",
    }
    assert (await counted(commands)) == (2, True)


async def test_so_it_is_if_the_last_attempt_is_lost_with_its_worker(bench: Bench) -> None:
    await bench.submit(max_attempts=1)
    bench.double.answers[COMPLETION] = [UNREAD]
    bench.source.blame = Blame.SHARED
    await bench.run()
    await bench.lose()
    slot = bench.side.slot()
    assert await bench.side.slots.take("{llama_queue}:text", slot) == bench.payload
    assert await bench.side.admission.admit(slot, bench.payload) is None
    assert "while the engine read this job's request" in (await bench.result())["error"]


@pytest.mark.parametrize(
    ("answer", "stage"),
    [(whole("Once"), Stage.OVER), (cut("Once"), Stage.ANSWERED), (UNREAD, Stage.READ)],
)
async def test_a_request_is_read_with_its_first_token(bench: Bench, answer: Answer, stage: Stage) -> None:
    await bench.submit()
    bench.double.answers[COMPLETION] = [answer]
    await bench.run()
    assert [request.stage for request in bench.source.requests] == [stage]
