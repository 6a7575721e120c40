"""What holds of the lines at every moment, whatever comes, is taken, handed back, and costs."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict, deque
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.redis_side import MAX_BYTES, Side, make_side
from velesio_worker.queue.intake import read_job
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.lines import Lines
from velesio_worker.wire.jobs import Kind

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

TEXT: Final = "{llama_queue}:text"
PRIORITIES: Final = ("high", "normal", "low")
TENANTS: Final = ("", "a", "b", "c:tags", "d ")
SLOTS: Final = 3
SESSIONS: Final = 3
PASSES: Final = 8
"""So often in a row a job of a session that is warm goes before the one that is next."""

DEAREST: Final = 3
"""A job costs at most so many times what another one does."""

Line = tuple[str, str]

PUSH: Final = st.tuples(
    st.just("push"), st.sampled_from(PRIORITIES), st.sampled_from(TENANTS), st.sampled_from((100, 150, 250))
)
OTHERS: Final = (
    st.tuples(st.just("take")),
    st.tuples(st.just("end"), st.none() | st.integers(200, 600)),
    st.tuples(st.just("back")),
)
MOVE: Final = st.tuples(st.just("move"), st.sampled_from(TENANTS), *[st.sampled_from(PRIORITIES)] * 2).filter(
    lambda step: step[2] != step[3]
)
STEPS: Final = st.lists(st.one_of(PUSH, PUSH, *OTHERS, OTHERS[0], MOVE), max_size=40)


class Held(NamedTuple):
    """What lies in a slot."""

    slot: Slot
    line: Line
    job: bytes


class Model:
    """Jobs in Redis, and beside them what should be there."""

    def __init__(self, side: Side, commands: Any) -> None:
        self._side = side
        self._commands = commands
        self._numbers = itertools.count()
        self.lines: defaultdict[Line, deque[bytes]] = defaultdict(deque)
        self.held: deque[Held] = deque()
        self.begun: list[bytes] = []

    @property
    def waiting(self) -> int:
        return sum(map(len, self.lines.values()))

    async def push(self, priority: str, tenant: str, tokens: int) -> bytes:
        number = next(self._numbers)
        job: dict[str, Any] = {"id": f"job-{number}", "type": "completion", "priority": priority}
        job |= {"session": f"s{number % SESSIONS}" if tenant else None}  # one without would be another tenant's
        job |= {"tenant": tenant or None, "data": {"prompt": "x", "max_tokens": tokens}}
        payload = json.dumps(job).encode()
        slot = self._side.slot("intake", home="llama_queue")
        await self._commands.lpush(slot.key, payload)
        await self._side.slots.send_in_line(slot, await read_job(payload, max_bytes=MAX_BYTES), len(payload))
        self.lines[priority, tenant].append(payload)
        return payload

    async def take(self) -> bytes | None:
        """Take the next job, the first of a line or of a session; None if no slot is free, or nothing waits."""
        free = {f"text-{number}" for number in range(SLOTS)} - {held.slot.name for held in self.held}
        if not free or not self.waiting:
            return None
        slot = self._side.slot(min(free))
        payload = await self._side.slots.take(TEXT, slot)
        assert payload is not None
        line = next(line for line, jobs in self.lines.items() if payload in jobs)
        before = list(itertools.takewhile(lambda job: job != payload, self.lines[line]))
        session = json.loads(payload)["session"]
        assert session or not before
        assert session not in {json.loads(job)["session"] for job in before}
        self.lines[line].remove(payload)
        assert self._side.slots.got(slot, await read_job(payload, max_bytes=MAX_BYTES), len(payload)) is None
        self.held.append(Held(slot, line, payload))
        return payload

    async def end(self, cost: int | None = None) -> None:
        if self.held:
            held = self.held.popleft()
            self._side.slots.used(held.slot, cost)
            self._side.slots.warmth.read(held.slot, 1, 99)
            await self._side.slots.ack(held.slot, held.job)
            self.begun.append(held.job)

    async def back(self) -> None:
        if self.held:
            held = self.held.popleft()
            assert await self._side.slots.hand_back(held.slot)
            self.lines[held.line].appendleft(held.job)

    async def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("push", priority, tenant, tokens):
                await self.push(priority, tenant, tokens)
            case ("take",):
                await self.take()
            case ("end", cost):
                await self.end(cost)
            case ("move", tenant, priority, other):
                await self.move(tenant, priority, other)
            case _:
                await self.back()

    async def move(self, tenant: str, priority: str, other: str) -> None:
        jobs = self.lines[priority, tenant]
        assert await Lines(self._side.link.redis, self._side.keys).move(tenant, priority, other, Kind.TEXT) == len(jobs)
        self.lines[other, tenant].extend(jobs)
        jobs.clear()

    async def agrees(self) -> None:
        """Compare all that Redis has with what should be there."""
        tags: set[bytes] = set()
        lined = 0
        for (priority, tenant), jobs in self.lines.items():
            plain = (priority, tenant) == ("normal", "")
            key = TEXT if plain else f"{{llama_queue}}:line:text:{priority}:{tenant}"
            assert await self._commands.lrange(key, 0, -1) == list(jobs)[::-1]
            if not plain:
                beside = await self._commands.lrange(f"{key}:tags", 0, -1)
                assert len(beside) == len(jobs)
                tags.update(beside)
                lined += len(jobs)
        assert len(tags) == lined
        assert set(await self._commands.zrange("{llama_queue}:lines:text", 0, -1)) == tags
        assert int(await self._commands.hget("{llama_queue}:fair:text", "lined") or 0) == lined
        for priority in PRIORITIES:
            of_priority = sum(len(jobs) for (of, _), jobs in self.lines.items() if of == priority) - (
                len(self.lines["normal", ""]) if priority == "normal" else 0
            )
            found = set(await self._commands.zrange(f"{{llama_queue}}:lines:text:{priority}", 0, -1))
            assert found <= tags
            assert len(found) == of_priority
            who = {tenant for (of, tenant), jobs in self.lines.items() if of == priority and jobs}
            known = {
                name.decode() for name in await self._commands.zrange(f"{{llama_queue}}:fair:text:{priority}", 0, -1)
            }
            assert known - {""} == who - {""}  # of the plain list it is seen when the next job is looked for
        running = {name.decode() for name in await self._commands.hkeys("{llama_queue}:running:text")}
        assert running == {held.slot.field for held in self.held}


@examples(30, suppress=(HealthCheck.function_scoped_fixture,))
@given(steps=STEPS)
async def test_no_job_is_lost_or_doubled_and_all_keys_agree(
    redis_url: str, commands: Any, steps: list[tuple[Any, ...]]
) -> None:
    await commands.flushdb()
    async with make_side(redis_url, "w1") as side:
        await side.lease.beat()
        model = Model(side, commands)
        for step in steps:
            await model.step(step)
            await model.agrees()
        while model.waiting or model.held:
            await model.take()
            await model.end()
        await model.agrees()
        assert len(set(model.begun)) == len(model.begun) == sum(step[0] == "push" for step in steps)
        assert not [key async for key in commands.scan_iter("{llama_queue}:line:*")]
        assert not await commands.exists("{llama_queue}:running:text", "{llama_queue}:lines:text", TEXT)


@examples(8, suppress=(HealthCheck.function_scoped_fixture,))
@given(
    steps=STEPS,
    line=st.tuples(st.sampled_from(PRIORITIES), st.sampled_from(TENANTS)),
    costs=st.lists(st.none() | st.integers(200, 600), min_size=1, max_size=5),
)
async def test_no_job_waits_for_ever_while_others_come(
    redis_url: str, commands: Any, steps: list[tuple[Any, ...]], line: Line, costs: list[int | None]
) -> None:
    await commands.flushdb()
    async with make_side(redis_url, "w1") as side:
        await side.lease.beat()
        model = Model(side, commands)
        for step in steps:
            await model.step(step)
        while model.held:
            await model.end()
        job = await model.push(*line, 250)
        place = len(model.lines[line])
        others = [(priority, tenant) for priority in PRIORITIES for tenant in TENANTS[:3] if (priority, tenant) != line]
        of_priority = {"high": 21 / 16, "normal": 21 / 4, "low": 21}[line[0]]
        most = of_priority * (place + len(steps)) * len(TENANTS) * DEAREST * (PASSES + 1)
        cost = itertools.cycle(costs)
        for taken in itertools.count(1):
            for other in others:  # so that each of the other lines has a job, always
                if not model.lines[other]:
                    await model.push(*other, 100)
            if await model.take() == job:
                break
            await model.end(next(cost))
            assert taken <= most
