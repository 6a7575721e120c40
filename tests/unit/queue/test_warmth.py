"""How long a conversation's next turn is kept for whoever has read it, and how those that wait are called back."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.warmth import LONGEST_PATIENCE, Summons, Warmth
from velesio_worker.wire.jobs import Job, parse_job
from velesio_worker.wire.share import Share, prompt_tokens, share_of

SLOT: Slot = Keys("llama_queue").slot("w1", "text-0")


def job(words: int) -> Job:
    payload = json.dumps({"id": "a", "type": "completion", "data": {"prompt": "word " * words}}).encode()
    return parse_job(payload, max_bytes=10**6)


def test_a_job_is_kept_for_as_long_as_reading_its_prompt_would_take_and_half_a_second_at_most() -> None:
    warmth, middle = Warmth(), job(100)
    tokens = prompt_tokens(middle)
    assert warmth.patience(middle) == pytest.approx(tokens / 500)
    assert warmth.patience(job(10_000)) == LONGEST_PATIENCE == 0.5
    assert warmth.patience(job(1)) == 0
    warmth.read(SLOT, 1000, 0, 1000.0)
    assert warmth.patience(middle) == pytest.approx(tokens / 1000)
    for _ in range(100):
        warmth.read(SLOT, 4000, 0, 1000)
    assert warmth.patience(middle) == pytest.approx(tokens / 4000, rel=0.01)
    warmth.read(SLOT, 10**6, 0, 1000.0)
    assert warmth.patience(job(10_000)) == pytest.approx(prompt_tokens(job(10_000)) / 128_500, rel=0.01)
    assert warmth.patience(middle) == 0, "what is read in less than 20 ms is not waited for"


@pytest.mark.parametrize("milliseconds", [None, "9", 0, -1.0, float("nan"), float("inf"), [1]])
def test_what_does_not_say_how_long_it_took_says_nothing_of_the_speed(milliseconds: Any) -> None:
    warmth, middle = Warmth(), job(100)
    before = warmth.patience(middle)
    warmth.read(SLOT, 1000, 0, milliseconds)
    warmth.read(SLOT, 3, 0, 1000.0)
    assert warmth.patience(middle) == before


def test_a_promise_is_kept_where_half_of_the_prompt_was_held() -> None:
    warmth = Warmth()
    for promised, read, held, holds in ((False, 9, 0, True), (True, 5, 5, True), (True, 6, 5, False)):
        if promised:
            warmth.promise(SLOT)
        warmth.belongs(SLOT, "0a")
        warmth.read(SLOT, read, held)
        assert warmth.outcome(SLOT) == (holds, "0a")
        warmth.emptied(SLOT)
        assert warmth.outcome(SLOT) == (None, "")


@pytest.mark.anyio
async def test_whoever_waits_is_called_back_and_whoever_comes_too_late_does_not_begin_to() -> None:
    summons, ended = Summons(), list[str]()

    async def wait(name: str, rung: int) -> None:
        with summons.heeded(rung) as waits:
            if waits:
                await anyio.sleep_forever()
        ended.append(name)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for name in "ab":
                group.start_soon(wait, name, 0)
            await anyio.wait_all_tasks_blocked()
            assert not ended
            summons.ring()
        assert sorted(ended) == ["a", "b"]
        await wait("late", 0)
        with summons.heeded(summons.rung) as waits:
            assert waits
            await anyio.lowlevel.checkpoint()  # it has not rung again


def test_jobs_with_nothing_but_a_chat_that_goes_on_have_a_session_too() -> None:
    said: list[dict[str, str]] = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "?"},
    ]
    shares: list[Share] = []
    for messages in (said, [*said[:1], {"role": "assistant", "content": "b"}], said[:1]):
        payload = json.dumps({"id": "a", "type": "chat_completion", "data": {"messages": messages}}).encode()
        shares.append(share_of(parse_job(payload, max_bytes=10**6), len(payload)))
    assert all(share.plain for share in shares)
    assert shares[0].session == shares[1].session != ""
    assert shares[2].session == ""
