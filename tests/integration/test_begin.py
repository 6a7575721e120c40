"""A first attempt whose stream begins in the step that claims it."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import pytest
from redis.exceptions import ResponseError

from tests.support.llama_chunks import COMPLETION
from tests.support.redis_side import Side
from tests.support.text_bench import Bench, whole
from velesio_worker.queue.claims import Beginning
from velesio_worker.queue.scripts import ClaimReply, ClaimStatus, Entries
from velesio_worker.wire.events import start_entry
from velesio_worker.wire.jobs import Kind

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]

DATA: Final = b'{"mode":"fresh"}'


@pytest.fixture(autouse=True)
def on_one_server(side: Side) -> None:
    if not side.claims.at_once:
        pytest.skip("its keys lie on several servers")


async def claim(side: Side, nonce: str = "n", data: bytes = DATA) -> ClaimReply:
    return await side.scripts.claim("a", side.slot(), nonce, 9, start=Entries(0, 300, ("start", data)))


async def entries(commands: Any) -> list[tuple[str, str]]:
    return [(number.decode(), fields[b"event"].decode()) for number, fields in await commands.xrange("stream:a")]


async def test_claim_and_start_are_one_step_however_often_it_is_asked_for(side: Side, commands: Any) -> None:
    first, again = await claim(side), await claim(side)
    assert first == again
    assert (first.status, first.attempt, first.begun) == (ClaimStatus.CLAIMED, 1, True)
    assert await entries(commands) == [("1-0", "start")]
    assert 200 < await commands.ttl("stream:a") <= 300


async def test_what_is_cancelled_or_anothers_or_no_first_attempt_does_not_begin(side: Side, commands: Any) -> None:
    await commands.set("{result:a}:cancel", 1)
    reply = await claim(side)
    assert (reply.status, reply.begun) == (ClaimStatus.CANCELLED, False)
    assert not await commands.exists("stream:a")
    await commands.delete("{result:a}:cancel", "{result:a}:job")
    await side.scripts.claim("a", side.slot("text-1"), "n", 9)
    reply = await claim(side)
    assert (reply.status, reply.begun) == (ClaimStatus.HELD, False)
    await side.scripts.release("a", "w1", 1, in_good_order=False)
    reply = await claim(side, "m")
    assert (reply.status, reply.attempt, reply.begun) == (ClaimStatus.CLAIMED, 2, False)
    assert not await commands.exists("stream:a")
    await side.scripts.finish("a", "w1", 2, b"{}", 100)
    reply = await claim(side, "m")
    assert (reply.status, reply.begun) == (ClaimStatus.FINISHED, False)
    assert not await commands.exists("stream:a")


async def test_a_cancel_that_came_between_a_lost_reply_and_the_next_one_finds_what_has_begun(
    side: Side, commands: Any
) -> None:
    assert (await claim(side)).begun
    await commands.set("{result:a}:cancel", 1)
    reply = await claim(side)
    assert (reply.status, reply.begun) == (ClaimStatus.CANCELLED, True)
    assert await entries(commands) == [("1-0", "start")]


async def test_what_others_wrote_into_the_stream_keeps_no_job_from_being_claimed(side: Side, commands: Any) -> None:
    await commands.xadd("stream:a", {"event": "start", "data": "{}"}, id="1-0")
    reply = await claim(side)
    assert (reply.status, reply.begun) == (ClaimStatus.CLAIMED, False)
    await commands.xadd("stream:a", {"event": "token", "data": "{}"}, id="9-0")
    await commands.xdel("stream:a", "9-0", "1-0")
    await commands.delete("{result:a}:job")
    reply = await claim(side)
    assert (reply.status, reply.begun) == (ClaimStatus.CLAIMED, False)
    await commands.delete("stream:a", "{result:a}:job")
    await commands.set("stream:a", "no stream")
    reply = await claim(side)
    assert (reply.status, reply.begun) == (ClaimStatus.CLAIMED, False)


async def test_a_job_begins_once_and_ends_as_ever(bench: Bench, commands: Any) -> None:
    bench.double.answers[COMPLETION] = [whole("x", "y")]
    executor = bench.executor()
    await bench.submit()
    claimed = await bench.claim()
    assert claimed.begun is not None
    assert await entries(commands) == [("1-0", "start")]
    await executor.run(claimed)
    events = [event for _, event in await entries(commands)]
    assert (events[0], events.count("start"), events[-1]) == ("start", 1, "done")


async def test_what_a_failover_loses_of_the_beginning_is_written_again(bench: Bench, commands: Any) -> None:
    stream = bench.side.publisher.open("a", 1, Beginning("tiny", DATA, 300, time.monotonic()))
    stream.put("token", b"{}")
    bench.side.outage.noticed(ConnectionError("failing over"))
    await stream.flushed()
    assert await entries(commands) == [("1-0", "start"), ("1-1", "token")]


async def test_a_start_that_names_another_model_is_followed_by_the_right_one(bench: Bench, commands: Any) -> None:
    executor = bench.executor()
    bench.side.admission.announced = lambda job, worker: start_entry(job.type, 1, worker, "old", "fresh")
    await bench.submit()
    await executor.run(await bench.claim())
    starts = [
        json.loads(fields[b"data"]) for _, fields in await commands.xrange("stream:a") if fields[b"event"] == b"start"
    ]
    assert starts[0]["model"] == "old"
    assert starts[-1]["model"] != "old"


async def test_one_command_claims_a_job_that_came_by_itself_begins_it_and_tells_whose_it_is(
    bench: Bench, commands: Any
) -> None:
    bench.executor()
    expected: list[Kind] = []
    bench.side.admission.arrivals.expected = expected.append
    await bench.submit(tenant="a")
    slot = bench.side.slot()
    assert await commands.blmove("{llama_queue}:text", slot.key, 1, "RIGHT", "LEFT") == bench.payload
    before = await scripts_run(commands)
    claim = await bench.side.admission.admit(slot, bench.payload)
    assert claim is not None
    assert claim.begun
    assert await scripts_run(commands) == before + 1
    assert expected == [Kind.TEXT]
    _, _, priority, tenant = (await commands.hget("{llama_queue}:running:text", slot.field)).split(b" ")
    assert (priority, tenant) == (b"normal", b"a")
    await bench.side.slots.ack(slot, bench.payload)
    assert not await commands.exists("{llama_queue}:running:text")


async def scripts_run(commands: Any) -> int:
    return (await commands.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)


async def test_a_claim_that_fails_of_the_jobs_own_keys_leaves_nobody_counted_as_running(
    bench: Bench, commands: Any
) -> None:
    bench.executor()
    await bench.submit(tenant="a")
    await commands.set("{result:a}:job", "no hash")
    slot = bench.side.slot()
    assert await commands.blmove("{llama_queue}:text", slot.key, 1, "RIGHT", "LEFT") == bench.payload
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await bench.side.admission.admit(slot, bench.payload)
    assert await commands.hlen("{llama_queue}:running:text") == 1
    await bench.side.slots.bury(slot, bench.payload, "why")
    assert not await commands.exists("{llama_queue}:running:text")


async def test_what_has_expired_does_not_begin(bench: Bench, commands: Any) -> None:
    bench.executor()
    await bench.submit(expires_at=time.time() - 1)
    slot = bench.side.slot()
    await bench.side.slots.take("{llama_queue}:text", slot)
    assert await bench.side.admission.admit(slot, bench.payload) is None
    assert [event for _, event in await entries(commands)] == ["error"]
