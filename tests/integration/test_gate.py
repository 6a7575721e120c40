"""Consumers at their gate: who may take jobs, for whom, and what becomes of a job that is taken as the gate closes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest

from tests.support.redis_side import Side
from tests.support.waiting import until
from velesio_worker.queue import slots as slots_module
from velesio_worker.queue.consumer import Consumer, Gate, Passage
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.slots import Slots
from velesio_worker.wire.jobs import Kind

pytestmark = pytest.mark.anyio

READY: Final = "{llama_queue}:text"
MOMENT: Final = 0.05
OPEN, AJAR, CLOSED = Passage.OPEN, Passage.AJAR, Passage.CLOSED


class Watched(Slots):
    """Slots that tell what is done with them."""

    def __init__(self, side: Side, commands: Any) -> None:
        super().__init__(commands, side.linked(commands), side.lease)
        self.begun: list[str] = []
        self.lingered: list[bool] = []
        self.on_take: Callable[[], object] = bool

    async def take(self, source: str, slot: Slot) -> bytes | None:
        self.begun.append(f"take {slot.name}")
        payload = await super().take(source, slot)
        if payload is not None:
            self.on_take()
        return payload

    async def lingers(self, source: str) -> bool:
        self.begun.append("linger")
        lingers = await super().lingers(source)
        self.lingered.append(lingers)
        return lingers


class Bench:
    """Two consumers of one worker at one gate, the first and another."""

    def __init__(self, side: Side, commands: Any) -> None:
        self.side = side
        self.commands = commands
        self.slots = Watched(side, commands)
        self.gate = Gate()
        self.processed: list[tuple[str, bytes]] = []
        self.hold: anyio.Event | None = None
        self.stopping = anyio.Event()

    async def process(self, slot: Slot, payload: bytes) -> None:
        self.processed.append((slot.name, payload))
        if self.hold is not None:
            await self.hold.wait()
        await self.slots.ack(slot, payload)

    def consumer(self, number: int) -> Consumer:
        slot = self.side.keys.slot("w1", f"text-{number}", home=self.side.keys.ready(Kind.TEXT))
        return Consumer(self.slots, READY, slot, self.gate, self.process, number=number)

    @asynccontextmanager
    async def running(self, *numbers: int) -> AsyncGenerator[None, None]:
        async with anyio.create_task_group() as group:
            for number in numbers:
                group.start_soon(self.consumer(number).run, self.stopping)
            yield
            self.stop()

    def stop(self) -> None:
        """Stop the consumers as the worker does."""
        self.stopping.set()
        self.gate.move(OPEN)

    async def push(self, *payloads: bytes) -> None:
        await self.commands.lpush(READY, *payloads)

    async def waiting(self) -> list[bytes]:
        """The jobs in the list, the next one first."""
        return (await self.commands.lrange(READY, 0, -1))[::-1]

    async def held(self) -> int:
        """How many jobs lie in slots."""
        return sum([await self.commands.llen(f"{{llama_queue}}:active:w1:text-{number}") for number in range(2)])


@pytest.fixture
def bench(side: Side, commands: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(slots_module, "BLOCK_SECONDS", 0.1)
    monkeypatch.setattr(slots_module, "_LINGER_SECONDS", MOMENT)
    return Bench(side, commands)


async def a_while() -> None:
    """Long enough for a consumer that must not take a job to take it."""
    await anyio.sleep(6 * MOMENT)


def test_a_gate_is_closed_at_first() -> None:
    assert Gate().passage is CLOSED


@pytest.mark.parametrize(
    ("passage", "first", "others"), [(OPEN, True, True), (AJAR, True, False), (CLOSED, False, False)]
)
async def test_a_gate_lets_through_whom_it_says(passage: Passage, *, first: bool, others: bool) -> None:
    gate = Gate(passage)
    for number, through in ((0, first), (1, others)):
        assert gate.lets_through(number) is through
        with anyio.move_on_after(0.05) as waiting:
            await gate.wait(number)
        assert waiting.cancelled_caught is not through


async def test_whoever_waits_at_a_gate_passes_once_it_is_open_far_enough() -> None:
    gate, passed = Gate(), list[str]()

    async def pass_through(name: str, number: int) -> None:
        await gate.wait(number)
        passed.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(pass_through, "first", 0)
        group.start_soon(pass_through, "other", 1)
        await anyio.wait_all_tasks_blocked()
        gate.move(AJAR)
        await until(lambda: passed == ["first"])
        await anyio.wait_all_tasks_blocked()
        assert passed == ["first"]
        gate.move(OPEN)
    assert passed == ["first", "other"]


async def test_an_open_gate_lets_as_many_through_as_there_are_places() -> None:
    gate, passed = Gate(OPEN, 1), list[int]()

    async def pass_through(number: int) -> None:
        await gate.wait(number)
        passed.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(pass_through, number)
        for places in (1, 2, 3):
            gate.move(OPEN, places)
            await anyio.wait_all_tasks_blocked()
            assert passed == list(range(places))
    gate.move(OPEN, 2)
    assert [gate.lets_through(number) for number in range(3)] == [True, True, False]


async def test_at_a_closed_gate_jobs_stay_in_their_list(bench: Bench) -> None:
    await bench.push(b"1", b"2")
    async with bench.running(0, 1):
        await a_while()
        assert bench.slots.begun == []
        assert await bench.waiting() == [b"1", b"2"]


async def test_through_an_open_gate_each_takes_one_job_at_a_time(bench: Bench) -> None:
    bench.gate.move(OPEN)
    bench.hold = anyio.Event()
    await bench.push(b"1", b"2", b"3")
    async with bench.running(0, 1):
        await until(lambda: len(bench.processed) == 2)
        assert await bench.waiting() == [b"3"]
        bench.hold.set()
        await until(lambda: len(bench.processed) == 3)
    assert sorted(payload for _, payload in bench.processed) == [b"1", b"2", b"3"]
    assert bench.slots.lingered == []


@pytest.mark.topologies
async def test_through_a_gate_that_is_ajar_only_the_first_takes_jobs_and_only_those_that_linger(bench: Bench) -> None:
    bench.gate.move(AJAR)
    async with bench.running(0, 1):
        await until(lambda: len(bench.slots.lingered) > 1)
        assert not any(bench.slots.lingered)
        assert set(bench.slots.begun) == {"linger"}, "a list without jobs is not taken from"
        await bench.push(b"1", b"2", b"3")
        await until(lambda: len(bench.processed) == 3)
    assert bench.processed == [("text-0", b"1"), ("text-0", b"2"), ("text-0", b"3")]
    assert "take text-1" not in bench.slots.begun


async def test_a_job_that_somebody_else_takes_within_the_moment_does_not_linger(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "_LINGER_SECONDS", 0.5)
    bench.gate.move(AJAR)
    await bench.push(b"1")
    async with bench.running(0):
        await until(lambda: bench.slots.begun == ["linger"])
        assert await bench.commands.rpop(READY) == b"1"
        await until(lambda: bench.slots.lingered)
        assert bench.slots.lingered == [False]
    assert bench.processed == []


@pytest.mark.topologies
@pytest.mark.parametrize("passage", [CLOSED, AJAR])
async def test_a_job_taken_while_the_gate_closes_goes_back_to_the_front(bench: Bench, passage: Passage) -> None:
    bench.gate.move(OPEN)
    bench.slots.on_take = lambda: bench.gate.move(passage)
    await bench.push(b"1", b"2")
    async with bench.running(1):
        await until(lambda: bench.gate.passage is passage)
        with anyio.fail_after(60):
            while await bench.held():
                await anyio.sleep(0.01)
        assert await bench.waiting() == [b"1", b"2"]
    assert bench.processed == []


async def test_a_gate_that_is_ajar_keeps_the_job_that_the_first_took(bench: Bench) -> None:
    bench.gate.move(OPEN)
    bench.slots.on_take = lambda: bench.gate.move(AJAR)
    await bench.push(b"1")
    async with bench.running(0):
        await until(lambda: bench.processed)
    assert bench.processed == [("text-0", b"1")]


@pytest.mark.parametrize("passage", Passage)
async def test_a_consumer_ends_when_it_shall_and_takes_nothing_more(bench: Bench, passage: Passage) -> None:
    bench.gate.move(passage)
    async with bench.running(0, 1):
        await a_while()
        begun = len(bench.slots.begun)
        bench.stop()
    assert len(bench.slots.begun) == begun
    await bench.push(b"1")
    await bench.consumer(0).run(bench.stopping)
    assert (bench.processed, await bench.waiting()) == ([], [b"1"])


async def test_a_job_taken_as_the_worker_stops_goes_back(bench: Bench) -> None:
    bench.gate.move(OPEN)
    bench.slots.on_take = bench.stop
    await bench.push(b"1", b"2")
    async with bench.running(0):
        await bench.stopping.wait()
    assert (bench.processed, await bench.waiting(), await bench.held()) == ([], [b"1", b"2"], 0)


async def test_the_job_in_hand_is_processed_to_its_end(bench: Bench) -> None:
    bench.gate.move(OPEN)
    bench.hold = anyio.Event()
    await bench.push(b"1", b"2")
    async with bench.running(0):
        await until(lambda: bench.processed)
        bench.stop()
        assert await bench.held() == 1
        bench.hold.set()
    assert (await bench.waiting(), await bench.held()) == ([b"2"], 0)
