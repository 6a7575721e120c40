"""The viewers of the gateway's benchmark see what is wrong with a stream, and nothing in a good one."""

from __future__ import annotations

import pytest
from bench.seen import Body, Delays, Faults, Frame, Order, Reader, frames_in


def frame(number: int, *, entry: str | None = None, event: str = "token", line: str = "\n") -> bytes:
    name = f"1-{number}" if entry is None else entry
    lines = (f"id: {name}", f"event: {event}", f'data: {{"choices":[],"n":{number},"at":{number * 1000}}}', "", "")
    return line.join(lines).encode()


def judged(*numbers: int) -> tuple[int, int, int, int]:
    faults = Faults()
    order = Order(faults)
    for number in numbers:
        order.take(number)
    return order.next, faults.missing, faults.doubled, faults.late


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0, 1, 2, 3), (4, 0, 0, 0)),
        ((0, 1, 3, 6), (7, 3, 0, 0)),
        ((1, 2), (3, 1, 0, 0)),
        ((0, 1, 1, 2), (3, 0, 1, 0)),
        ((0, 1, 2, 0, 1, 2), (3, 0, 3, 0)),
        ((0, 2, 1, 3), (4, 0, 0, 1)),
        ((0, 2, 1, 1, 5), (6, 2, 1, 1)),
    ],
    ids=["good", "gaps", "no beginning", "a double", "all again", "wrong order", "everything"],
)
def test_a_gap_a_double_and_a_wrong_order_are_found(numbers: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert judged(*numbers) == expected


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_whole_frames_are_read_and_the_rest_is_left(line: str) -> None:
    comment = f": ping{line}".encode()
    whole = comment + frame(0, event="start", line=line) + comment + line.encode() + frame(1, event="done", line=line)
    data = whole + frame(2, line=line)[:-1]
    assert frames_in(data) == ([Frame(0, 0, last=False), Frame(1, 1000, last=True)], len(whole))


def test_an_id_of_another_kind_is_no_entry_s() -> None:
    frames, _ = frames_in(frame(3, entry="1764345600:2"))
    assert frames == [Frame(3, 3000, last=False)]


@pytest.mark.parametrize("data", [frame(3, entry="1-4"), b"id: 1-1\ndata: {}\n\n"], ids=["another id", "no number"])
def test_a_frame_that_is_not_what_its_id_says_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match="a frame w"):
        frames_in(data)


def test_what_many_are_sent_is_read_once() -> None:
    reader = Reader()
    assert reader.read(frame(1)) is reader.read(bytes(bytearray(frame(1))))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_body_is_put_together_out_of_chunks(size: int) -> None:
    pieces = [frame(0), frame(1) + frame(2), b"x" * 300]
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    body = Body()
    found = b"".join(body.feed(answer[at : at + size]) for at in range(0, len(answer), size))
    assert (body.status, found) == (200, b"".join(pieces))


def test_a_body_without_chunks_is_taken_as_it_comes() -> None:
    body = Body()
    assert body.feed(b"HTTP/1.1 404 Not Found\r\n\r") == b""
    assert body.feed(b"\nno") == b"no"
    assert body.status == 404


def test_delays_have_their_quantiles() -> None:
    delays = Delays()
    assert delays.quantile(0.99) == 0
    for milliseconds in range(1, 101):
        delays.add(milliseconds * 1_000_000)
    assert [delays.quantile(0.5), delays.quantile(0.99), delays.most] == pytest.approx([50, 99, 100], abs=0.2)
