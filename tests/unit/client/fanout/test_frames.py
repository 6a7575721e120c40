"""What is sent is what a reader of the standard reads back, whoever wrote the entry."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.viewing import frames
from velesio_worker.client.fanout.frames import closing_frame, entry_of, read_entry_id, terminal_entry
from velesio_worker.wire.events import parse_entry

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.text(), _JSON, max_size=4), st.integers(min_value=1, max_value=9), st.booleans())
def test_an_entry_is_read_as_it_was_written(data: dict[str, object], attempt: int, indented: bool) -> None:  # noqa: FBT001
    written = json.dumps(data, ensure_ascii=False, indent=2 if indented else None).encode(errors="replace")
    fields = {b"event": b"token", b"data": written}
    entry = entry_of(b"%d-7" % attempt, fields)
    (frame,) = frames(entry.frame)
    event = parse_entry(b"%d-7" % attempt, fields)
    assert (frame.id, frame.event, frame.data) == (event.id, event.event, event.data)
    assert entry.event() == event
    assert (entry.id, entry.terminal) == ((attempt, 7), False)


@given(st.binary(), st.binary())
def test_whatever_stands_in_an_entry_it_is_one_frame(event: bytes, data: bytes) -> None:
    entry = entry_of(b"1-1", {b"event": event, b"data": data})
    assert entry.frame.startswith(b"id: 1-1\nevent: ")
    assert entry.frame.count(b"\n") == 4
    assert entry.frame.endswith(b"\n\n")
    assert b"\r" not in entry.frame


@pytest.mark.parametrize(("event", "terminal"), [("done", True), ("error", True), ("start", False), ("", False)])
def test_it_is_told_whether_anything_follows(event: str, terminal: bool) -> None:  # noqa: FBT001
    assert entry_of(b"1-1", {b"event": event.encode()}).terminal is terminal


def test_a_start_tells_when_it_was_written() -> None:
    data = b'{"type":"completion","created":1234567890.125}'
    assert entry_of(b"1-0", {b"event": b"start", b"data": data}).created == 1234567890.125
    assert entry_of(b"1-0", {b"event": b"token", b"data": data}).created is None
    assert entry_of(b"1-0", {b"event": b"start", b"data": b'{"created":"x"}'}).created is None


def test_the_last_entry_of_a_stream_that_is_gone_stands_behind_what_is_known() -> None:
    assert terminal_entry((0, 0), "done", {"a": 1}).frame == b'id: 1-1\nevent: done\ndata: {"a":1}\n\n'
    assert terminal_entry((2, 7), "error", {}).id == (2, 8)


def test_the_frame_that_closes_a_view_has_readers_resume_by_themselves() -> None:
    (frame,) = frames(closing_frame("too_slow", (2, 7)))
    assert frame == ("2-7", "closed", {"reason": "too_slow", "after": "2-7"})


@pytest.mark.parametrize(("name", "expected"), [("0-0", (0, 0)), ("2-17", (2, 17)), ("3", (3, 0))])
def test_an_entrys_id_is_read(name: str, expected: tuple[int, int]) -> None:
    assert read_entry_id(name) == expected


@pytest.mark.parametrize("name", ["", "x", "1-", "-1", "1-1-1", "²", "1-1\n", "9" * 19])
def test_what_is_no_entrys_id_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="no entry's id"):
        read_entry_id(name)
