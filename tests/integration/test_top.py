"""The terminal view on a real Redis, 80 by 24, with workers that tests make up: what it shows, what its keys do."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import orjson
import pytest

from tests.support.redis_side import Side
from tests.support.servers import RedisServer
from tests.support.waiting import LIMIT
from velesio_worker.cli.main import main
from velesio_worker.cli.top.panes import Help, Question, Stream
from velesio_worker.cli.top.screen import Top
from velesio_worker.client import Client
from velesio_worker.wire.jobs import Kind

pytestmark = pytest.mark.anyio

SIZE = (80, 24)


def told(name: str, *jobs: dict[str, Any], **more: Any) -> dict[str, str | int]:
    """What a worker of text tells."""
    facts: dict[str, str | int] = {"version": "1", "kinds": "text", "running": len(jobs), "text_state": "ready"}
    facts |= {"text_slots": 4, "text_running": len(jobs), "text_default": f"model-of-{name}", "stage": "working"}
    facts |= {"at": f"{time.time():.3f}", "tokens": 0, "pid": 7}
    gpus = [{"index": 0, "name": "H200", "used": 70 * 2**30, "total": 141 * 2**30, "utilisation": 93}]
    return facts | {"jobs": orjson.dumps(jobs).decode(), "gpus": orjson.dumps(gpus).decode()} | more


def job(job_id: str, **more: Any) -> dict[str, Any]:
    known = {"type": "completion", "attempt": 1, "since": time.time() - 5, "tokens": 9, "ttft_ms": 120}
    return {"id": job_id, **known, **more}


class Fleet:
    """Workers that tell what the test says."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self.keys = side.keys

    async def tell(self, name: str, *jobs: dict[str, Any], **more: Any) -> None:
        await self._side.scripts.beat(self.keys, name, 60, told(name, *jobs, **more))


@pytest.fixture
async def fleet(side: Side, commands: Any) -> Fleet:
    await commands.zrem(side.keys.workers, "w1")
    await commands.delete(side.keys.worker("w1"))
    return Fleet(side)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client


@pytest.fixture
def top(client: Client, redis_url: str) -> Top:
    return Top(client, "llama_queue", redis_url, interval=0.05)


def screen(top: Top) -> str:
    """What stands on the screen."""
    strips = top.screen._compositor.render_strips()  # pyright: ignore[reportPrivateUsage]
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def shown(top: Top, *words: str) -> str:
    """Wait until the screen has all of these words, in this order."""

    def found() -> bool:
        rest = screen(top)
        for word in words:
            _, there, rest = rest.partition(word)
            if not there:
                return False
        return True

    with anyio.move_on_after(LIMIT / 4):
        while not found():
            await anyio.sleep(0.02)
    assert found(), f"{words} do not stand in\n{screen(top)}"
    return screen(top)


async def test_the_fleet_at_a_glance(top: Top, fleet: Fleet, commands: Any) -> None:
    await fleet.tell("box-a", job("first", tokens=1234), job("second", since=time.time() - 90, ttft_ms=None))
    await fleet.tell("box-b", text_state="failed", text_reason="no model")
    for _ in range(3):
        await commands.lpush(
            fleet.keys.waiting["text"], orjson.dumps({"id": "x", "type": "completion", "created_at": time.time() - 50})
        )
    for priority, tag in (("high", "1:9"), ("low", "2:9"), ("low", "3:9")):
        await commands.zadd(fleet.keys.lines(Kind.TEXT, priority), {tag: time.time() - 5})
    await commands.hset(fleet.keys.share(Kind.TEXT), "lined", 3)
    async with top.run_test(size=SIZE):
        page = await shown(
            top, "llama_queue  2 workers  2/8 slots", "box-a", "failed", "text 6", "second", "first", "Quit"
        )
        rows = page.splitlines()
        assert len(rows) == 24
        assert {len(row) for row in rows} == {80}
        assert rows[2].split() == ["box-a", "text", "ready", "model-of-box-a", "2/4", "70.0/141G", "93%", "-"]
        assert rows[3].split()[2] == "failed"
        assert re.match(r"waiting: text 6 \(1 high, 2 low, oldest 5\ds\), image 0 ", rows[4])
        assert "2 jobs by age" in rows[4]
        second, first = rows[6].split(), rows[7].split()
        assert (second[0], second[3][0], second[-1]) == ("second", "9", "-")
        assert first[:3] + first[4:] == ["first", "completion", "box-a", "1", "1234", "0.1s"]
        assert "c Cancel l Look d Drain s Sort / Filter ? Help q Quit" in rows[23]


async def test_a_job_is_cancelled_after_one_question(top: Top, fleet: Fleet, commands: Any) -> None:
    await fleet.tell("box-a", job("first"))
    async with top.run_test(size=SIZE) as pilot:
        await shown(top, "first")
        await pilot.press("c")
        await shown(top, "Cancel completion first?")
        await pilot.press("n")
        assert not isinstance(top.screen, Question)
        assert not await commands.exists("{result:first}:cancel")
        await pilot.press("c", "y")
        await until_async(lambda: commands.exists("{result:first}:cancel"))


async def test_a_worker_is_drained_after_one_question(top: Top, fleet: Fleet, commands: Any) -> None:
    await fleet.tell("box-a")
    await fleet.tell("box-b")
    async with top.run_test(size=SIZE) as pilot:
        await shown(top, "box-b")
        await pilot.press("shift+tab", "down", "d")
        await shown(top, "Drain box-b?")
        await pilot.press("y")
        await until_async(lambda: commands.exists(fleet.keys.drain("box-b")))
        assert not await commands.exists(fleet.keys.drain("box-a"))
        await fleet.tell("box-b", stage="stopping")
        await shown(top, "box-b", "stopping")


async def until_async(condition: Callable[[], Awaitable[object]]) -> None:
    with anyio.fail_after(LIMIT / 4):
        while not await condition():
            await anyio.sleep(0.01)


async def test_a_stream_is_shown_as_it_is_made_and_is_text_alone(top: Top, fleet: Fleet, commands: Any) -> None:
    await fleet.tell("box-a", job("first"))

    async def write(entry: str, event: str, **data: Any) -> None:
        await commands.xadd("stream:first", {"event": event, "data": orjson.dumps(data)}, id=entry)

    async with top.run_test(size=SIZE) as pilot:
        await shown(top, "first")
        await pilot.press("enter")
        await shown(top, "stream of first", "nothing yet")
        await write("1-0", "start", attempt=1, worker="box-a", model="m", mode="fresh")
        await write("1-1", "token", choices=[{"text": "[bold red]Hello[/] \x1b[2Jthere"}])
        page = await shown(top, "[attempt 1 on box-a, m: fresh]", r"[bold red]Hello[/] \u001b[2Jthere")
        assert "\x1b" not in page
        await write("2-0", "start", attempt=2, worker="box-b", model="m", mode="continue")
        await write("2-1", "token", choices=[{"text": ", and on"}])
        await write("2-2", "error", code="engine_error", error="It [broke].")
        await shown(top, "[attempt 2 on box-b, m: continue]", ", and on", "[error engine_error: It [broke].]")
        assert not await commands.exists("{result:first}:reader")  # who looks on is no reader
        await pilot.press("escape")
        assert not isinstance(top.screen, Stream)


async def test_a_long_stream_stays_at_its_end(top: Top, fleet: Fleet, commands: Any) -> None:
    await fleet.tell("box-a", job("first"))
    for number in range(2000):
        data = orjson.dumps({"choices": [{"text": f"line {number}\n"}]})
        await commands.xadd("stream:first", {"event": "token", "data": data}, id=f"1-{number + 1}")
    async with top.run_test(size=SIZE) as pilot:
        await shown(top, "first")
        await pilot.press("l")
        await shown(top, "line 1998", "line 1999")


async def test_jobs_are_sorted_and_filtered(top: Top, fleet: Fleet) -> None:
    await fleet.tell("box-a", job("young", since=time.time(), tokens=99), job("old", tokens=1))
    async with top.run_test(size=SIZE) as pilot:
        await shown(top, "old", "young")
        await pilot.press("s")
        await shown(top, "by tokens", "young", "old")
        await pilot.press("r")
        await shown(top, "turned", "old", "young")
        await pilot.press("slash", *"YOU", "enter")
        page = await shown(top, "1 job by", "/YOU", "young")
        assert "old " not in page
        await pilot.press("escape")
        await shown(top, "2 jobs", "old", "young")


async def test_the_chosen_job_stays_chosen_while_others_come_and_go(top: Top, fleet: Fleet, commands: Any) -> None:
    await fleet.tell("box-a", job("a", since=1.0), job("b", since=2.0), job("c", since=3.0))
    async with top.run_test(size=SIZE) as pilot:
        await shown(top, "c  ")
        await pilot.press("down", "down")
        await fleet.tell("box-a", job("b", since=2.0), job("c", since=3.0), job("d", since=4.0))
        await shown(top, "3 jobs", "d  ")
        await pilot.press("c", "y")
        await until_async(lambda: commands.exists("{result:c}:cancel"))


async def test_a_thousand_jobs_are_shown_in_part_and_the_rest_is_said(top: Top, fleet: Fleet) -> None:
    for number in range(4):
        jobs = [job(f"job-{number}-{place}") for place in range(250)]
        await fleet.tell(f"box-{number}", *jobs)
    async with top.run_test(size=SIZE) as pilot:
        await shown(top, "1000 jobs by age, 800 not shown")
        began = time.monotonic()
        await pilot.press("end")
        await top.look_once()
        assert time.monotonic() - began < 5


async def test_a_lost_worker_is_shown_as_lost(top: Top, fleet: Fleet, commands: Any) -> None:
    await fleet.tell("box-a", job("first"))
    async with top.run_test(size=SIZE):
        await shown(top, "box-a", "ready", "first")
        await commands.delete(fleet.keys.worker("box-a"))
        page = await shown(top, "0 workers, 1 lost", "box-a", "lost")
        assert "first" not in page


async def test_help_fits_the_screen(top: Top, fleet: Fleet) -> None:
    await fleet.tell("box-a")
    async with top.run_test(size=SIZE) as pilot:
        await shown(top, "box-a")
        await pilot.press("question_mark")
        await shown(top, "look at a job's stream", "docs/explain/engines.md.", "╯")
        assert isinstance(top.screen, Help)
        await pilot.press("escape")
        await pilot.press("q")


async def test_wider_terminals_show_whole_names(top: Top, fleet: Fleet) -> None:
    name = "a-host-with-quite-a-long-name-1a2b3c4d"
    await fleet.tell(name, job("first"))
    async with top.run_test(size=SIZE) as pilot:
        await shown(top, "a-host-…1a2b3c4d ")
        assert name not in screen(top)
        await pilot.resize_terminal(200, 40)
        await shown(top, name, f"model-of-{name}")


async def test_no_colours_where_nobody_wants_any(
    client: Client, redis_url: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.tell("box-a")
    monkeypatch.setenv("NO_COLOR", "1")
    top = Top(client, "llama_queue", redis_url, interval=0.05)
    async with top.run_test(size=SIZE):
        await shown(top, "box-a", "ready")
        assert top.no_color


async def test_an_outage_is_shown_and_survived(own_redis: RedisServer) -> None:
    own_redis.start()
    async with Client(own_redis.url) as client:
        top = Top(client, "llama_queue", own_redis.url, interval=0.05)
        async with top.run_test(size=SIZE):
            await shown(top, "0 workers")
            own_redis.kill()
            await shown(top, "as it was last: ")
            own_redis.start()
            with anyio.fail_after(LIMIT / 4):
                while "as it was last" in screen(top):
                    await anyio.sleep(0.02)


def test_scripts_get_a_table_or_json(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert main(["top", "--once"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "llama_queue  0 workers  0/0 slots  - tok/s",
        "waiting: text 0, image 0",
    ]
    assert main(["top", "--once", "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["workers"] == []
    assert main(["top"]) == 1
    assert "--once" in capsys.readouterr().err


def test_without_textual_it_is_said_what_to_install(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setitem(sys.modules, "textual", None)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(getattr(sys, name), "isatty", lambda: True, raising=False)
    assert main(["top"]) == 1
    assert "pip install 'velesio-worker[top]'" in capsys.readouterr().err


def test_redis_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert main(["top", "--once"]) == 1
    assert capsys.readouterr().err.startswith("error: Redis at redis://127.0.0.1:1")
