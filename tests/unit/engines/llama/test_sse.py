from __future__ import annotations

from collections.abc import Iterable

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.tables import table
from velesio_worker.engines.llama import sse
from velesio_worker.engines.llama.sse import EventTooLargeError, SSEDecoder

BOM = b"\xef\xbb\xbf"
LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
BYTES = (
    st.binary(max_size=12) | st.text(max_size=6).map(str.encode) | st.just(b"[DONE]") | st.just(b'{"a": "\xc3\xa4"}')
)
VALUES = BYTES.map(lambda value: value.replace(b"\n", b"").replace(b"\r", b""))
FIELDS = st.sampled_from([b"data:", b"data: ", b"data:  "])
OTHERS = st.sampled_from(
    [b":", b": ", b"event: ", b"id: ", b"retry: ", b"Data: ", b"data :", b" data: ", b"nonsense: "]
)
LINES = (
    st.tuples(FIELDS | OTHERS, VALUES).map(b"".join) | st.just(b"") | st.just(b"data") | st.just(BOM) | st.just(b":")
)
BODIES = st.lists(st.tuples(LINES, LINE_ENDS).map(b"".join), max_size=12).map(b"".join)
STREAMS = st.tuples(st.just(b"") | st.just(BOM), BODIES, VALUES).map(b"".join)


def decoded(chunks: Iterable[bytes]) -> list[bytes]:
    decoder = SSEDecoder()
    return [data for chunk in chunks for data in decoder.feed(chunk)]


def cut(stream: bytes, points: Iterable[int]) -> list[bytes]:
    ends = [*sorted({min(point, len(stream)) for point in points}), len(stream)]
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def oracle(stream: bytes) -> list[str]:
    """The data of the events that httpx-sse reads; a BOM it does not know."""
    whole = stream.removeprefix(BOM)
    headers = {"Content-Type": "text/event-stream; charset=utf-8"}
    response = httpx.Response(200, headers=headers, content=whole)
    return [event.data for event in EventSource(response).iter_sse()]


@examples(150)
@given(STREAMS, st.lists(st.integers(0, 200), max_size=20))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10, 11])
def test_the_data_of_events_is_what_another_decoder_reads(stream: bytes, points: list[int]) -> None:
    # httpx-sse also yields events without a data line where another field was seen: those have no data to compare.
    found = [data.decode(errors="replace") for data in decoded(cut(stream, points))]
    assert [data for data in found if data] == [data for data in oracle(stream) if data]


@examples(150)
@given(STREAMS, st.lists(st.integers(0, 200), max_size=20))
def test_where_reads_end_changes_nothing(stream: bytes, points: list[int]) -> None:
    assert decoded(cut(stream, points)) == decoded([stream])


FIXED = (
    BOM + b'data: {"content":"\xc3\xa4\xf0\x9f\x8e\x89"}\r\n\r\n:\n\n: still here\n\nevent: token\rdata: one\r'
    b"data:two\r\ndata\ndata: \n\r\ndata:\n\n\nid: 7\ndata: \xff\xfe\n\ndata: [DONE]\n\ndata: unfinished"
)
FIXED_DATA = [b'{"content":"\xc3\xa4\xf0\x9f\x8e\x89"}', b"one\ntwo\n\n", b"", b"\xff\xfe", b"[DONE]"]


@table(("point",), ([point] for point in range(len(FIXED) + 1)))
def test_a_stream_cut_anywhere_gives_the_same_events(point: int) -> None:
    assert decoded([FIXED[:point], FIXED[point:]]) == FIXED_DATA


def test_a_stream_read_byte_by_byte_gives_the_same_events() -> None:
    assert decoded(FIXED[at : at + 1] for at in range(len(FIXED))) == FIXED_DATA


def test_empty_reads_change_nothing() -> None:
    assert decoded([b"", b"data: a\r", b"", b"\n", b"", b"\r", b"", b"\ndata: b\n\n"]) == [b"a", b"b"]


def test_an_event_comes_with_the_read_that_completes_it() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\n\ndata: b\n") == [b"a"]
    assert decoder.feed(b"\n") == [b"b"]
    assert decoder.feed(b"data: c\r\n\r") == [b"c"]
    assert decoder.feed(b"\n") == []


@pytest.mark.parametrize(
    "stream", [b"data: a", b"data: a\n", b"data: a\r\n", b":\n\n", b"event: x\n\n", b"\n\n\n", BOM]
)
def test_what_is_no_whole_event_with_data_is_not_yielded(stream: bytes) -> None:
    assert decoded([stream]) == []


def test_a_bom_counts_at_the_beginning_only() -> None:
    assert decoded([BOM + b"data: a\n\n" + BOM + b"data: b\n\n"]) == [b"a"]


def test_an_error_line_of_old_builds_is_taken_for_data() -> None:
    assert decoded([b'error: {"code":500}\n\n']) == [b'{"code":500}']


@pytest.mark.parametrize("line", [b"data: 0123456789\n", b"0123456789", b":0123456789\r\n"])
def test_an_event_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    with pytest.raises(EventTooLargeError, match="100 bytes"):
        decoded([line] * 20)


def test_many_events_may_be_larger_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    stream = b"data: " + b"x" * 50 + b"\n\n" + b":\n\n" * 50
    assert len(decoded([stream * 20])) == 20
    assert len(decoded([stream] * 20)) == 20
