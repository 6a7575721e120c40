"""The judge of the chaos soak finds every broken rule, and nothing in a good stream."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from bench.judge import Entry, Fate, Fault, Gap, Watched, gaps, judge, pauses

USAGE = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


def start(at: str, mode: str = "fresh", **more: Any) -> Entry:
    return Entry(at, "start", {"attempt": int(at.partition("-")[0]), "mode": mode, "worker": "w1", **more})


def token(at: str, text: str) -> Entry:
    return Entry(at, "token", {"choices": [{"text": text, "index": 0, "finish_reason": None}]})


def delta(at: str, **fields: str | None) -> Entry:
    return Entry(at, "token", {"choices": [{"delta": fields, "index": 0, "finish_reason": None}]})


def done(at: str, reason: str = "length", usage: dict[str, int] | None = USAGE) -> Entry:
    return Entry(at, "done", {"finish_reason": reason, "usage": usage, "timings": None})


def error(at: str) -> Entry:
    return Entry(at, "error", {"error": "gone", "code": "worker_lost", "retryable": True, "partial": False})


def result(text: str, reason: str = "length", usage: dict[str, int] | None = USAGE) -> dict[str, Any]:
    return {"text": text, "finish_reason": reason, "usage": usage, "timings": None}


def job(*entries: Entry, found: dict[str, Any] | None = None, **more: Any) -> Watched:
    facts: dict[str, Any] = {"id": "a", "type": "completion", "streamed": True, "max_tokens": 3, **more}
    return Watched(entries=list(entries), result=found, **facts)


def good() -> Watched:
    entries = [start("1-0"), token("1-1", "a"), token("1-2", "b"), token("1-3", "c"), done("1-4")]
    return job(*entries, found=result("abc"))


def fates(watched: Watched) -> set[Fate]:
    return {violation.fate for violation in judge(watched)}


GOOD = {
    "a plain stream": good(),
    "progress between": job(
        start("1-0"), Entry("1-1", "progress", {}), token("1-2", "abc"), done("1-3"), found=result("abc")
    ),
    "a restart forgets": job(
        start("1-0"), token("1-1", "x"), start("2-0", "restart"), token("2-1", "abc"), done("2-2"), found=result("abc")
    ),
    "a continuation keeps": job(
        start("1-0"), token("1-1", "a"), start("2-0", "continue"), token("2-1", "bc"), done("2-2"), found=result("abc")
    ),
    "a restart after a continuation": job(
        start("1-0"),
        token("1-1", "a"),
        start("2-0", "continue"),
        token("2-1", "b"),
        start("3-0", "restart"),
        token("3-1", "abc"),
        done("3-2"),
        found=result("abc"),
    ),
    "a text whose tokens were counted again, and one less": job(
        start("1-0"),
        token("1-1", "a"),
        token("1-2", "b"),
        start("2-0", "continue"),
        token("2-1", "c"),
        token("2-2", "d"),
        done("2-3"),
        found=result("abcd"),
    ),
    "a second start in one attempt": job(
        start("1-0"),
        token("1-1", "x"),
        start("2-0", "continue"),
        start("2-1", "restart"),
        token("2-2", "abc"),
        done("2-3"),
        found=result("abc"),
    ),
    "lost before its first entry": job(start("2-0", "restart"), token("2-1", "abc"), done("2-2"), found=result("abc")),
    "not streamed": job(start("1-0"), done("1-1"), found=result("abc"), streamed=False),
    "a chat": job(
        start("1-0"),
        delta("1-1", role="assistant", content=None),
        delta("1-2", content="abc"),
        done("1-3"),
        found=result("abc") | {"message": {"role": "assistant", "content": "abc"}},
        type="chat_completion",
    ),
    "cancelled while it ran": job(
        start("1-0"),
        token("1-1", "ab"),
        done("1-2", "cancelled", None),
        found=result("ab", "cancelled", None),
        cancelled_at=1.0,
    ),
    "cancelled before it ran": job(
        done("1-0", "cancelled", None), found=result("", "cancelled", None), cancelled_at=1.0
    ),
    "cancelled too late": job(start("1-0"), token("1-1", "abc"), done("1-2"), found=result("abc"), cancelled_at=1.0),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_stream_passes(name: str) -> None:
    assert judge(GOOD[name]) == []


@pytest.mark.parametrize("name", GOOD)
def test_a_good_stream_that_redis_holds_as_it_was_seen_passes(name: str) -> None:
    GOOD[name].stored = list(GOOD[name].entries)
    assert judge(GOOD[name]) == []


def _without(at: int) -> Callable[[Watched], object]:
    return lambda watched: watched.entries.pop(at)


def _with(at: int, entry: Entry, **found: Any) -> Callable[[Watched], object]:
    def change(watched: Watched) -> None:
        watched.entries.insert(at, entry)
        watched.result = (watched.result or {}) | found

    return change


def _instead(at: int, *entries: Entry, **found: Any) -> Callable[[Watched], object]:
    def change(watched: Watched) -> None:
        watched.entries[at : at + len(entries)] = entries
        watched.result = (watched.result or {}) | found

    return change


def _found(**fields: Any) -> Callable[[Watched], object]:
    return lambda watched: (watched.result or {}).update(fields)


def _so(**fields: Any) -> Callable[[Watched], object]:
    def change(watched: Watched) -> None:
        for name, value in fields.items():
            setattr(watched, name, value)

    return change


TOO_MANY = USAGE | {"completion_tokens": 4}

BROKEN: dict[str, tuple[Callable[[Watched], object], Fate]] = {
    "a lost token": (_without(2), Fate.WRONG),
    "a doubled token": (_instead(3, token("1-3", "b")), Fate.WRONG),
    "a token more than the result has": (_with(4, token("1-4", "d")), Fate.WRONG),
    "a restart that forgets nothing in the result": (_instead(2, start("2-0", "restart")), Fate.WRONG),
    "no terminal entry": (_without(-1), Fate.LOST),
    "no entry at all": (_so(entries=[], result=None), Fate.LOST),
    "two terminal entries": (_with(5, done("1-5")), Fate.DOUBLED),
    "a token after the end": (_with(5, token("1-5", "")), Fate.DOUBLED),
    "a start after the end": (_with(5, start("2-0", "restart")), Fate.DOUBLED),
    "a second life": (
        _instead(1, start("2-0"), token("2-1", "b"), token("2-2", "c"), done("2-3"), text="bc"),
        Fate.DOUBLED,
    ),
    "the same id twice": (_instead(2, token("1-1", "b")), Fate.WRONG),
    "a falling id": (_instead(1, token("1-2", "a"), token("1-1", "b")), Fate.WRONG),
    "an entry of an older attempt": (_with(1, start("2-0", "restart")), Fate.WRONG),
    "no start": (_without(0), Fate.WRONG),
    "an attempt without a start": (_instead(3, token("2-0", "c"), done("2-1")), Fate.WRONG),
    "a start of another attempt": (_instead(0, start("1-0", attempt=2)), Fate.WRONG),
    "an unknown mode": (_instead(0, start("1-0", "again")), Fate.WRONG),
    "an unknown event": (_instead(1, Entry("1-1", "tokens", {}), text="bc"), Fate.WRONG),
    "an error": (_instead(4, error("1-4"), error="gone", code="worker_lost"), Fate.WRONG),
    "an error with the result of a success": (_instead(4, error("1-4")), Fate.WRONG),
    "an error as the result of a success": (_so(result={"error": "gone", "code": "internal"}), Fate.WRONG),
    "no result when the end is there": (_so(result=None), Fate.WRONG),
    "another text in the result": (_found(text="abd"), Fate.WRONG),
    "no text in the result": (_found(text=None), Fate.WRONG),
    "another finish_reason in the result": (_found(finish_reason="stop"), Fate.WRONG),
    "another usage in the result": (_found(usage=None), Fate.WRONG),
    "no usage": (_instead(4, done("1-4", usage=None), usage=None), Fate.WRONG),
    "more tokens than asked for": (_instead(4, done("1-4", usage=TOO_MANY), usage=TOO_MANY), Fate.WRONG),
    "more pieces than asked for": (_with(4, token("1-4", "d"), text="abcd"), Fate.WRONG),
    "cancelled by nobody": (_instead(4, done("1-4", "cancelled"), finish_reason="cancelled"), Fate.WRONG),
    "tokens that nobody asked for": (_so(streamed=False), Fate.WRONG),
    "a chat without a message": (_so(type="chat_completion"), Fate.WRONG),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found(name: str) -> None:
    change, fate = BROKEN[name]
    watched = good()
    change(watched)
    assert fates(watched) == {fate}


def test_an_error_after_the_end_is_wrong_in_two_ways() -> None:
    watched = good()
    watched.entries.append(error("1-5"))
    assert fates(watched) == {Fate.DOUBLED, Fate.WRONG}


def test_a_reader_that_misses_the_end_hangs() -> None:
    watched = good()
    watched.stored = list(watched.entries)
    del watched.entries[3:]
    assert fates(watched) == {Fate.HUNG}


def test_an_entry_that_the_reader_did_not_get_is_found() -> None:
    watched = good()
    watched.stored = list(watched.entries)
    del watched.entries[2]
    watched.result = result("ac")
    assert fates(watched) == {Fate.WRONG}


def test_an_entry_that_comes_after_everybody_has_left_is_found() -> None:
    watched = good()
    watched.stored = [*watched.entries, token("1-5", "d")]
    assert fates(watched) == {Fate.DOUBLED}


def test_an_entry_is_read_as_redis_has_it() -> None:
    fields = {"event": "token", "data": json.dumps({"choices": [{"text": "a"}]})}
    entry = Entry.parsed("12-34", fields, 5.0)
    assert (entry.place, entry.text, entry.at, entry.terminal) == ((12, 34), "a", 5.0, False)


def paced(*moments: tuple[Entry, float]) -> Watched:
    """A job whose reader got each entry at a moment."""
    return job(*(Entry(entry.id, entry.event, entry.data, at) for entry, at in moments))


def moved() -> Watched:
    """From w1, which falls silent at 2 s, to w2 at 7 s."""
    return paced(
        (start("1-0"), 0.0),
        (token("1-1", "a"), 1.0),
        (token("1-2", "b"), 2.0),
        (start("2-0", "continue", worker="w2"), 7.0),
        (token("2-1", "c"), 8.0),
        (token("2-2", "d"), 8.5),
        (done("2-3"), 9.0),
    )


def test_pauses_lie_between_tokens_and_know_who_had_the_job() -> None:
    found = pauses(moved())
    assert [(pause.begin, pause.end) for pause in found] == [(1.0, 2.0), (2.0, 8.0), (8.0, 8.5), (8.5, 9.0)]
    assert found[1].owners == ((2.0, 7.0, "w1"), (7.0, 8.0, "w2"))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("worker-kill", 2.1, 2.2, "w1"), [6.0]),
        (Fault("worker-kill", 1.9, 1.9, "w1"), [6.0]),  # an entry was on its way
        (Fault("worker-kill", 1.2, 1.3, "w1"), [1.0]),
        (Fault("worker-kill", 2.1, 2.2, "w2"), []),  # not yet its job
        (Fault("worker-kill", 7.5, 7.5, "w1"), []),  # not its job any more
        (Fault("worker-kill", 7.5, 7.5, "w2"), [6.0]),
        (Fault("freeze", 1.5, 20.0, "w1"), [6.0]),
        (Fault("freeze", 0.2, 0.5, "w1"), []),  # before the first token
        (Fault("redis-restart", 8.1, 8.2), [0.5]),
        (Fault("redis-restart", 30.0, math.inf), []),
    ],
)
def test_a_gap_is_the_longest_pause_around_a_fault_that_hit_the_owner(fault: Fault, expected: list[float]) -> None:
    assert [(gap.kinds, gap.seconds) for gap in gaps([moved()], [fault])] == [((fault.kind,), one) for one in expected]


def test_a_pause_in_which_several_faults_hit_is_one_gap() -> None:
    faults = [Fault("worker-kill", 2.1, 2.2, "w1"), Fault("cut", 5.0, 5.0), Fault("cut", 8.7, 8.7)]
    assert gaps([moved()], faults) == [Gap("a", 6.0, ("worker-kill", "cut")), Gap("a", 0.5, ("cut",))]


def test_a_fault_that_hits_several_streams_counts_for_each() -> None:
    assert [gap.seconds for gap in gaps([moved(), moved()], [Fault("cut", 3.0, 3.0)])] == [6.0, 6.0]
