"""What others write into the queue's keys is input: no lost worker, lease or owner is believed that none can be."""

from __future__ import annotations

import re
import time
from importlib.resources import files
from typing import Any, Final

import anyio
import pytest
from redis.exceptions import ResponseError

from tests.support.redis_side import Side
from tests.support.running import Running, run_here
from tests.support.text_bench import PATIENCE
from velesio_worker.queue import control as control_module
from velesio_worker.queue import reaper as reaper_module
from velesio_worker.queue import scripts
from velesio_worker.queue.control import Control
from velesio_worker.queue.keys import count_in_redis, slot_name, worker_name
from velesio_worker.queue.lease import LONGEST_LEASE
from velesio_worker.queue.scripts import MOST_REAPED
from velesio_worker.queue.survey import Survey
from velesio_worker.wire.jobs import Kind

pytestmark = pytest.mark.anyio
topologies = pytest.mark.topologies

QUEUE: Final = "{llama_queue}"
WORKERS: Final = f"{QUEUE}:workers"
LIVES: Final[dict[str, str | int]] = {"kinds": "text", "text_state": "ready"}


async def lose(commands: Any, worker: str, slots: dict[str, str]) -> None:
    await commands.hset(f"{QUEUE}:slots:{worker}", mapping=slots)
    await commands.zadd(WORKERS, {worker: 1})


@topologies
@pytest.mark.parametrize("slot", [f"{QUEUE}:text", f"{QUEUE}:active:fake:a", f"{QUEUE}:active:w2:text-0"])
async def test_a_list_that_is_put_back_to_itself_is_gone_through_once(side: Side, commands: Any, slot: str) -> None:
    await commands.lpush(slot, "x")
    await lose(commands, "fake", {slot: slot})
    with anyio.fail_after(PATIENCE):
        assert await side.reaper.look() == int("fake" in slot)
    assert await commands.llen("llama_queue" if "fake" in slot else slot) == 1
    assert not await commands.exists(f"{QUEUE}:slots:fake")


@topologies
async def test_a_lost_worker_gives_back_what_lies_in_its_own_slots_to_lists_of_the_queue_alone(
    side: Side, commands: Any
) -> None:
    own = f"{QUEUE}:active:fake:"
    foreign = [f"{QUEUE}:active:w2:text-0", f"{QUEUE}:active:fake2:text-0", f"{own}a:b", f"{QUEUE}:dead"]
    for key in (*foreign, f"{own}text-0", f"{own}text-1"):
        await commands.lpush(key, "job")
    homes = dict.fromkeys(foreign, "llama_queue") | {f"{own}text-0": f"{QUEUE}:loot", f"{own}text-1": f"{QUEUE}:text"}
    await lose(commands, "fake", homes)
    assert await side.reaper.look() == 2
    assert [await commands.llen(key) for key in foreign] == [1] * len(foreign)
    assert [await commands.llen(key) for key in ("llama_queue", f"{QUEUE}:text", f"{QUEUE}:loot")] == [1, 1, 0]


async def test_much_is_put_back_in_pieces_and_in_order(side: Side, commands: Any) -> None:
    jobs = [b"%d" % number for number in range(2 * MOST_REAPED + 10)]
    await commands.rpush(f"{QUEUE}:only:fake", *jobs)
    await commands.hset(f"{QUEUE}:slots:fake", mapping={f"{QUEUE}:x:{number}": "y" for number in range(5000)})
    await commands.zadd(WORKERS, {"fake": 1})
    assert await side.reaper.look() == len(jobs)
    assert await commands.lrange("llama_queue", 0, -1) == jobs
    assert not await commands.exists(f"{QUEUE}:slots:fake", f"{QUEUE}:only:fake")


@topologies
@pytest.mark.parametrize("ahead", [10**6, float("inf"), 1000], ids=["far ahead", "for ever", "without a hash's end"])
async def test_a_worker_that_is_none_lives_for_nobody_and_is_struck_off(
    side: Side, commands: Any, ahead: float
) -> None:
    await commands.zadd(WORKERS, {"ghost": time.time() + ahead})
    await commands.hset(f"{QUEUE}:worker:ghost", mapping=LIVES)
    slot = side.keys.slot("w1", "intake")
    await commands.lpush(slot.key, b"named")
    assert not await side.fleet.serves(Kind.TEXT)
    assert not await side.slots.send_to_worker(slot, "ghost")
    await commands.lpush(side.keys.only("ghost"), b"waits")
    if ahead == 1000:
        side.reaper._lease_seconds = 60  # pyright: ignore[reportPrivateUsage]
    assert await side.reaper.look() == 1
    assert await commands.lrange("llama_queue", 0, -1) == [b"waits"]
    assert await commands.zrange(WORKERS, 0, -1) == [b"w1"]


@topologies
async def test_a_worker_with_a_longer_lease_than_ours_is_one(side: Side) -> None:
    await side.scripts.beat(side.keys, "w2", LONGEST_LEASE, LIVES)
    assert await side.fleet.serves(Kind.TEXT)
    assert await side.reaper.look() == 0
    assert await side.scripts.alive(side.keys, "w2")


@topologies
@pytest.mark.parametrize("name", [b"", b"a b", b"a:b", b"\xff\xfe", b"evil\n2026 [info] forged \x1b[31m", b"x" * 200])
async def test_what_no_worker_is_called_is_struck_off_and_told_in_one_line(
    side: Side, commands: Any, caplog: pytest.LogCaptureFixture, name: bytes
) -> None:
    await commands.zadd(WORKERS, {name: 1})
    assert (await Survey(side.link, seconds=PATIENCE).look()).leases.keys() == {"w1"}
    for _ in range(2):
        assert await side.reaper.look() == 0
    told = [record.getMessage() for record in caplog.records if "no workers" in record.getMessage()]
    assert len(told) == 1
    assert told[0].isprintable()
    assert await commands.zrange(WORKERS, 0, -1) == [b"w1"]


@pytest.mark.parametrize("task", ["reaper", "control"])
async def test_an_answer_that_no_task_expects_is_told_once_and_only_missing_rights_end_it(
    side: Side, commands: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setattr(reaper_module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(control_module, "BLOCK_SECONDS", 0.05)
    control = Control(commands, side.link, jobs=Running())
    looks = 0
    error = ResponseError("ERR odd")

    async def look() -> int:
        nonlocal looks
        looks += 1
        control._looked_at = -1e9  # pyright: ignore[reportPrivateUsage]
        raise error

    watched = side.reaper if task == "reaper" else control
    monkeypatch.setattr(watched, "look", look)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(_until, lambda: looks > 2, group.cancel_scope)
            await watched.run()
        error = ResponseError("NOPERM this user has no permissions")
        with pytest.raises(ResponseError, match="NOPERM"):
            await watched.run()
    assert len([record for record in caplog.records if "ERR odd" in record.getMessage()]) == 1


async def _until(condition: Any, scope: anyio.CancelScope) -> None:
    while not condition():
        await anyio.sleep(0.01)
    scope.cancel()


@pytest.mark.parametrize("attempt", ["x", "-1", "1e3", "9" * 5000, "\u0662", ""])
async def test_an_attempt_that_is_no_number_ends_no_worker_that_stops(side: Side, commands: Any, attempt: str) -> None:
    claim = await run_here(side, Running())
    await commands.lpush(claim.held.slot.key, claim.held.payload)
    await commands.hset("{result:a}:job", "attempt", attempt)
    await side.lease.cover(claim.held.slot)
    assert await side.leave() == 1


async def test_a_holder_is_believed_only_if_its_slot_is_a_list_that_holds_the_job(side: Side, commands: Any) -> None:
    await side.scripts.beat(side.keys, "w2", 60, LIVES)
    await commands.set(f"{QUEUE}:active:w2:text-0", "in the way")
    with anyio.fail_after(PATIENCE):
        for owner, name in (("w2", "text-0"), ("w2", "a:b"), ("w2", ""), ("no name", "x"), ("", "")):
            assert not await side.slots.holder_has(owner, name, "a")


async def test_entries_without_end_ahead_of_a_job_are_not_read_whole(side: Side, commands: Any) -> None:
    await commands.xadd("stream:a", {"event": "x", "data": "{}"}, id="1-18446744073709551615")
    reply = await side.scripts.publish("stream:a", 1, 0, None, ["start", b"{}"])
    assert reply.status == "taken"


def test_numbers_and_names_that_redis_has_are_checked() -> None:
    counts = [b"0", b"7", b"2147483647", b"2147483648", b"-1", b"1.0", b"1e3", b" 1", b"", b"9" * 9000, "٢".encode()]
    assert [count_in_redis(value) for value in (*counts, None)] == [0, 7, 2**31 - 1, *[None] * 9]
    assert [worker_name(name) for name in (b"gpu-1.x_y", b"a:b", b"", b"\xff", b"a\n")] == ["gpu-1.x_y", *[""] * 4]
    assert [slot_name(name) for name in (b"text-0", b"a:b", b"..", b"")] == ["text-0", "", "", ""]


FAIR: Final = {
    *("ready", "state", "waiting", "idle", "running", "key", "line_up", "had", "list", "slot", "tags", "one", "warm"),
}
SCRIPTS: Final = {file.name: file.read_text("utf-8") for file in files(scripts).iterdir() if file.name.endswith(".lua")}
CODE: Final = {name: re.sub(r"--.*", "", text) for name, text in SCRIPTS.items()}


@pytest.mark.parametrize("script", CODE)
def test_no_script_loops_without_end_touches_a_key_unchecked_or_computes_with_a_number_unread(script: str) -> None:
    code = CODE[script]
    assert not re.search(r"\b(while|repeat|goto)\b", code)
    keys = set(re.findall(r"redis\.p?call\('(?!TIME)\w+', ([\w\[\]]+)", code))
    checked = {"heads.lua": {"key"}, "reap.lua": {"from"}, "guard.lua": {"workers", "hash"}, "beat.lua": {"key"}}
    checked |= {"fair.lua": FAIR, "reap.lua": {"from", "slot"}}  # Keys.shares, and lists that are looked at with care
    checked |= {"move.lua": {"from"}, "drop.lua": {"from"}}  # what fair.lua found to be a list
    checked |= {
        "kept.lua": {"key", "base", "kept", "hash", "list", "beside", "slot", "bell"}
    }  # their types are looked at
    checked |= {
        "waiting.lua": {"order[place]"},
        "entries.lua": {"stream"},
        "outcome.lua": {"hash", "result", "cancel"},
    }  # KEYS of those who call them
    assert {key for key in keys if not key.startswith("KEYS[")} == checked.get(script, set())
    read = re.findall(r"tonumber\(([^()]*)\)", code)
    assert {number for number in read if not number.startswith("ARGV[")} <= (
        {"value or missing", "value or nil", "time[1]", "time[2]"}
        if script == "guard.lua"
        else {"its_attempt", "attempt", "value or nil"}
    )


def test_scripts_and_code_know_the_same_longest_lease() -> None:
    assert f"LONGEST_LEASE = {LONGEST_LEASE} " in SCRIPTS["guard.lua"]
