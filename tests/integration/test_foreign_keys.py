"""Whatever others did to the queue's own keys, no task of a worker ends: it says which key it is, and goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from tests.support.examples import examples
from tests.support.redis_side import MAX_BYTES, Side, make_side
from tests.support.text_bench import PATIENCE, READY
from velesio_worker.queue import control as control_module
from velesio_worker.queue import reaper as reaper_module
from velesio_worker.queue import slots as slots_module
from velesio_worker.queue.claims import Claim, Held
from velesio_worker.queue.consumer import Consumer, Gate, Passage
from velesio_worker.queue.control import Control
from velesio_worker.queue.intake import Arrivals, Intake
from velesio_worker.queue.keys import Slot, job_key
from velesio_worker.queue.survey import Survey
from velesio_worker.wire.jobs import Kind, parse_job

pytestmark = pytest.mark.anyio

QUEUE = "{llama_queue}"
TYPES = {
    "llama_queue": "list",
    READY: "list",
    f"{QUEUE}:dead": "list",
    f"{QUEUE}:active:w1:text-0": "list",
    f"{QUEUE}:control": "stream",
    f"{QUEUE}:workers": "zset",
    f"{QUEUE}:slots:w1": "hash",
}
"""What each of the keys is to be."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks once a second does so more often."""
    for module in (control_module, slots_module):
        monkeypatch.setattr(module, "BLOCK_SECONDS", 0.03)
    monkeypatch.setattr(reaper_module, "LOOK_SECONDS", 0.05)


class Running:
    """A job that runs, for whoever hears of jobs that are to be stopped."""

    def __init__(self, side: Side) -> None:
        job = parse_job(payload("running"), max_bytes=MAX_BYTES)
        held = Held("running", side.slot("text-7"), b"", 3)
        self._claims = [Claim(job, held, first=True, last=False)]
        self.looks = 0
        self.stopped: list[str] = []

    def claims(self) -> Sequence[Claim]:
        self.looks += 1
        return self._claims

    def cancel(self, job_id: str) -> None:
        self.stopped.append(job_id)

    def fence(self, job_id: str, attempt: int) -> None:
        self.stopped.append(f"{job_id} {attempt}")


def payload(job_id: str) -> bytes:
    return json.dumps({"id": job_id, "type": "completion", "data": {"prompt": "hi"}}).encode()


class Crew:
    """All tasks of a worker that read the queue's keys, and what was done with the jobs."""

    def __init__(self, side: Side, commands: Any) -> None:
        self.side = side
        self.commands = commands
        self.running = Running(side)
        self.done: list[bytes] = []

    async def process(self, slot: Slot, job: bytes) -> None:
        await self.side.slots.ack(slot, job)
        self.done.append(job)

    def start(self, group: anyio.abc.TaskGroup) -> None:
        side = self.side
        intake = Intake(
            side.slots,
            side.keys,
            side.keys.slot("w1", "intake"),
            Arrivals(),
            max_bytes=MAX_BYTES,
            refuse=side.admission.refuse,
        )
        consumer = Consumer(side.slots, READY, side.slot(), Gate(Passage.OPEN), self.process)
        for task in (intake.run, consumer.run):
            group.start_soon(task, anyio.Event())
        control = Control(side.clients.blocking, side.link, jobs=self.running)
        for task in (side.lease.keep, side.reaper.run, control.run):
            group.start_soon(task)

    async def works(self, job_id: str) -> None:
        """Wait until a job that is pushed now is done, and everybody else has had a look meanwhile."""
        await self.commands.lpush("llama_queue", payload(job_id))
        with anyio.fail_after(PATIENCE):
            while payload(job_id) not in self.done:
                await anyio.sleep(0.01)
        await self.looked()

    async def looked(self) -> None:
        """Wait until it has been looked some times whether a job that runs is to be stopped."""
        looks = self.running.looks
        with anyio.fail_after(PATIENCE):
            while self.running.looks < looks + 3:
                await anyio.sleep(0.01)


@asynccontextmanager
async def crew_of(url: str, commands: Any) -> AsyncGenerator[Crew, None]:
    async with make_side(url, "w1") as side, anyio.create_task_group() as group:
        crew = Crew(side, commands)
        crew.start(group)
        await crew.works("first")
        yield crew
        group.cancel_scope.cancel()


async def spoil(commands: Any, key: str) -> None:
    await commands.set(key, "x")


async def until_told(caplog: pytest.LogCaptureFixture, *words: str) -> None:
    with anyio.fail_after(PATIENCE):
        while not any(all(word in record.getMessage() for word in words) for record in caplog.records):
            await anyio.sleep(0.01)


@pytest.mark.parametrize("key", TYPES)
async def test_a_key_of_another_type_is_named_once_and_waited_for(
    redis_url: str, commands: Any, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    async with crew_of(redis_url, commands) as crew:
        await spoil(commands, key)
        if key == f"{QUEUE}:dead":
            await commands.lpush("llama_queue", b"no job")
        async with anyio.create_task_group() as group:
            group.start_soon(crew.side.lease.beat)
            if key == f"{QUEUE}:active:w1:text-0":
                await commands.lpush("llama_queue", payload("waits"))
            await until_told(caplog, f"{key} is a string, where a {TYPES[key]} belongs", "rename or delete it")
            await commands.delete(key)
            await crew.works("second")
    told = [record for record in caplog.records if f"WRONGTYPE {key}" in record.getMessage()]
    assert len(told) == 1
    assert not crew.running.stopped


async def test_a_look_at_the_queue_names_the_key_that_is_of_another_type(redis_url: str, commands: Any) -> None:
    async with make_side(redis_url, "w1") as side:
        await spoil(commands, f"{QUEUE}:dead")
        with pytest.raises(ResponseError, match=f"{QUEUE}:dead is a string, where a list belongs"):
            await Survey(side.link, seconds=PATIENCE).look()


async def test_the_jobs_of_a_lost_worker_are_put_back_whatever_their_lists_of_origin_are(
    redis_url: str, commands: Any
) -> None:
    lost = f"{QUEUE}:active:lost:"
    await commands.zadd(f"{QUEUE}:workers", {"lost": 1})
    await commands.set("taken", "x")
    homes = {f"{lost}a": "taken", f"{lost}b": "llama_queue", f"{lost}c": f"{QUEUE}:workers", "taken": "llama_queue"}
    await commands.hset(f"{QUEUE}:slots:lost", mapping=homes)
    for name in "abc":
        await commands.lpush(f"{lost}{name}", payload(name))
    await commands.set(f"{QUEUE}:only:lost", "x")
    async with make_side(redis_url, "w1") as side:
        assert await side.reaper.look() == 3
    assert set(await commands.lrange("llama_queue", 0, -1)) == {payload(name) for name in "abc"}
    assert not await commands.zrange(f"{QUEUE}:workers", 0, -1)


async def test_a_lost_worker_whose_slots_are_no_hash_is_told_and_keeps_nobody_from_the_others(
    redis_url: str, commands: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await commands.zadd(f"{QUEUE}:workers", {"a": 1, "b": 2})
    await commands.set(f"{QUEUE}:slots:a", "x")
    await commands.hset(f"{QUEUE}:slots:b", f"{QUEUE}:active:b:0", "llama_queue")
    await commands.lpush(f"{QUEUE}:active:b:0", payload("b"))
    async with make_side(redis_url, "w1") as side:
        assert await side.reaper.look() == 1
        assert await side.reaper.look() == 0
    told = [record.getMessage() for record in caplog.records if f"{QUEUE}:slots:a is a string" in record.getMessage()]
    assert len(told) == 1


async def test_a_running_job_whose_hash_is_none_is_told_and_the_others_are_looked_at(
    redis_url: str, commands: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew_of(redis_url, commands) as crew:
        await commands.set(job_key("running"), "x")
        await commands.xadd(f"{QUEUE}:control", {"cancel": "running"})
        await until_told(caplog, job_key("running"), "is no hash")
        await until_told(caplog, job_key("running"), "a cancel cannot be looked at")
        await crew.works("second")
        await commands.delete(job_key("running"))
        await commands.hset(job_key("running"), mapping={"cancel": "1"})
        with anyio.fail_after(PATIENCE):
            while "running" not in crew.running.stopped:
                await anyio.sleep(0.01)


async def test_a_key_that_is_put_right_before_it_is_found_ends_nobody(side: Side) -> None:
    replies = [ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), None]

    async def operation() -> str:
        if (error := replies.pop(0)) is not None:
            raise error
        return "done"

    assert await side.link.on_keys({side.keys.workers: "zset"}, operation) == "done"
    replies[:] = [ResponseError("WRONGTYPE of a key that nobody named")] * 9
    with pytest.raises(ResponseError, match="nobody named"):
        await side.link.on_keys({side.keys.workers: "zset"}, operation)


WORDS = st.one_of(
    st.binary(max_size=12), st.sampled_from([b"", b"w1", b"a b", b"\xff\xfe", b"running", b"1e400", b"-1"])
)
SCORES = st.one_of(st.floats(allow_nan=False), st.sampled_from([float("inf"), float("-inf"), 0.0, 1e300]))
MEMBERS = st.one_of(st.binary(max_size=12).filter(lambda name: name != b"w1"), st.sampled_from([b"", b"gone", b"a b"]))
FIELDS = st.sampled_from([b"kinds", b"text_state", b"cancel", b"owner", b"attempt", b"x"])
DAMAGE = st.lists(
    st.one_of(
        st.tuples(st.just("entry"), st.sampled_from([b"cancel", b"x", b"\xff"]), WORDS),
        st.tuples(st.just("member"), MEMBERS, SCORES),
        st.tuples(st.just("slots"), WORDS, st.one_of(WORDS, st.sampled_from([key.encode() for key in TYPES]))),
        st.tuples(st.just("facts"), FIELDS, WORDS),
        st.tuples(st.just("state"), FIELDS, WORDS),
        st.tuples(st.just("no hash"), st.sampled_from(["slots:gone", "worker:gone", "only:gone"]), st.none()),
        st.tuples(st.just("type"), st.sampled_from(sorted(TYPES)), st.none()),
    ),
    max_size=5,
)


async def damage_one(commands: Any, what: str, where: Any, value: Any) -> None:
    match what:
        case "entry":
            await commands.xadd(f"{QUEUE}:control", {where: value})
        case "member":
            await commands.zadd(f"{QUEUE}:workers", {where: value})
        case "slots":
            await commands.zadd(f"{QUEUE}:workers", {"gone": 1})
            await commands.hset(f"{QUEUE}:slots:gone", where, value)
        case "facts":
            await commands.hset(f"{QUEUE}:worker:gone", where, value)
        case "state":
            await commands.hset(job_key("running"), where, value)
        case "no hash":
            await commands.zadd(f"{QUEUE}:workers", {"gone": 1})
            await spoil(commands, f"{QUEUE}:{where}")
        case _:
            await spoil(commands, where)


@examples(12, suppress=(HealthCheck.function_scoped_fixture,))
@given(damage=DAMAGE)
async def test_whatever_is_done_to_the_queues_keys_a_worker_goes_on(
    redis_url: str, commands: Any, caplog: pytest.LogCaptureFixture, damage: list[tuple[str, Any, Any]]
) -> None:
    await commands.flushdb()
    caplog.clear()
    async with crew_of(redis_url, commands) as crew:
        spoilt = {where for what, where, _ in damage if what == "type"} - {f"{QUEUE}:dead"}
        for what, where, value in sorted(damage, key=lambda one: one[0] == "type"):
            with suppress(ResponseError):  # the key is spoilt otherwise already
                await damage_one(commands, what, where, value)
        async with anyio.create_task_group() as group:
            group.start_soon(crew.side.lease.beat)
            group.start_soon(crew.side.fleet.serves, Kind.IMAGE)
            if not spoilt:
                await crew.works("meanwhile")
            await crew.looked()
            await commands.delete(*TYPES)
            await crew.works("second")
