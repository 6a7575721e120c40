"""What holds at every moment where jobs are kept for workers, whoever takes, ends, hands back, or is lost."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.redis_side import MAX_BYTES, Side, make_side
from velesio_worker.queue.intake import read_job
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.slots import Slots

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

QUEUE: Final = "{llama_queue}:"
TEXT: Final = f"{QUEUE}text"
KEPT: Final = f"{QUEUE}kept:text"
READY: Final[dict[str, str | int]] = {"text_state": "ready", "text_slots": 2}
WORKERS: Final = ("w1", "w2", "w3")
SLOTS: Final = 2
SESSIONS: Final = ("one", "two")
EVER: Final = 1000.0
SHORT: Final = 0.0001

PUSH: Final = st.tuples(
    st.just("push"),
    st.sampled_from(("high", "normal")),
    st.sampled_from((None, "a b")),
    st.sampled_from((None, *SESSIONS, *SESSIONS)),
    st.sampled_from((0.0, SHORT, EVER, EVER)),
)
OF_WORKER: Final = st.tuples(st.sampled_from(("take", "take", "take", "end", "back", "lose")), st.sampled_from(WORKERS))
FOREIGN: Final = st.tuples(st.just("foreign"), st.sampled_from(("", ":w1", ":w2:tags")))
STEPS: Final = st.lists(st.one_of(PUSH, OF_WORKER, OF_WORKER), max_size=40)


async def at_once(self: Slots, source: str, slot: Slot) -> bytes | None:
    """Move the first job of a list, if there is one."""
    return await self._link.commands.lmove(source, slot.key, "RIGHT", "LEFT")  # pyright: ignore[reportPrivateUsage]


class World:
    """Some workers on one queue, what they hold, and which jobs are over."""

    def __init__(self, sides: dict[str, Side], commands: Any) -> None:
        self._sides = sides
        self._commands = commands
        self._numbers = itertools.count()
        self.held: dict[str, list[tuple[Slot, bytes]]] = {name: [] for name in sides}
        self.pushed: list[bytes] = []
        self.over: list[bytes] = []

    async def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("push", priority, tenant, session, patience):
                await self.push(priority, tenant, session, patience)
            case ("take", worker):
                await self.take(worker)
            case ("foreign", name):
                if not await self._commands.exists(f"{KEPT}{name}"):
                    await self._commands.set(f"{KEPT}{name}", "in the way")
            case _:
                await getattr(self, step[0])(step[1])

    async def push(self, priority: str, tenant: str | None, session: str | None, patience: float) -> None:
        side = self._sides["w1"]
        job = {"id": f"job-{next(self._numbers)}", "type": "completion", "data": {"prompt": "x"}, "session": session}
        payload = json.dumps(job | {"priority": priority, "tenant": tenant}).encode()
        slot = side.slot("intake", home="llama_queue")
        await self._commands.lpush(slot.key, payload)
        side.slots.warmth.patience = lambda job: patience  # noqa: ARG005
        await side.slots.send_in_line(slot, await read_job(payload, max_bytes=MAX_BYTES), len(payload))
        self.pushed.append(payload)

    async def take(self, worker: str) -> bool:
        """Have a worker take a job, if it has room; whether it got one."""
        side, held = self._sides[worker], self.held[worker]
        free = {f"text-{number}" for number in range(SLOTS)} - {slot.name for slot, _ in held}
        if not free:
            return False
        slot = side.slot(min(free))
        payload = await side.slots.take(TEXT, slot)
        if payload is not None:
            await side.got(slot, await read_job(payload, max_bytes=MAX_BYTES), len(payload))
            held.append((slot, payload))
        return payload is not None

    async def end(self, worker: str) -> None:
        if self.held[worker]:
            slot, payload = self.held[worker].pop(0)
            self._sides[worker].slots.warmth.read(slot, 1, 99)
            await self._sides[worker].slots.ack(slot, payload)
            self.over.append(payload)

    async def back(self, worker: str) -> None:
        if self.held[worker]:
            slot, _ = self.held[worker].pop(0)
            assert await self._sides[worker].slots.hand_back(slot)

    async def lose(self, worker: str) -> None:
        """Have a worker be lost, and another one of the same name come."""
        await self._commands.zadd(f"{QUEUE}workers", {worker: 1})
        await next(side for name, side in self._sides.items() if name != worker).reaper.look()
        for slot, _ in self.held[worker]:
            self._sides[worker].slots.emptied(slot)
        self.held[worker].clear()
        await self._sides[worker].lease.beat()

    async def lists(self, pattern: str) -> dict[str, list[bytes]]:
        names = [key.decode() async for key in self._commands.scan_iter(QUEUE + pattern)]
        kinds = [await self._commands.type(name) for name in names]
        return {
            name: await self._commands.lrange(name, 0, -1)
            for name, kind in zip(names, kinds, strict=True)
            if kind == b"list"
        }

    async def agrees(self, *, sound: bool = True) -> None:
        """Each job that is not over lies in one list, and what is said of those that wait is so."""
        lines, kept = await self.lists("line:text:*"), await self.lists("kept:text:*")
        lists = lines | kept | await self.lists("text") | await self.lists("active:*")
        lying = [job for name, jobs in lists.items() if not name.endswith(":tags") for job in jobs]
        assert Counter(lying) == Counter(self.pushed) - Counter(self.over)
        if not sound:
            return
        beside = [tag for name, tags in lines.items() if name.endswith(":tags") for tag in tags]
        known = [one for name, ones in kept.items() if name.endswith(":tags") for one in ones]
        counted = [*beside, *(one.split(b" ")[1] for one in known)]
        assert set(await self._commands.zrange(f"{QUEUE}lines:text", 0, -1)) == set(counted)
        assert int(await self._commands.hget(f"{QUEUE}fair:text", "lined") or 0) == len(counted)
        by_priority: list[bytes] = []
        for name in ("high", "normal"):
            by_priority += await self._commands.zrange(f"{QUEUE}lines:text:{name}", 0, -1)
        assert sorted(by_priority) == sorted(counted)
        for name, jobs in kept.items():
            assert len(jobs) == len(kept[name.removesuffix(":tags") + ":tags"]) <= SLOTS
            ends = [float(one.split(b" ")[0]) for one in kept[name.removesuffix(":tags") + ":tags"]]
            assert ends == sorted(ends, reverse=True), "the oldest is let go first"
        workers = {name.rpartition(":")[2] for name in kept if not name.endswith(":tags")}
        assert {name.decode() for name in await self._commands.zrange(KEPT, 0, -1)} == workers

    async def drain(self, worker: str) -> None:
        """Have one worker take and end what it gets."""
        for _ in range(len(self.pushed) + 1):
            while self.held[worker]:
                await self.end(worker)
            if not await self.take(worker):
                return
        raise AssertionError("it gets jobs without end")


@pytest.fixture(autouse=True)
def nobody_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slots, "_first", at_once)


async def make_world(url: str, commands: Any, stack: AsyncExitStack) -> World:
    await commands.flushdb()
    sides = {name: await stack.enter_async_context(make_side(url, name, facts=READY)) for name in WORKERS}
    for side in sides.values():
        for number in range(SLOTS):
            side.slots.expect(side.slot(f"text-{number}"))
        await side.lease.beat()
    world = World(sides, commands)
    for session, worker in zip(SESSIONS, WORKERS, strict=False):  # who has read each when it begins
        for tenant in (None, "a b"):
            await world.push("normal", tenant, session, 0.0)
            await world.drain(worker)
    await world.take("w3")
    return world


@examples(30, suppress=(HealthCheck.function_scoped_fixture,))
@given(steps=STEPS)
async def test_no_job_is_lost_or_doubled_and_each_is_somebodys(
    redis_url: str, commands: Any, steps: list[tuple[Any, ...]]
) -> None:
    async with AsyncExitStack() as stack:
        world = await make_world(redis_url, commands, stack)
        for step in steps:
            await world.step(step)
            await world.agrees()
        for worker in WORKERS[1:]:
            while world.held[worker]:
                await world.end(worker)
        await world.drain("w1")  # whatever the others do, but what is kept for them
        await world.agrees()
        of_others = {key: jobs for key, jobs in (await world.lists("kept:text:*")).items() if "tags" in key}
        assert len(world.pushed) - len(world.over) == sum(map(len, of_others.values()))
        for worker in WORKERS[1:]:
            await world.drain(worker)
        assert Counter(world.over) == Counter(world.pushed)
        assert not await world.lists("kept:*")
        assert not await commands.exists(KEPT, f"{QUEUE}lines:text", f"{QUEUE}running:text")


@examples(15, suppress=(HealthCheck.function_scoped_fixture,))
@given(steps=st.lists(st.one_of(PUSH, OF_WORKER, OF_WORKER, FOREIGN), max_size=30))
async def test_what_somebody_else_puts_in_the_way_loses_and_doubles_none(
    redis_url: str, commands: Any, steps: list[tuple[Any, ...]]
) -> None:
    async with AsyncExitStack() as stack:
        world = await make_world(redis_url, commands, stack)
        for step in steps:
            await world.step(step)
            await world.agrees(sound=False)
        for worker in WORKERS:
            await world.drain(worker)
        assert Counter(world.over) == Counter(world.pushed)
