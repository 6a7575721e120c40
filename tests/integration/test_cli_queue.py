"""``velesio-worker queue``: who waits, and a tenant's jobs moved or dropped, against a real Redis."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any, Final

import pytest
from anyio.to_thread import run_sync

from tests.support.redis_side import MAX_BYTES, Side
from velesio_worker.cli.main import main
from velesio_worker.queue.intake import read_job

pytestmark = pytest.mark.anyio

TEXT: Final = "{llama_queue}:text"
MANAGE: Final = "{llama_queue}:manage"
LINES: Final = "{llama_queue}:lines:text"


class Queue:
    """Jobs in lines, and the command."""

    def __init__(self, side: Side, commands: Any, capsys: pytest.CaptureFixture[str]) -> None:
        self._side = side
        self._commands = commands
        self._capsys = capsys
        self._numbers = itertools.count()

    async def push(self, tenant: str | None, priority: str = "normal") -> str:
        job = {"id": f"job-{next(self._numbers)}", "type": "completion", "tenant": tenant, "priority": priority}
        payload = json.dumps(job | {"data": {"prompt": "x"}}).encode()
        slot = self._side.slot("intake", home="llama_queue")
        await self._commands.lpush(slot.key, payload)
        await self._side.slots.send_in_line(slot, await read_job(payload, max_bytes=MAX_BYTES), len(payload))
        return job["id"] or ""

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        code = await run_sync(main, ["queue", *words])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    async def rows(self, name: str = "waiting") -> list[tuple[str, str | None, int]]:
        code, out, _ = await self("--json")
        assert code == 0
        return [(row["priority"], row["tenant"], row["jobs"]) for row in json.loads(out)[name]]

    async def next_ids(self, count: int) -> list[str]:
        """Take jobs and end them; returns their ids."""
        ids: list[str] = []
        for _ in range(count):
            payload = await self._side.slots.take(TEXT, self._side.slot())
            assert payload is not None
            await self._side.slots.ack(self._side.slot(), payload)
            ids.append(json.loads(payload)["id"])
        return ids


@pytest.fixture
def queue(
    side: Side, commands: Any, redis_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Queue:
    monkeypatch.setenv("REDIS_URL", redis_url)
    return Queue(side, commands, capsys)


@pytest.mark.topologies
async def test_who_waits_is_shown_by_priority_and_tenant_and_what_runs(queue: Queue, side: Side, commands: Any) -> None:
    assert (await queue())[1] == "nothing waits\nnothing runs\n"
    for tenant, priority in [("a", "low"), ("b", "low"), ("b", "low"), (None, "normal"), ("a", "high")]:
        await queue.push(tenant, priority)
    await commands.lpush("llama_queue", b"{}")
    assert await queue.rows() == [("high", "a", 1), ("normal", None, 1), ("low", "b", 2), ("low", "a", 1)]
    await side.slots.take(TEXT, side.slot())
    assert await queue.rows("running") == [("high", "a", 1)]
    tag = (await commands.lrange("{llama_queue}:line:text:low:b:tags", -1, -1))[0]
    await commands.zadd(LINES, {tag: time.time() - 90})
    out = (await queue())[1]
    assert "1 not sorted yet" in out
    row = next(line.split() for line in out.splitlines() if " b " in line)
    assert row[:4] == ["text", "low", "b", "2"]
    assert 90 <= float(row[4]) < 100
    assert "and 3 in 2 lines more: --limit 3" in (await queue("--limit", "1"))[1]


async def test_names_of_tenants_are_harmless_in_a_terminal(queue: Queue, commands: Any) -> None:
    await commands.lpush("{llama_queue}:line:text:low:\x1b[31mred\n", b"{}")
    await commands.zadd("{llama_queue}:fair:text:low", {"\x1b[31mred\n": 1, b"\xff": 1})
    await commands.hset(
        "{llama_queue}:running:text", mapping={"w:0": b"1 1 high \x1b]0;x", "w:1": b"\xff", "w:2": "a b c d"}
    )
    out = (await queue())[1]
    assert "\x1b" not in out
    assert "\\u001b[31mred\\n" in out
    assert "\\u001b]0;x" in out
    await commands.set("{llama_queue}:fair:text:high", "in the way")
    assert ("low", "\x1b[31mred\n", 1) in await queue.rows()


@pytest.mark.topologies
async def test_a_tenants_jobs_are_moved_between_priorities_and_keep_order_and_age(queue: Queue, commands: Any) -> None:
    batch = [await queue.push("batch") for _ in range(3)]
    person = await queue.push("person")
    since = await commands.zrange(LINES, 0, -1, withscores=True)
    assert (await queue("move", "batch", "--to-priority", "low", "--yes"))[:2] == (0, "3 moved\n")
    assert await queue.rows() == [("normal", "person", 1), ("low", "batch", 3)]
    moved = await commands.zrange(LINES, 0, -1, withscores=True)
    assert sorted(score for _, score in moved) == pytest.approx(sorted(score for _, score in since), abs=0.002)
    out = (await queue("move", "batch", "--priority", "low", "--to-priority", "high", "--yes", "--json"))[1]
    assert json.loads(out) == {"moved": 3}
    assert sorted(taken := await queue.next_ids(4)) == [*batch, person]
    assert [job_id for job_id in taken if job_id in batch] == batch


async def test_jobs_without_a_tenant_are_moved_too_and_back(queue: Queue, commands: Any) -> None:
    plain = [await queue.push(None) for _ in range(2)]
    assert (await queue("move", "", "--to-priority", "low", "--yes"))[1] == "2 moved\n"
    assert await commands.zcard(LINES) == 2
    assert (await queue("move", "", "--priority", "low", "--to-priority", "normal", "--yes"))[1] == "2 moved\n"
    assert not await commands.zcard(LINES)
    assert await queue.next_ids(2) == plain


@pytest.mark.topologies
async def test_dropped_jobs_end_as_cancelled_at_once_without_an_engine_and_cost_nothing(
    queue: Queue, side: Side, commands: Any
) -> None:
    dropped = [await queue.push("batch", "low") for _ in range(70)]
    kept = await queue.push("batch", "high")
    code, out, _ = await queue("drop", "batch", "--priority", "low", "--yes")
    assert (code, out) == (0, "70 cancelled: a worker ends them\n")
    assert await queue.rows() == [("high", "batch", 1)]
    slot = side.slot("manage-0", home=MANAGE)
    for job_id in dropped:
        payload = await side.slots.take(MANAGE, slot)
        assert payload is not None
        assert await side.admission.admit(slot, payload) is None
        assert json.loads(await commands.get(f"result:{job_id}"))["finish_reason"] == "cancelled"
    assert not await commands.exists(slot.key, "{llama_queue}:running:text", "{llama_queue}:fair:text:normal:had")
    assert await queue.next_ids(1) == [kept]


async def test_nothing_is_done_unasked_where_nobody_can_be_asked(queue: Queue) -> None:
    await queue.push("a")
    for words in (["drop", "a"], ["move", "a", "--to-priority", "low"]):
        code, out, err = await queue(*words)
        assert (code, out) == (1, "")
        assert "1 text jobs" in err
        assert "--yes" in err
    assert await queue.rows() == [("normal", "a", 1)]
    assert (await queue("move", "a", "--to-priority", "normal"))[0] == 2
    assert (await queue("drop", "x" * 129))[0] == 2


async def test_a_line_whose_name_somebody_else_uses_is_told(queue: Queue, commands: Any) -> None:
    await queue.push("a")
    await commands.set("{llama_queue}:line:text:low:a", "in the way")
    code, _, err = await queue("move", "a", "--to-priority", "low", "--yes")
    assert code == 1
    assert "somebody else uses the name" in err
    assert await queue.rows() == [("normal", "a", 1)]
