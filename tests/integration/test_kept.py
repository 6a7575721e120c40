"""Jobs of a session without backlog: whoever has read what it begins with gets them although others are free."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import anyio
import pytest

from tests.support.redis_side import MAX_BYTES, Side, make_side
from tests.support.running import Running
from tests.support.text_bench import PATIENCE
from velesio_worker.core.metrics import REGISTRY
from velesio_worker.queue import slots as slots_module
from velesio_worker.queue import warmth as warmth_module
from velesio_worker.queue.consumer import Consumer, Gate, Passage
from velesio_worker.queue.control import Control
from velesio_worker.queue.intake import Arrivals, Intake, read_job
from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.lines import Lines
from velesio_worker.wire.jobs import Kind

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

TEXT: Final = "{llama_queue}:text"
KEPT: Final = "{llama_queue}:kept:text"
LINES: Final = "{llama_queue}:lines:text"
READY: Final[dict[str, str | int]] = {"text_state": "ready", "text_slots": 2, "text_model": "small"}
LONG: Final = "words of what was said before. " * 60
"""So long a prompt is waited for as long as any is."""

NUMBERS: Final = itertools.count()


def job(session: str | None = "one", **fields: Any) -> dict[str, Any]:
    made = {"id": f"job-{next(NUMBERS)}", "type": "completion", "data": {"prompt": LONG}, "session": session}
    return made | {"tenant": "a"} | fields


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    with anyio.fail_after(PATIENCE):
        while not await condition():
            await anyio.sleep(0.002)


class Ended(NamedTuple):
    """A job that was run: by whom, and when."""

    worker: str
    job_id: str
    at: float


class Fleet:
    """Workers with the tasks that take jobs, and what they have run."""

    def __init__(self, url: str, commands: Any) -> None:
        self._url = url
        self.commands = commands
        self.ended: list[Ended] = []
        self.begun: list[str] = []
        self.blocks = dict[str, anyio.Event]()

    @asynccontextmanager
    async def worker(
        self, name: str, consumers: int = 1, *, intake: bool = True, facts: Mapping[str, str | int] | None = None
    ) -> AsyncGenerator[Side]:
        """A worker that runs so many jobs at a time; one whose id is in ``blocks`` until that is set."""
        async with (
            make_side(self._url, name, facts=READY | dict(facts or {})) as side,
            anyio.create_task_group() as group,
        ):
            await side.lease.beat()
            turn, gate, never = anyio.Lock(), Gate(Passage.OPEN), anyio.Event()
            for number in range(consumers):
                slot = side.slot(f"text-{number}")
                consumer = Consumer(side.slots, TEXT, slot, gate, self._process(side), number=number, turn=turn)
                group.start_soon(consumer.run, never)
            control = Control(side.clients.blocking, side.link, jobs=Running(), worker=name, summons=side.slots.summons)
            group.start_soon(control.run)
            if intake:
                slot = side.slot("intake", home="llama_queue")
                refuse = side.admission.refuse
                sort = Intake(side.slots, side.keys, slot, Arrivals(), max_bytes=MAX_BYTES, refuse=refuse)
                group.start_soon(sort.run, never)
                group.start_soon(side.slots.letting_go.run)
            if consumers:
                await until(lambda: self.waits(name))
            yield side
            group.cancel_scope.cancel()

    def _process(self, side: Side) -> Callable[[Slot, bytes], Awaitable[None]]:
        async def process(slot: Slot, payload: bytes) -> None:
            read = await read_job(payload, max_bytes=MAX_BYTES)
            await side.got(slot, read, len(payload))
            self.begun.append(read.id)
            if read.id in self.blocks:
                await self.blocks[read.id].wait()
            side.slots.warmth.read(slot, 1, 99)
            await side.slots.ack(slot, payload)
            self.ended.append(Ended(slot.worker, read.id, time.monotonic()))

        return process

    async def waits(self, name: str, slots: int = 1) -> bool:
        """Whether so many of a worker's slots say that they wait: its consumers do in turns, of a second each."""
        idle: list[bytes] = await self.commands.zrange("{llama_queue}:idle:text", 0, -1)
        return sum(field.startswith(f"{name}:".encode()) for field in idle) >= slots

    async def hold_up(self) -> Callable[[], Awaitable[str]]:
        """Have whoever waits run a job that goes on until what is returned is called."""
        busy = job(None)
        self.blocks[busy["id"]] = anyio.Event()
        await self.push(busy)
        await self.runs(busy["id"])

        async def release() -> str:
            self.blocks[busy["id"]].set()
            return await self.over(busy["id"])

        return release

    async def push(self, pushed: dict[str, Any]) -> str:
        await self.commands.lpush("llama_queue", json.dumps(pushed))
        return pushed["id"]

    async def run(self, pushed: dict[str, Any]) -> str:
        """Push a job; returns the worker that has run it."""
        job_id = await self.push(pushed)
        return await self.over(job_id)

    async def over(self, job_id: str) -> str:
        """Wait until a job is over; returns the worker that has run it."""

        async def is_over() -> bool:
            return any(one.job_id == job_id for one in self.ended)

        await until(is_over)
        (ended,) = [one for one in self.ended if one.job_id == job_id]
        return ended.worker

    async def runs(self, job_id: str) -> None:
        """Wait until a job has begun."""

        async def has_begun() -> bool:
            return job_id in self.begun

        await until(has_begun)


@pytest.fixture
def fleet(redis_url: str, commands: Any) -> Fleet:
    return Fleet(redis_url, commands)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have jobs kept for longer than any test takes."""
    monkeypatch.setattr(warmth_module, "LONGEST_PATIENCE", 1000.0)
    monkeypatch.setattr(warmth_module, "_FIRST_SPEED", 0.001)


def hits() -> float:
    return REGISTRY.get_sample_value("velesio_warm_jobs_total", {"outcome": "hit"}) or 0


async def nothing_is_left(commands: Any) -> None:
    keys = [key async for key in commands.scan_iter(f"{KEPT}*")]
    assert not keys
    assert not await commands.exists(LINES, f"{LINES}:high", f"{LINES}:normal", TEXT)
    assert int(await commands.hget("{llama_queue}:fair:text", "lined") or 0) == 0


SORTS: Final[dict[str, dict[str, Any]]] = {
    "of a tenant": {},
    "of high priority": {"priority": "high", "tenant": None},
    "with a session alone": {"tenant": None},
    "a chat with nothing": {
        "session": None,
        "tenant": None,
        "type": "chat_completion",
        "data": {
            "messages": [
                {"role": "user", "content": LONG},
                {"role": "assistant", "content": "So."},
                {"role": "user", "content": "And?"},
            ]
        },
    },
}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("sort", SORTS)
async def test_the_next_turn_goes_to_whoever_has_read_the_last_one_although_another_has_waited_longer(
    fleet: Fleet, sort: str
) -> None:
    async with fleet.worker("w1") as first:
        assert await fleet.run(job(**SORTS[sort])) == "w1"
        await until(lambda: fleet.waits("w1"))
        async with fleet.worker("w2", consumers=3):
            before = hits()
            for _ in range(6):  # whoever gets a job waits behind the others for the next one
                assert await fleet.run(job(**SORTS[sort])) == "w1"
                assert await fleet.run(job(None, tenant="b")) in {"w1", "w2"}
                await until(lambda: fleet.waits("w1"))
                await until(lambda: fleet.waits("w2"))
            assert hits() == before + 6
            await nothing_is_left(fleet.commands)
            assert not first.outage.trouble


async def test_a_busy_worker_gets_it_if_it_has_room_in_time(fleet: Fleet, patient: None) -> None:  # noqa: ARG001
    async with fleet.worker("w1"):
        await fleet.run(job())
        release = await fleet.hold_up()
        async with fleet.worker("w2"):
            kept = await fleet.push(job())
            await until(lambda: fleet.commands.exists(KEPT))
            assert await fleet.run(job(None, tenant="b")) == "w2"
            assert int(await fleet.commands.zcard(LINES)) == 1, "autoscalers see that it waits"
            await release()
            assert await fleet.over(kept) == "w1"
        await nothing_is_left(fleet.commands)


async def test_else_another_one_gets_it_when_its_moment_is_over(fleet: Fleet) -> None:
    async with fleet.worker("w1"):
        await fleet.run(job())
        release = await fleet.hold_up()
        async with fleet.worker("w2"):
            began = time.monotonic()
            assert await fleet.run(job()) == "w2"
            assert time.monotonic() - began >= warmth_module.LONGEST_PATIENCE
            await nothing_is_left(fleet.commands)
            await until(lambda: fleet.waits("w2"))
            began = time.monotonic()
            assert await fleet.run(job()) == "w2", "who has read the last turn"
            assert time.monotonic() - began < warmth_module.LONGEST_PATIENCE
        await release()


async def test_should_whoever_sorted_it_be_lost_the_next_to_ask_takes_it(fleet: Fleet) -> None:
    async with fleet.worker("w1"):
        await fleet.run(job())
    async with fleet.worker("w1", consumers=0, intake=False), fleet.worker("w2", intake=False):
        async with fleet.worker("w3", consumers=0) as sorting:
            kept = await fleet.push(job())
            await until(lambda: fleet.commands.exists(KEPT))
            sorting.slots.letting_go.due(Kind.TEXT, "w9", 0)  # of whom nothing is kept
        assert await fleet.over(kept) == "w2"
        await nothing_is_left(fleet.commands)


@pytest.mark.usefixtures("patient")
async def test_what_is_kept_for_a_worker_that_is_lost_or_ends_is_everybodys(fleet: Fleet) -> None:
    async with fleet.worker("w1"):
        await fleet.run(job())
    async with fleet.worker("w2") as other:
        for how in ("lost", "ends"):
            async with fleet.worker("w1", consumers=0, intake=False) as gone:
                await fleet.commands.set((await promises(fleet.commands))[0], "w1")
                kept = await fleet.push(job())
                await until(lambda: fleet.commands.exists(KEPT))
                if how == "ends":
                    await gone.leave()
                else:
                    await fleet.commands.zadd("{llama_queue}:workers", {"w1": 1})
                    await other.reaper.look()
                assert await fleet.over(kept) == "w2"
                await nothing_is_left(fleet.commands)
                await until(lambda: fleet.waits("w2"))


async def promises(commands: Any) -> list[bytes]:
    return [key async for key in commands.scan_iter(match="{llama_queue}:warm:*")]


NOBODYS: Final[dict[str, tuple[dict[str, str | int], dict[str, Any]]]] = {
    "the worker does not serve": ({"text_state": "draining"}, {}),
    "the worker stops": ({"stage": "stopping"}, {}),
    "it serves another model": ({}, {"data": {"prompt": LONG, "model": "large"}}),
    "its prompt is short": ({}, {"data": {"prompt": "short"}}),
}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("why", NOBODYS)
async def test_nobody_is_waited_for_in_vain(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    facts, fields = NOBODYS[why]
    monkeypatch.setattr(warmth_module, "_FIRST_SPEED", 500 if "short" in why else 0.001)
    async with fleet.worker("w1", facts={"text_model": "large"}):
        await fleet.run(job(**fields))
    async with fleet.worker("w1", consumers=0, facts=facts), fleet.worker("w2"):
        assert await fleet.run(job(**fields)) == "w2"


@pytest.mark.usefixtures("patient")
async def test_no_more_is_kept_for_a_worker_than_it_runs_at_a_time(fleet: Fleet) -> None:
    async with fleet.worker("w1"):
        await fleet.run(job())
    async with fleet.worker("w1", consumers=0, intake=False) as cold, fleet.worker("w2"):
        kept = [await fleet.push(job()) for _ in range(2)]

        async def are_kept() -> bool:
            return int(await fleet.commands.llen(f"{KEPT}:w1")) == 2

        await until(are_kept)
        assert await fleet.run(job()) == "w2"
        slots = [cold.slot(f"text-{number}") for number in range(2)]
        taken = [await cold.slots.take(TEXT, slot) for slot in slots]
        assert [json.loads(payload or b"{}")["id"] for payload in taken] == kept, "the oldest first"
        for slot, payload in zip(slots, taken, strict=True):
            await cold.slots.ack(slot, payload or b"")
        await nothing_is_left(fleet.commands)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("slots", [1, 2])
async def test_where_nobody_else_waits_it_costs_nothing(fleet: Fleet, slots: int) -> None:
    async with fleet.worker("w1", consumers=slots):
        for _ in range(3):
            assert await fleet.run(job()) == "w1"
            await until(lambda: fleet.waits("w1", slots))
        assert not await fleet.commands.exists("{llama_queue}:bell:w1")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", ["kept:text", "kept:text:w1", "kept:text:w1:tags", "bell:w1", "warm"])
async def test_a_name_that_somebody_else_uses_costs_no_job(fleet: Fleet, name: str) -> None:
    async with fleet.worker("w1"):
        await fleet.run(job())
        (key,) = await promises(fleet.commands) if name == "warm" else ["{llama_queue}:" + name]
        await fleet.commands.delete(key)
        await fleet.commands.hset(key, "in", "the way")
        async with fleet.worker("w2"):
            for _ in range(3):
                assert await fleet.run(job()) in {"w1", "w2"}
            await fleet.commands.delete(key)
            await until(lambda: fleet.waits("w1"))
            last = await fleet.run(job())
            await until(lambda: fleet.waits("w1"))
            await until(lambda: fleet.waits("w2"))
            assert await fleet.run(job()) == last
        await nothing_is_left(fleet.commands)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("gone", ["", ":w1:tags"])
async def test_a_job_is_taken_although_what_was_known_of_it_is_gone(fleet: Fleet, gone: str) -> None:
    async with fleet.worker("w1"):
        await fleet.run(job())
    async with fleet.worker("w2"), fleet.worker("w1", consumers=0, intake=False) as cold:
        kept = await fleet.push(job())
        await until(lambda: fleet.commands.exists(f"{KEPT}:w1"))
        await fleet.commands.delete(f"{KEPT}{gone}")
        if gone:
            assert await fleet.commands.zadd(KEPT, {"w1": 1}) == 0
            assert await fleet.over(kept) == "w2"
        else:
            assert await cold.slots.take(TEXT, cold.slot()) is not None
        assert not await fleet.commands.exists(f"{KEPT}:w1", f"{KEPT}:w1:tags", KEPT)


async def test_neither_a_drop_nor_a_move_loses_it(fleet: Fleet) -> None:
    async with fleet.worker("w1"):
        await fleet.run(job())
    async with fleet.worker("w1", consumers=0, intake=False), fleet.worker("w2"):
        kept = await fleet.push(job())
        await until(lambda: fleet.commands.exists(KEPT))
        lines = Lines(fleet.commands, Keys("llama_queue"))
        assert await lines.drop("a", "normal", Kind.TEXT) == 0
        assert await lines.move("a", "normal", "low", Kind.TEXT) == 0
        assert await fleet.over(kept) == "w2"


async def test_a_job_that_is_handed_back_is_kept_for_nobody(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "BLOCK_SECONDS", 0.05)
    async with fleet.worker("w1"):
        await fleet.run(job())
    async with fleet.worker("w1", consumers=0) as cold, fleet.worker("w2", consumers=0):
        await fleet.commands.zadd("{llama_queue}:idle:text", {"w2:text-0": time.time() + 100})
        kept = await fleet.push(job())
        await until(lambda: fleet.commands.exists(KEPT))
        slot = cold.slot()
        payload = await cold.slots.take(TEXT, slot)
        assert json.loads(payload or b"{}")["id"] == kept
        assert await fleet.commands.hget("{llama_queue}:running:text", slot.field)
        assert await cold.slots.hand_back(slot)
        assert not await fleet.commands.hget("{llama_queue}:running:text", slot.field)
        assert not await fleet.commands.exists(KEPT)
        assert await fleet.commands.lrange(TEXT, 0, -1) == [payload]


async def test_none_is_lost_or_doubled_while_consumers_are_called_back(fleet: Fleet) -> None:
    """Those that wait for any job are called back over and over, while such jobs come."""
    async with fleet.worker("w1", consumers=2) as first, fleet.worker("w2", consumers=2) as second:
        pushed: list[str] = []
        for number in range(120):
            session = None if number % 3 else f"session-{number % 4}"
            pushed.append(await fleet.push(job(session, tenant=None)))
            if number % 2:
                await anyio.sleep(0.003)  # so that some come while all wait
        for job_id in pushed:
            await fleet.over(job_id)
        assert sorted(one.job_id for one in fleet.ended) == sorted(pushed)
        assert sum(side.slots.summons[Kind.TEXT].rung for side in (first, second)) > 0
        await until(lambda: fleet.waits("w1"))
        slots = [side.slot(f"text-{number}").key for side in (first, second) for number in range(2)]
        assert not await fleet.commands.exists(*slots)
        await nothing_is_left(fleet.commands)
