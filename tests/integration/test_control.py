"""Running jobs are stopped when they are cancelled, taken over, or read by nobody; and for no other reason."""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from tests.support.redis_side import Side
from tests.support.running import Running, run_here
from tests.support.waiting import until
from velesio_worker.client import Client, subscriber
from velesio_worker.client.subscriber import READER_SECONDS, SHOW_SECONDS, Presence
from velesio_worker.queue import control as control_module
from velesio_worker.queue.claims import Claim
from velesio_worker.queue.control import Control, request_cancel
from velesio_worker.queue.scripts import JOB_HASH_TTL, ClaimStatus
from velesio_worker.wire.events import StreamEvent

pytestmark = pytest.mark.anyio
topologies = pytest.mark.topologies

JOB: Final = "{result:a}:job"
FLAG: Final = "{result:a}:cancel"
READER: Final = "{result:a}:reader"
DONE: Final = b'{"finish_reason":"stop","usage":null,"timings":null}'


class Clock:
    """The time that control goes by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: types.ModuleType) -> None:
        self.now = 1000.0
        for module in modules:
            monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, control_module)


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def control(side: Side, commands: Any, running: Running) -> Control:
    return Control(commands, side.linked(commands), jobs=running)


async def look(control: Control, clock: Clock, after: Iterable[float]) -> None:
    """Look again and again, each time so many seconds later."""
    for seconds in after:
        clock.now += seconds
        await control.look()


@asynccontextmanager
async def listening(control: Control) -> AsyncGenerator[None, None]:
    async with anyio.create_task_group() as group:
        group.start_soon(control.run)
        await anyio.wait_all_tasks_blocked()
        yield
        group.cancel_scope.cancel()


@topologies
async def test_a_job_that_is_this_workers_runs_on(side: Side, control: Control, running: Running) -> None:
    await run_here(side, running)
    await control.look()
    assert (running.cancelled, running.fenced) == ([], [])


async def test_a_count_that_somebody_damaged_stops_neither_the_job_nor_those_that_look(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    await run_here(side, running)
    await run_here(side, running, "b", "text-1")
    await commands.hset(JOB, "attempt", "9" * 5000)
    await commands.hset("{result:b}:job", "cancel", 1)
    await control.look()
    assert (running.cancelled, running.fenced) == (["b"], [])


@topologies
async def test_the_cancel_flag_counts_though_the_bell_did_not_ring(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    await run_here(side, running)
    await run_here(side, running, "b", "text-1")
    await commands.hset(JOB, "cancel", 1)
    await control.look()
    assert (running.cancelled, running.fenced) == (["a"], [])


async def test_whoever_listens_looks_at_the_flags_again_and_again(
    side: Side, commands: Any, control: Control, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "BLOCK_SECONDS", 0.1)
    await run_here(side, running)
    await run_here(side, running, "b", "text-1")
    async with listening(control):
        await commands.hset(JOB, "cancel", 1)
        await until(lambda: running.cancelled, limit=60)
        await commands.hset("{result:b}:job", "cancel", 1)
        await until(lambda: "b" in running.cancelled, limit=60)
    assert set(running.cancelled) == {"a", "b"}


@topologies
async def test_the_bell_is_heard_at_once(
    side: Side, commands: Any, control: Control, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing() -> None:
        """See nothing."""

    await request_cancel(commands, side.keys, "before")
    monkeypatch.setattr(control, "look", nothing)
    monkeypatch.setattr(control_module, "BLOCK_SECONDS", 4.5)  # who does not hear it before that does not listen
    async with listening(control):
        await request_cancel(commands, side.keys, "a")
        await until(lambda: running.cancelled, limit=4)
        await request_cancel(commands, side.keys, "b")
        await until(lambda: running.cancelled[1:], limit=4)
    assert running.cancelled == ["a", "b"], "and what rang before it listened is the flags' business"


async def heard(side: Side, commands: Any, running: Running) -> None:
    """Ring for a job of no importance until somebody has heard it."""
    with anyio.fail_after(60):
        while "bell" not in running.cancelled:
            await request_cancel(commands, side.keys, "bell")
            await anyio.sleep(0.01)


async def end(side: Side, running: Running, claim: Claim, commands: Any, *, forget: bool = False) -> None:
    """End a job; ``forget`` its result, as if that had expired."""
    assert await side.claims.finish(claim.held, b"{}")
    running.now.remove(claim)
    if forget:
        await commands.delete("result:a")


async def claim_again(side: Side) -> tuple[ClaimStatus, bool]:
    """What becomes of a new job under the same id: its status, and whether it is at its first attempt."""
    reply = await side.claims.claim("a", side.slot(), 9)
    return reply.status, reply.first


@topologies
@pytest.mark.parametrize("bell", [True, False], ids=["with the doorbell", "with the flag alone"])
async def test_a_flag_that_is_written_after_a_jobs_end_does_not_stop_the_next_one_of_that_id(
    side: Side, commands: Any, control: Control, running: Running, *, bell: bool
) -> None:
    await end(side, running, await run_here(side, running), commands)
    await commands.hset(JOB, "cancel", 1)
    if bell:
        async with listening(control):
            await heard(side, commands, running)
            await commands.xadd(side.keys.control, {"cancel": "a"})
            with anyio.fail_after(60):
                while await commands.hexists(JOB, "cancel"):
                    await anyio.sleep(0.01)
    await commands.delete("result:a")
    assert await claim_again(side) == (ClaimStatus.CLAIMED, True)
    await control.look()
    assert "a" not in running.cancelled


@topologies
async def test_a_cancel_that_is_asked_for_as_the_job_ends_leaves_no_flag(
    side: Side, commands: Any, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = await run_here(side, running)
    first = commands.execute_command

    async def then_the_job_ends(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        reply = await first(*args, **options)
        await end(side, running, claim, commands)
        return reply

    monkeypatch.setattr(commands, "execute_command", then_the_job_ends)
    await request_cancel(commands, side.keys, "a")
    assert not await side.scripts.cancelled("a"), "as whoever hears the doorbell finds it"
    assert not await commands.exists(FLAG)


@topologies
async def test_a_cancel_that_is_asked_for_after_a_jobs_end_leaves_no_flag(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    await end(side, running, await run_here(side, running), commands)
    async with listening(control):
        await heard(side, commands, running)
        await request_cancel(commands, side.keys, "a")
        with anyio.fail_after(60):
            while await commands.exists(FLAG):
                await anyio.sleep(0.01)
    assert "a" not in running.cancelled


@topologies
async def test_a_flag_of_its_own_key_counts_though_the_bell_did_not_ring_and_goes_with_the_job(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    claim = await run_here(side, running)
    await run_here(side, running, "b", "text-1")
    await commands.lpush(FLAG, "of another type")
    await control.look()
    assert (running.cancelled, running.fenced) == (["a"], [])
    await end(side, running, claim, commands, forget=True)
    assert not await commands.exists(FLAG)
    assert await claim_again(side) == (ClaimStatus.CLAIMED, True)


@topologies
async def test_a_flag_of_its_own_key_that_comes_after_the_end_does_not_stop_the_next_job_of_that_id(
    side: Side, commands: Any, running: Running
) -> None:
    await end(side, running, await run_here(side, running), commands)
    await commands.set(FLAG, 1)
    await commands.delete("result:a")
    assert await claim_again(side) == (ClaimStatus.CLAIMED, True)
    assert not await commands.exists(FLAG)


@topologies
async def test_a_job_that_waits_is_cancelled_by_a_flag_of_its_own_key(side: Side, commands: Any) -> None:
    await commands.set(FLAG, 1)
    assert (await claim_again(side))[0] is ClaimStatus.CANCELLED


async def test_who_may_set_the_flag_and_ring_alone_can_cancel(side: Side, commands: Any, redis_url: str) -> None:
    await commands.execute_command(
        *("ACL", "SETUSER", "canceller", "on", ">pw", "%W~{result:*}:cancel", f"%W~{side.keys.control}"),
        *("+set", "+xadd", "+client|setname", "+client|setinfo"),
    )
    await commands.execute_command("ACL", "LOG", "RESET")
    try:
        async with Client(redis_url.replace("://", "://canceller:pw@")) as client:
            await client.cancel("a")
        assert [entry[7] for entry in await commands.execute_command("ACL", "LOG")] == []
    finally:
        await commands.execute_command("ACL", "DELUSER", "canceller")
    assert 86000 < await commands.ttl(FLAG) <= 86400
    assert (await claim_again(side))[0] is ClaimStatus.CANCELLED


@topologies
@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "by a client"])
async def test_a_job_that_waits_under_an_id_used_before_can_be_cancelled(
    side: Side, commands: Any, control: Control, running: Running, *, by_hand: bool
) -> None:
    await end(side, running, await run_here(side, running), commands, forget=True)
    async with listening(control):
        await heard(side, commands, running)
        if by_hand:
            await commands.hset(JOB, "cancel", 1)
            await commands.xadd(side.keys.control, {"cancel": "a"})
        else:
            await request_cancel(commands, side.keys, "a")
        await until(lambda: "a" in running.cancelled)
    assert await claim_again(side) == (ClaimStatus.CANCELLED, True)


@topologies
async def test_a_bell_that_is_heard_late_does_not_stop_the_next_job_of_that_id(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    claim = await run_here(side, running)
    await run_here(side, running, "b", "text-1")
    async with listening(control):
        await heard(side, commands, running)
        await end(side, running, claim, commands, forget=True)
        await run_here(side, running)
        await commands.xadd(side.keys.control, {"cancel": "a"})
        await request_cancel(commands, side.keys, "b")
        await until(lambda: "b" in running.cancelled)
    assert "a" not in running.cancelled


async def test_a_flag_that_is_written_before_its_job_is_not_kept_for_ever(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    async with listening(control):
        await heard(side, commands, running)
        await commands.hset(JOB, "cancel", 1)
        await commands.xadd(side.keys.control, {"cancel": "a"})
        await until(lambda: "a" in running.cancelled)
    assert 0 < await commands.ttl(JOB) <= JOB_HASH_TTL


async def test_entries_that_are_no_cancellation_stop_nobody_from_listening(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    async with listening(control):
        await commands.xadd(side.keys.control, {"banana": b"\xff"})
        await commands.xadd(side.keys.control, {"cancel": b"\xff"})
        await request_cancel(commands, side.keys, "a")
        await until(lambda: "a" in running.cancelled)


@topologies
@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"owner": "w2", "attempt": 2}, "another worker's next attempt"),
        ({"owner": "w2"}, "another worker's, by the same number"),
        ({"attempt": 2}, "this worker's own next attempt"),
        ({"owner": "w", "attempt": 1}, "a worker's of a name that this one's begins with"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_attempt_that_is_not_this_workers_any_more_is_stopped(
    side: Side, commands: Any, control: Control, running: Running, fields: dict[str, Any], what: str
) -> None:
    assert what
    await run_here(side, running)
    await run_here(side, running, "b", "text-1")
    await commands.hset(JOB, mapping=fields)
    await control.look()
    assert (running.fenced, running.cancelled) == ([("a", 1)], [])


@topologies
async def test_a_job_that_was_taken_over_and_ended_is_not_this_workers(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    await run_here(side, running)
    other = side.keys.slot("w2", "text-0")
    mine = await commands.hget(JOB, "nonce")
    reply = await side.scripts.claim("a", other, "nonce", 9, mine.decode())
    await side.scripts.finish("a", "w2", reply.attempt, b"{}", 100)
    await control.look()
    assert running.fenced == [("a", 1)]


async def test_a_job_of_which_redis_knows_nothing_runs_on(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    await run_here(side, running)
    await commands.delete(JOB)
    await control.look()
    await commands.hset(JOB, "claimed_at", 1)
    await control.look()
    assert (running.cancelled, running.fenced) == ([], [])


async def test_a_cancel_flag_is_heeded_though_a_failover_lost_the_rest(
    side: Side, commands: Any, control: Control, running: Running
) -> None:
    await run_here(side, running)
    await commands.delete(JOB)
    await commands.hset(JOB, "cancel", 1)
    await control.look()
    assert running.cancelled == ["a"]


@topologies
async def test_a_job_that_nobody_reads_is_cancelled_after_its_time(
    side: Side, control: Control, running: Running, clock: Clock
) -> None:
    await control.look()
    await run_here(side, running, unread_timeout=5)
    await look(control, clock, [1] * 6)  # the first look finds it, and counts for nothing
    assert running.cancelled == [], "its time is up, but not over"
    await look(control, clock, [1])
    assert running.cancelled == ["a"]


async def test_a_job_without_such_a_time_may_be_read_by_nobody(
    side: Side, control: Control, running: Running, clock: Clock
) -> None:
    await run_here(side, running)
    await look(control, clock, [1] * 50)
    assert running.cancelled == []


@topologies
async def test_a_reader_sets_the_time_back(
    side: Side, commands: Any, control: Control, running: Running, clock: Clock
) -> None:
    await control.look()
    await run_here(side, running, unread_timeout=5)
    await look(control, clock, [1] * 5)
    await commands.set(READER, 1)
    await look(control, clock, [1] * 20)
    assert running.cancelled == []
    await commands.delete(READER)
    await look(control, clock, [1] * 6)
    assert running.cancelled == []
    await look(control, clock, [1])
    assert running.cancelled == ["a"]


async def test_each_job_has_readers_of_its_own(
    side: Side, commands: Any, control: Control, running: Running, clock: Clock
) -> None:
    await run_here(side, running, unread_timeout=5)
    await run_here(side, running, "b", "text-1", unread_timeout=5)
    await run_here(side, running, "c", "text-2", unread_timeout=50)
    await commands.set(READER, 1)
    await look(control, clock, [1] * 8)
    assert set(running.cancelled) == {"b"}


async def test_a_job_that_comes_back_begins_its_time_anew(
    side: Side, control: Control, running: Running, clock: Clock
) -> None:
    await control.look()
    claim = await run_here(side, running, unread_timeout=5)
    await look(control, clock, [1] * 4)
    running.now.clear()
    await run_here(side, running, "b", "text-1")
    await look(control, clock, [1])
    running.now.append(claim)
    await look(control, clock, [1] * 5)
    assert running.cancelled == []


async def test_a_long_pause_between_two_looks_counts_for_little(
    side: Side, control: Control, running: Running, clock: Clock
) -> None:
    await control.look()
    await run_here(side, running, unread_timeout=5)
    await look(control, clock, [1, 1000, 1])
    assert running.cancelled == [], "no reader could show itself while Redis hung"
    await look(control, clock, [1, 1, 1])
    assert running.cancelled == ["a"]


class Away:
    """A client whose Redis is away for the next few pipelines."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.times = 0

    def pipeline(self, **options: Any) -> Any:
        if self.times:
            self.times -= 1
            raise RedisConnectionError("Redis is away")
        return self._client.pipeline(**options)


async def test_time_in_which_redis_is_away_counts_for_no_reader(
    side: Side, commands: Any, running: Running, clock: Clock
) -> None:
    away = Away(commands)
    control = Control(commands, side.linked(away), jobs=running)
    await control.look()
    await run_here(side, running, unread_timeout=5)
    await look(control, clock, [1] * 3)
    away.times = 20
    for _ in range(20):
        with pytest.raises(RedisError):
            await look(control, clock, [1])
    await look(control, clock, [1])
    assert running.cancelled == []
    await look(control, clock, [1, 1, 1])
    assert running.cancelled == ["a"]


@topologies
async def test_a_reader_shows_itself_again_before_it_is_forgotten(
    commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, subscriber)
    presence = Presence(commands, "a")
    assert not await commands.exists(READER)
    await presence.show()
    assert READER_SECONDS - 2 <= await commands.ttl(READER) <= READER_SECONDS
    await commands.delete(READER)
    clock.now += SHOW_SECONDS - 0.1
    await presence.show()
    assert not await commands.exists(READER), "not with every entry"
    clock.now += 0.2
    await presence.show()
    assert READER_SECONDS - 2 <= await commands.ttl(READER) <= READER_SECONDS


async def finished(side: Side, commands: Any) -> None:
    await commands.set("result:a", '{"text": "x"}')
    stream = side.publisher.open("a", 1)
    stream.put("start", b"{}")
    stream.put("done", DONE)
    await stream.flushed()


async def follow(client: Client) -> list[StreamEvent]:
    with anyio.fail_after(60):
        return [event async for event in client.events("a")]


@topologies
@pytest.mark.parametrize("how", ["events", "text", "result"])
async def test_whoever_follows_a_job_counts_as_its_reader(side: Side, commands: Any, redis_url: str, how: str) -> None:
    async def follow_job() -> None:
        async with Client(redis_url) as client:
            if how == "result":
                await client.result("a")
            else:
                async for _ in getattr(client, how)("a"):
                    pass

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(follow_job)
            while not await commands.exists(READER):
                await anyio.sleep(0.01)
            await finished(side, commands)


async def test_a_user_who_may_only_read_reads_and_is_refused_once(
    side: Side, commands: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, subscriber)
    await finished(side, commands)
    await commands.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~*", "+@read", "+@connection")
    await commands.execute_command("ACL", "LOG", "RESET")
    try:
        async with Client(redis_url.replace("redis://", "redis://guest:pw@")) as client:
            assert [event.event for event in await follow(client)] == ["start", "done"]
            assert await client.result("a") == {"text": "x"}
            guest = Presence(client._redis, "a")  # pyright: ignore[reportPrivateUsage]
            (before,) = await commands.execute_command("ACL", "LOG")
            for _ in range(3):
                await guest.show()
                clock.now += 100
            (after,) = await commands.execute_command("ACL", "LOG")
    finally:
        await commands.execute_command("ACL", "DELUSER", "guest")
    counts = [dict(zip(row[::2], row[1::2], strict=True))[b"count"] for row in (before, after)]
    assert counts == [1, 2], "each asks once, and then never again"
    assert not await commands.exists(READER)
