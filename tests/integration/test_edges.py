"""Going on after a crash, where it is easily got wrong: claims that were lost, texts that are whole, odd moments."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.doubles.engine import Answer, sse
from tests.support.llama_chunks import CHAT, COMPLETION, FIRST_DELTA, chat, chat_end, last_piece, piece
from tests.support.redis_side import Side
from tests.support.running import Running, run_here
from tests.support.servers import Topology
from tests.support.text_bench import FRESH, ONCE, ROLE, Bench, cut, delta
from tests.support.waiting import until
from velesio_worker.client import Client, subscriber
from velesio_worker.execution.published import Published
from velesio_worker.queue.control import Control

pytestmark = pytest.mark.anyio
TOKENIZE = "/tokenize"


@pytest.mark.parametrize("owner", ["", "w0"], ids=["nobody", "a-dead-worker"])
async def test_an_attempt_whose_claim_a_failover_lost_goes_on(bench: Bench, commands: Any, owner: str) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    bench.double.answers[COMPLETION] = [Answer([sse(piece(" a"))] + [b":\n\n"] * 1200 + [sse(last_piece())])]
    executor = bench.executor()
    control = Control(commands, bench.side.linked(commands), jobs=executor)
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run, executor)
        await until(lambda: executor.running and len(bench.double.requests) == 2)
        await commands.hdel("{result:a}:job", "owner", "slot", "nonce")
        await commands.hset("{result:a}:job", "attempt", 1)  # what Redis has after the failover
        if owner:
            await commands.hset("{result:a}:job", mapping={"owner": owner, "slot": "text-0", "nonce": "n"})
        await control.look()
    left = [await bench.waits(), await bench.letters(), await commands.exists(bench.side.slot().key)]
    assert (await bench.result()).get("text"), f"the job is nowhere: {left}"


async def test_a_reused_id_whose_claim_a_failover_lost(side: Side, commands: Any) -> None:
    first = await side.scripts.claim("a", side.slot(), "n", 9)
    await side.scripts.finish("a", "w1", first.attempt, b"old", 100)
    await commands.delete("result:a")  # expired; the hash lives on
    assert await side.scripts.finish("a", "w1", 2, b"new", 100)  # its claim was lost


async def test_a_finished_stream_is_read_while_redis_takes_no_writes(
    side: Side, redis_url: str, topology: Topology
) -> None:
    stream = side.publisher.open("a", 1)
    stream.put("start", b"{}")
    stream.put("done", b'{"finish_reason":"stop"}')
    await stream.flushed()
    with topology.taking_no_writes(), anyio.fail_after(60):
        async with Client(redis_url) as client:
            assert [event.event async for event in client.events("a")] == ["start", "done"]


async def test_a_whole_text_is_counted_and_nothing_more_is_asked_for(bench: Bench) -> None:
    await bench.submit(data={"max_tokens": 2})
    await bench.lose(*ONCE)
    await bench.run()
    assert bench.asked() == [TOKENIZE]
    result = await bench.result()
    assert (result["text"], result["finish_reason"]) == (await bench.text(), "length")


async def test_a_whole_text_has_no_thoughts(bench: Bench) -> None:
    await bench.submit("chat_completion", data={"max_tokens": 2})
    await bench.lose(FRESH, ROLE, delta(content="Once upon"))
    bench.double.answers[CHAT] = [Answer([sse(FIRST_DELTA, chat({"reasoning_content": "hm"}), *chat_end("length"))])]
    await bench.run()
    assert (await bench.result())["message"] == {"role": "assistant", "content": "Once upon"}


async def test_the_role_is_said_once(bench: Bench) -> None:
    await bench.submit("chat_completion")
    await bench.lose(FRESH, ROLE)
    bench.double.answers[CHAT] = [Answer([sse(FIRST_DELTA, chat({"content": "Hi"}), *chat_end())])]
    await bench.run()
    assert (await bench.entries(2))[1:-1] == [delta(content="Hi")]


async def test_a_job_that_shall_fail_is_not_buried_when_its_worker_is_lost(bench: Bench) -> None:
    await bench.submit(on_crash="fail")
    await bench.lose(*ONCE)
    slot = bench.side.slot()
    await bench.side.slots.take("{llama_queue}:text", slot)
    assert await bench.side.admission.admit(slot, bench.payload) is None
    assert (await bench.result())["code"] == "worker_lost"
    assert await bench.letters() == []


async def test_a_time_out_while_the_text_is_read_says_partial(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls = bench.published, iter(range(9))

    async def slow_once(job_id: str) -> Published:
        if next(calls) == 0:
            await anyio.sleep_forever()
        return await read(job_id)

    monkeypatch.setattr(bench, "published", slow_once)
    await bench.submit(timeout=1.5)  # time to get as far as that
    await bench.lose(*ONCE)
    await bench.run()
    *_, (event, error) = await bench.entries(2)
    assert (event, error["code"], error["partial"]) == ("error", "timeout", True)


async def test_a_reader_that_reads_on_is_seen_though_a_failover_lost_its_key(
    side: Side, commands: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "BLOCK_MS", 200)
    monkeypatch.setattr(subscriber, "SHOW_SECONDS", 0.2)
    running = Running()
    await run_here(side, running, unread_timeout=3)
    control = Control(commands, side.linked(commands), jobs=running)

    async def read() -> None:
        async with Client(redis_url) as client:
            async for _ in client.events("a"):
                pass

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        while not await commands.exists("{result:a}:reader"):
            await anyio.sleep(0.01)
        group.start_soon(control.run)
        await anyio.sleep(0.2)
        await commands.delete("{result:a}:reader")
        await anyio.sleep(5.5)  # whoever was not seen again would be cancelled after four or five
        group.cancel_scope.cancel()
    assert running.cancelled == []


async def test_one_attempt_is_no_attempts(bench: Bench) -> None:
    await bench.submit(max_attempts=1)
    bench.double.answers[COMPLETION] = [cut()]
    await bench.run()
    (letter,) = await bench.letters()
    assert "1 attempts" not in letter["reason"]
