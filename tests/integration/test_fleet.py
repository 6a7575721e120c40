"""What a worker sees of the others, and of the lists that they share."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import anyio
import pytest

from tests.support.redis_side import Side
from tests.support.servers import Topology
from velesio_worker.queue.fleet import NOTES_SECONDS, Fleet
from velesio_worker.wire.jobs import Kind

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

WORKERS: Final = "{llama_queue}:workers"
TEXT: Final[dict[str, str | int]] = {"kinds": "text", "text_state": "ready"}
IMAGE: Final[dict[str, str | int]] = {"kinds": "image", "image_state": "ready"}
BOTH: Final[dict[str, str | int]] = {"kinds": "text,image", "text_state": "ready", "image_state": "ready"}


@pytest.fixture
def fleet(side: Side, commands: Any) -> Fleet:
    """The fleet as the worker ``w1`` sees it."""
    return Fleet(side.linked(commands), "w1")


async def beat(side: Side, worker: str, facts: dict[str, str | int], seconds: int = 60) -> None:
    await side.scripts.beat(side.keys, worker, seconds, facts)


async def test_without_another_worker_nobody_serves(side: Side, fleet: Fleet) -> None:
    await beat(side, "w1", TEXT)
    assert not await fleet.serves(Kind.TEXT)


@pytest.mark.parametrize("state", ["ready", "stopped", "starting", "draining", "stopping", "backoff", ""])
async def test_another_worker_serves_unless_its_engine_cannot_be_started(side: Side, fleet: Fleet, state: str) -> None:
    await beat(side, "w2", TEXT | {"text_state": state})
    assert await fleet.serves(Kind.TEXT)
    await beat(side, "w2", TEXT | {"text_state": "failed"})
    assert not await fleet.serves(Kind.TEXT)


async def test_a_dead_worker_does_not_serve(side: Side, commands: Any, fleet: Fleet) -> None:
    await beat(side, "w2", TEXT)
    await commands.zadd(WORKERS, {"w2": time.time() - 1})
    assert await commands.exists("{llama_queue}:worker:w2"), "what it was is still there"
    assert not await fleet.serves(Kind.TEXT)


async def test_a_worker_of_which_nothing_is_known_does_not_serve(commands: Any, fleet: Fleet) -> None:
    await commands.zadd(WORKERS, {"w2": time.time() + 60})
    assert not await fleet.serves(Kind.TEXT)


async def test_a_worker_that_left_does_not_serve(side: Side, commands: Any, fleet: Fleet) -> None:
    await beat(side, "w2", TEXT)
    await commands.zrem(WORKERS, "w2")
    assert not await fleet.serves(Kind.TEXT)


@pytest.mark.parametrize(
    ("facts", "served"),
    [
        (TEXT, {Kind.TEXT}),
        (IMAGE, {Kind.IMAGE}),
        (BOTH, {Kind.TEXT, Kind.IMAGE}),
        (BOTH | {"image_state": "failed"}, {Kind.TEXT}),
        (BOTH | {"text_state": "failed"}, {Kind.IMAGE}),
        ({"kinds": ""}, set[Kind]()),
        ({"kinds": "texts", "text_state": "ready"}, set[Kind]()),
    ],
)
async def test_a_worker_serves_its_own_kinds(
    side: Side, fleet: Fleet, facts: dict[str, str | int], served: set[Kind]
) -> None:
    await beat(side, "w2", facts)
    assert {kind for kind in Kind if await fleet.serves(kind)} == served


async def test_one_that_serves_is_found_among_those_that_do_not(side: Side, commands: Any, fleet: Fleet) -> None:
    await beat(side, "w1", TEXT)
    for worker, facts in (("w0", TEXT | {"text_state": "failed"}), ("w2", IMAGE), ("w3", TEXT)):
        await beat(side, worker, facts)
    await commands.zadd(WORKERS, {"w3": time.time() - 1})
    assert not await fleet.serves(Kind.TEXT)
    await beat(side, "w4", TEXT)
    assert await fleet.serves(Kind.TEXT)


async def test_jobs_that_wait_are_those_of_the_kind_and_those_of_no_kind_yet(
    side: Side, commands: Any, fleet: Fleet
) -> None:
    assert await fleet.waiting(Kind.TEXT) == 0
    await commands.lpush(side.keys.ready(Kind.TEXT), b"1", b"2")
    await commands.lpush(side.keys.ready(Kind.IMAGE), b"3")
    await commands.lpush(side.keys.only("w1"), b"4")
    await commands.lpush("llama_queue", b"5", b"6", b"7")
    assert [await fleet.waiting(kind) for kind in (Kind.TEXT, Kind.IMAGE, Kind.MANAGE)] == [5, 4, 3]


async def test_the_time_of_the_last_job_is_kept_in_unix_time(commands: Any, fleet: Fleet) -> None:
    for at, kept in ((1700000000.25, b"1700000000.250"), (1700000001.0, b"1700000001.000")):
        fleet.note_job(at, {"job_type": "completion", "timestamp": at})
        await fleet.write_notes()
        assert await commands.get("last_job_time") == kept
    assert await commands.ttl("last_job_time") == -1


async def test_the_last_job_of_each_second_is_kept_for_a_day(commands: Any, fleet: Fleet) -> None:
    """`metrics:<second>` of the wire protocol: a string of JSON with these five fields."""
    fields = ("job_type", "duration", "success", "timestamp", "gpu_utilization")
    jobs = [
        ("completion", 1.235, True, 1700000000.0, None),
        ("embedding", 0.5, False, 1700000000.75, 97),
        ("txt2img", 60.0, True, 1700000001.5, 0),
    ]
    for values in jobs:
        fleet.note_job(values[3], dict(zip(fields, values, strict=True)))
    await fleet.write_notes()
    kept = {second: json.loads(await commands.get(f"metrics:{second}")) for second in (1700000000, 1700000001)}
    assert kept == {
        1700000000: {
            "job_type": "embedding",
            "duration": 0.5,
            "success": False,
            "timestamp": 1700000000.75,
            "gpu_utilization": 97,
        },
        1700000001: {
            "job_type": "txt2img",
            "duration": 60.0,
            "success": True,
            "timestamp": 1700000001.5,
            "gpu_utilization": 0,
        },
    }
    for second in kept:
        assert 86400 - 60 < await commands.ttl(f"metrics:{second}") <= 86400


async def test_the_first_job_is_kept_at_once_and_those_that_end_soon_after_it_together(
    commands: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []
    write = fleet.write_notes

    async def counted() -> None:
        written.append(time.monotonic())
        await write()

    monkeypatch.setattr(fleet, "write_notes", counted)
    async with anyio.create_task_group() as group:
        group.start_soon(fleet.keep_notes)
        fleet.note_job(1700000000.25, {"timestamp": 1700000000.25})
        with anyio.fail_after(NOTES_SECONDS / 2):
            while await commands.get("last_job_time") != b"1700000000.250":
                await anyio.sleep(0.01)
        for at in (1700000000.5, 1700000001.0, 1700000001.5):
            fleet.note_job(at, {"timestamp": at})
        with anyio.fail_after(3 * NOTES_SECONDS):
            while await commands.get("last_job_time") != b"1700000001.500":
                await anyio.sleep(0.01)
        assert len(written) == 2
        fleet.note_job(1700000002.0, {"timestamp": 1700000002.0})
        group.cancel_scope.cancel()
    assert await commands.get("last_job_time") == b"1700000002.000"  # nothing is left behind by one that stops
    for second, at in ((1700000000, 1700000000.5), (1700000001, 1700000001.5), (1700000002, 1700000002.0)):
        assert json.loads(await commands.get(f"metrics:{second}")) == {"timestamp": at}


async def test_a_time_that_cannot_be_kept_is_no_matter(commands: Any, fleet: Fleet, topology: Topology) -> None:
    with topology.taking_no_writes():
        fleet.note_job(1700000000.0, {})
        await fleet.write_notes()
    assert not await commands.exists("last_job_time")
    assert not await commands.exists("metrics:1700000000")
