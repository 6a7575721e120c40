"""Dead letters: found by references that stay, put back once, never lost."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from tests.support.redis_side import MAX_BYTES, Side
from tests.support.topologies import ClusterServers
from velesio_worker.queue import slots as slots_module
from velesio_worker.queue.connection import connect
from velesio_worker.queue.dead import DeadLetters, Letter, NoSuchLetterError, NotRetriedError, read_letter
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.scripts import Scripts

pytestmark = pytest.mark.anyio

QUEUE, DEAD = "llama_queue", "{llama_queue}:dead"
BAD_RESULT, GOOD_RESULT = b'{"error": "lost", "code": "worker_lost"}', b'{"text": "x", "finish_reason": "stop"}'


@pytest.fixture
def letters(commands: Any) -> DeadLetters:
    return DeadLetters(commands, Keys(QUEUE))


def job(job_id: str = "a", **fields: Any) -> bytes:
    return json.dumps({"id": job_id, "type": "completion", "data": {"prompt": "x"}, **fields}).encode()


async def bury(side: Side, commands: Any, *payloads: bytes, reason: str = "why") -> None:
    for payload in payloads:
        await commands.lpush(side.slot().key, payload)
        await side.slots.bury(side.slot(), payload, reason)


async def buried(letters: DeadLetters) -> list[Letter]:
    return [letter async for letter in letters.newest()]


async def outcomes(letters: DeadLetters) -> list[tuple[str, str]]:
    """Retry all letters; what became of each job."""
    return [(letter.job().get("id", "?"), str(error or "back")) async for letter, error in letters.retry_all()]


async def given_up(side: Side, commands: Any) -> bytes:
    """Have a job be given up, all of whose attempts were lost."""
    payload = job(max_attempts=2)
    for lost in (True, True, False):
        await commands.lpush(side.slot().key, payload)
        assert (await side.admission.admit(side.slot(), payload) is not None) == lost
        await commands.delete(side.slot().key)
    return payload


async def test_a_job_that_was_given_up_begins_anew_when_it_is_put_back(
    side: Side, commands: Any, letters: DeadLetters
) -> None:
    payload = await given_up(side, commands)
    assert json.loads(await commands.get("result:a"))["code"] == "worker_lost"
    (letter,) = await buried(letters)
    await letters.retry(letter)
    assert not await commands.exists(DEAD, "result:a")
    assert await commands.lrange(QUEUE, 0, -1) == [payload]
    await commands.lmove(QUEUE, side.slot().key, "RIGHT", "LEFT")
    claim = await side.admission.admit(side.slot(), payload)
    assert claim is not None
    assert (claim.first, claim.held.attempt) == (True, 4)
    assert not await commands.exists("stream:a"), "the old end would be read as the new one's"


async def test_jobs_go_to_the_end_of_the_queue(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, job())
    await commands.lpush(QUEUE, b"waits")
    await letters.retry((await buried(letters))[0])
    assert await commands.rpop(QUEUE, 2) == [b"waits", job()]


async def test_a_letter_is_put_back_once(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, job())
    (letter,) = await buried(letters)
    await letters.retry(letter)
    with pytest.raises(NoSuchLetterError, match="velesio-worker dead list"):
        await letters.retry(letter)
    with pytest.raises(NoSuchLetterError):
        await letters.find(letter.reference)
    assert await commands.llen(QUEUE) == 1


async def test_the_script_repeated_after_a_lost_reply_puts_nothing_back_twice(
    side: Side, commands: Any, letters: DeadLetters
) -> None:
    await bury(side, commands, job())
    (letter,) = await buried(letters)
    await commands.lpush(DEAD, letter.raw)
    assert [await side.scripts.retry(side.keys, letter.raw, job()) for _ in range(2)] == [2, 0]
    assert await commands.llen(QUEUE) == 1
    assert not await commands.exists(DEAD)


async def test_a_letter_stays_where_its_job_cannot_be_pushed(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, job())
    await commands.set(QUEUE, "in the way")
    with pytest.raises(ResponseError):
        await letters.retry((await buried(letters))[0])
    assert await commands.llen(DEAD) == 1


async def test_references_stay_when_letters_arrive_and_go(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, *(job(f"j{number}") for number in range(20)))
    before = [letter.reference for letter in await buried(letters)]
    await bury(side, commands, job("new"))
    await letters.drop(await letters.find(before[3]))
    after = [letter.reference for letter in await buried(letters)]
    assert after[1:] == before[:3] + before[4:]
    for number, reference in ((19, before[0]), (0, before[-1][:12])):
        assert (await letters.find(reference)).job()["id"] == f"j{number}"


async def test_an_ambiguous_or_unknown_reference_is_refused(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, *(job(f"j{number}") for number in range(17)))
    digits = Counter(letter.reference[0] for letter in await buried(letters))
    ((digit, count),) = digits.most_common(1)
    with pytest.raises(NoSuchLetterError, match=f"{count} dead letters.*velesio-worker dead list"):
        await letters.find(digit)
    with pytest.raises(NoSuchLetterError, match=r"no dead letter.*velesio-worker dead list"):
        await letters.find("f" * 32)


async def test_copies_of_a_letter_are_one_letter(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, job(), job("b"))
    raw = (await commands.lrange(DEAD, 0, -1))[1]
    await commands.lpush(DEAD, raw)
    assert [letter.job()["id"] for letter in await buried(letters)] == ["a", "b"]
    assert (await letters.find(read_letter(raw).reference[:12])).raw == raw
    assert await outcomes(letters) == [("a", "back"), ("b", "back")]
    assert not await commands.exists(DEAD)


async def test_a_job_with_a_good_result_is_not_put_back(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, job())
    await commands.set("result:a", GOOD_RESULT)
    with pytest.raises(NotRetriedError, match=r"has a result.*velesio-worker dead drop"):
        await letters.retry((await buried(letters))[0])
    assert await commands.get("result:a") == GOOD_RESULT
    assert (await commands.llen(DEAD), await commands.llen(QUEUE)) == (1, 0)


async def test_a_result_that_comes_meanwhile_is_not_deleted(side: Side, commands: Any) -> None:
    await commands.set("result:a", GOOD_RESULT)
    assert not await side.scripts.forget("a", BAD_RESULT)
    assert not await side.scripts.forget("b", BAD_RESULT)
    assert await commands.get("result:a") == GOOD_RESULT


async def test_a_job_that_runs_is_not_put_back_until_its_worker_is_gone(
    side: Side, commands: Any, letters: DeadLetters
) -> None:
    await bury(side, commands, job())
    await side.claims.claim("a", side.slot(), 3)
    await commands.lpush(side.slot().key, job())
    (letter,) = await buried(letters)
    with pytest.raises(NotRetriedError, match="runs now, on worker w1"):
        await letters.retry(letter)
    await commands.zadd(side.keys.workers, {"w1": time.time() - 1})
    await letters.retry(letter)
    assert await commands.llen(QUEUE) == 1


async def test_a_job_whose_owner_somebody_damaged_is_put_back(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, job())
    await commands.hset("{result:a}:job", mapping={"owner": b"\xff", "slot": b"\xfe"})
    assert await outcomes(letters) == [("a", "back")]


async def test_a_letter_whose_reason_says_no_size_is_read(commands: Any, letters: DeadLetters) -> None:
    reason = f"(of {'9' * 5000} bytes only the first 64 KiB are kept)"
    await commands.lpush(DEAD, json.dumps({"reason": reason, "payload": "x"}))
    assert [(letter.reason, letter.size) for letter in await buried(letters)] == [(reason, 1)]


async def test_a_letter_with_bytes_that_are_no_text_keeps_them(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, b"\xff\x00\xfe")
    (letter,) = await buried(letters)
    assert (letter.payload, letter.size, letter.cut) == (b"\xff\x00\xfe", 3, False)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"null", b"[]", b"{}", b'{"id": 7}', b'{"id": "a b"}', b"\xff", b'{"id":' * 2000, b'{"a":' * 500],
    ids=lambda payload: repr(payload[:12]),
)
async def test_what_names_no_job_is_not_sent_round_in_circles(
    side: Side, commands: Any, letters: DeadLetters, payload: bytes
) -> None:
    await bury(side, commands, payload)
    (letter,) = await buried(letters)
    with pytest.raises(NotRetriedError, match=f"come straight back.*velesio-worker dead show {letter.shown} --payload"):
        await letters.retry(letter)
    assert letter.payload == payload
    assert await letters.drop(letter)
    assert not await commands.exists(DEAD)


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"garbage", b"\xff\xfe", b"[1]", b"null", b"{}", b'{"payload": 7}', b'{"payload_base64": "?"}'),
        b'{"payload_base64": "\xc3\xa9", "reason": 7, "at": "now", "worker": []}',
    ],
)
async def test_what_no_worker_wrote_can_be_seen_and_dropped(commands: Any, letters: DeadLetters, raw: bytes) -> None:
    await commands.lpush(DEAD, raw)
    (letter,) = await buried(letters)
    assert (letter.reason, letter.payload, letter.size) == ("not a letter that a worker wrote", None, len(raw))
    with pytest.raises(NotRetriedError, match="velesio-worker dead show"):
        await letters.retry(letter)
    assert await letters.drop(await letters.find(letter.shown))
    assert not await letters.drop(letter)


async def test_a_job_of_which_only_the_beginning_was_kept_is_not_put_back(
    side: Side, commands: Any, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "_LETTER_HEAD", len(job()))
    payload = job() + b" " * MAX_BYTES
    await bury(side, commands, payload)
    (letter,) = await buried(letters)
    assert (letter.cut, letter.size, letter.payload) == (True, len(payload), job())
    with pytest.raises(NotRetriedError, match=f"only {len(job())} of the job's {len(payload)} bytes"):
        await letters.retry(letter)


@pytest.mark.parametrize(("size", "cut"), [(1000, True), (3, False)])
def test_a_letter_that_says_how_large_the_job_was_is_believed(size: int, *, cut: bool) -> None:
    reason = "x (of 99 bytes only the first 64 KiB are kept)"
    letter = read_letter(
        json.dumps({"reason": reason, "at": 1, "worker": "w", "payload": "abc", "bytes": size}).encode()
    )
    assert (letter.size, letter.cut) == (size, cut)


async def test_a_job_that_has_expired_is_not_put_back(side: Side, commands: Any, letters: DeadLetters) -> None:
    await bury(side, commands, job(expires_at=86400), job("b", expires_at=time.time() + 100))
    late, early = (await buried(letters))[::-1]
    with pytest.raises(NotRetriedError, match="expires_at was 1970-01-02 00:00:00Z"):
        await letters.retry(late)
    await letters.retry(early)


async def test_a_wrong_job_with_an_id_is_put_back_to_be_answered(
    side: Side, commands: Any, letters: DeadLetters
) -> None:
    await bury(side, commands, job(type="poem"))
    await letters.retry((await buried(letters))[0])
    assert await commands.lrange(QUEUE, 0, -1) == [job(type="poem")]


async def test_all_are_put_back_in_the_order_in_which_they_died_and_the_rest_is_told(
    side: Side, commands: Any, letters: DeadLetters
) -> None:
    ids = [f"j{number}" for number in range(20)]
    await bury(side, commands, b"{}", *map(job, ids), b"[]")
    await commands.set("result:j7", GOOD_RESULT)
    await commands.set("result:j8", BAD_RESULT)
    done = await outcomes(letters)
    assert [job_id for job_id, outcome in done if outcome == "back"] == [one for one in ids if one != "j7"]
    assert [job_id for job_id, outcome in done if outcome != "back"] == ["?", "j7", "?"]
    assert [json.loads(payload)["id"] for payload in await commands.rpop(QUEUE, 100)] == [
        one for one in ids if one != "j7"
    ]
    assert [letter.payload for letter in await buried(letters)] == [b"[]", job("j7"), b"{}"]


async def test_letters_that_arrive_while_all_are_put_back_are_left_alone(
    side: Side, commands: Any, letters: DeadLetters
) -> None:
    await bury(side, commands, *(job(f"j{number}") for number in range(20)))
    count = 0
    async for letter, error in letters.retry_all():
        assert error is None
        assert letter.payload is not None
        await bury(side, commands, letter.payload)
        count += 1
    assert (count, await commands.llen(DEAD)) == (20, 20)


async def test_dropping_all_counts_what_was_there(side: Side, commands: Any, letters: DeadLetters) -> None:
    assert await letters.drop_all() == 0
    await bury(side, commands, job(), job("b"))
    assert await letters.drop_all() == 2
    assert await letters.count() == 0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Any]:
    with ClusterServers(tmp_path) as servers:
        client: Any = connect(servers.url, name="test")
        yield client
        await client.aclose()


@pytest.mark.several_redis
async def test_in_a_cluster_each_step_stays_within_one_slot(cluster: Any) -> None:
    letters = DeadLetters(cluster, Keys(QUEUE))
    for number in range(10):
        letter = {"reason": "why", "at": time.time(), "worker": "w1", "payload": job(f"j{number}").decode()}
        await cluster.lpush(DEAD, json.dumps(letter))
        await cluster.set(f"result:j{number}", BAD_RESULT)
        await cluster.hset(f"{{result:j{number}}}:job", "owner", "w9")
    await Scripts(cluster).beat(Keys(QUEUE), "w1", 60, {"state": "test"})
    await letters.retry(await letters.find((await buried(letters))[0].reference))
    await letters.drop((await buried(letters))[0])
    assert await outcomes(letters) == [(f"j{number}", "back") for number in range(8)]
    assert await letters.drop_all() == 0
    assert [json.loads(payload)["id"] for payload in await cluster.rpop(QUEUE, 100)] == [
        "j9",
        *(f"j{number}" for number in range(8)),
    ]
