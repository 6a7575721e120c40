"""A tail keeps the newest entries in order, within its bounds, and is read as often as it deserves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.client.fanout.bounds import Bounds
from velesio_worker.client.fanout.frames import Entry, entry_of
from velesio_worker.client.fanout.tails import LIVELY_SECONDS, Tail


class Follower:
    def __init__(self, position: int = 0, *, busy: bool = False) -> None:
        self.position = position
        self.busy = busy


def entry(sequence: int, event: bytes = b"token", attempt: int = 1, size: int = 10) -> Entry:
    return entry_of(b"%d-%d" % (attempt, sequence), {b"event": event, b"data": b"x" * size})


def entries(*sequences: int) -> list[Entry]:
    return [entry(sequence) for sequence in sequences]


def tail_of(entries_kept: int = 4, **bounds: int) -> Tail:
    return Tail("a", (0, 0), 0.0, Bounds(ring_entries=entries_kept, **bounds))


def read(tail: Tail, new: Sequence[Entry], now: float) -> Sequence[Entry]:
    """Have a read of a tail bring entries, which was sent a moment ago."""
    return tail.append(new, tail.last, now)


@given(st.lists(st.integers(min_value=1, max_value=7), max_size=20), st.integers(min_value=1, max_value=300))
def test_it_holds_all_that_follows_its_start_within_its_bounds_or_what_came_last(batches: list[int], size: int) -> None:
    tail, at = tail_of(6, ring_bytes=500, send_bytes=200), 0
    for batch in batches:
        new = [entry(sequence, size=size) for sequence in range(at + 1, at + 1 + batch)]
        assert read(tail, new, 0.0) == new
        at += batch
        kept = tail.entries(tail.base)
        assert [one.id[1] for one in kept] == list(range(tail.start[1] + 1, at + 1))
        assert tail.end - tail.base == len(kept)
        assert tail.size == sum(len(one.frame) for one in kept)
        assert len(kept) <= max(6, batch)
        assert tail.size <= max(500, sum(len(one.frame) for one in new))
        position, sent = tail.base, b""
        while position < tail.end:
            chunk = tail.chunk(position)
            assert tail.chunk(position) is chunk, "put together once for all viewers"
            assert len(chunk.data) <= 200 or chunk.upto == position + 1
            position, sent = chunk.upto, sent + chunk.data
        assert sent == b"".join(one.frame for one in kept)


def test_what_it_has_already_is_not_there_twice() -> None:
    tail = tail_of()
    read(tail, entries(1, 2), 0.0)
    assert [one.id for one in read(tail, entries(1, 2, 3), 0.0)] == [(1, 3)]
    assert read(tail, entries(3), 0.0) == []
    assert tail.end == 3


def test_nothing_follows_the_last_entry() -> None:
    tail = tail_of()
    read(tail, [entry(1), entry(2, b"done"), entry(3)], 0.0)
    assert (tail.over, tail.last) == (True, (1, 2))
    assert read(tail, [entry(4)], 0.0) == []


@pytest.mark.parametrize(
    ("after", "position"),
    [((0, 0), None), ((1, 2), None), ((1, 3), 2), ((1, 4), 3), ((1, 6), 5), ((1, 7), 6), ((2, 1), 7), ((9, 9), 7)],
)
def test_an_entry_is_found_by_its_id_as_long_as_it_is_there(after: tuple[int, int], position: int | None) -> None:
    tail = tail_of(5)
    read(tail, entries(1, 2), 0.0)
    read(tail, [*entries(4, 5, 6, 8), entry(1, attempt=2)], 0.0)
    expected = {(1, 2): 2, (1, 3): 2, (1, 4): 3, (1, 6): 5, (1, 7): 5, (2, 1): 7, (9, 9): 7}.get(after)
    assert tail.position_after(after) == expected
    assert (position is None) or expected is not None


def test_it_begins_further_back_as_long_as_nothing_was_read() -> None:
    tail = Tail("a", (5, 5), 0.0, Bounds())
    tail.over = True  # nothing follows 5-5
    assert not tail.reach_back((6, 6))
    assert tail.over
    assert tail.reach_back((0, 0))
    assert not tail.over
    assert tail.position_after((0, 0)) == 0
    read(tail, entries(1), 0.0)
    assert not tail.reach_back((0, 0))
    assert tail.last == (1, 1)


def test_what_was_being_read_as_it_began_further_back_leaves_no_gap() -> None:
    tail = Tail("a", (1, 3), 0.0, Bounds())
    tail.followers[Follower()] = None
    tail.was_silent(100.0)
    assert not tail.is_due(100.0)
    tail.reach_back((1, 1))
    assert tail.is_due(100.0), "at once"
    assert tail.append(entries(4), (1, 3), 100.0) == []
    assert [one.id for one in tail.append(entries(1, 2, 3, 4), (1, 0), 100.0)] == [(1, 2), (1, 3), (1, 4)]
    assert tail.position_after((1, 1)) == 0


def test_it_is_read_once_somebody_has_taken_all_that_is_there() -> None:
    tail, slow = tail_of(), Follower(busy=True)
    assert not tail.is_due(0.0), "nobody is there"
    tail.followers[slow] = None
    assert not tail.is_due(0.0)
    assert tail.held
    tail.followers[quick := Follower()] = None
    assert tail.is_due(0.0)
    read(tail, entries(1), 0.0)
    assert not tail.is_due(0.0)
    assert tail.read_at == math.inf
    quick.position = tail.end
    assert tail.is_due(0.0)
    tail.failure = ValueError()
    assert not tail.is_due(0.0)


def test_it_is_left_alone_while_it_is_parked_until_it_speaks_or_begins_further_back() -> None:
    tail = tail_of()
    tail.followers[follower := Follower()] = None
    tail.parked = True
    assert not tail.is_due(0.0)
    assert tail.read_at == math.inf
    assert tail.is_wanted()
    read(tail, entries(1), 0.0)
    follower.position = tail.end
    assert tail.is_due(0.0)
    later = Tail("a", (5, 0), 0.0, Bounds())
    later.parked = True
    assert not later.reach_back((6, 0))
    assert later.parked
    assert later.reach_back((1, 0))
    assert not later.parked


def test_the_longer_it_is_silent_the_more_seldom_it_is_read() -> None:
    tail = tail_of()
    tail.followers[Follower()] = None
    tail.was_silent(LIVELY_SECONDS / 2)
    assert tail.is_due(LIVELY_SECONDS / 2)
    for silence in (6.0, 10.0, 20.0, 100.0, 10_000.0):
        tail.was_silent(silence)
        assert not tail.is_due(silence)
        assert silence < tail.read_at <= silence + min(silence / 50, 0.5)
    read(tail, [entry(1)], 10_000.0)
    (follower,) = tail.followers
    follower.position = 1
    assert tail.is_due(10_000.0)
    assert tail.is_lively(10_000.0)


def test_it_is_looked_at_at_once_when_nothing_is_there_and_seldom_later() -> None:
    tail = tail_of()
    assert not tail.wants_look(1000.0), "before it was read"
    tail.was_silent(0.0)
    assert tail.wants_look(0.0)
    looks, now = 0, 0.0
    while now < 600:
        if tail.wants_look(now):
            tail.was_looked_at(now)
            looks += 1
        now += 0.5
    assert 20 <= looks <= 40
    read(tail, [entry(1)], now)
    assert not tail.wants_look(now)
