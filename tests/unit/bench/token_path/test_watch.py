"""What is seen of streams is what was written into them, however the bytes come."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from bench.token_path.engine import Pace, Wire, first_moment
from bench.token_path.watch import HttpWatch, Seen, delays, faults_in, follow, request, tokens_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_the_tokens_of_an_entry_are_read_also_where_several_were_put_together() -> None:
    data = json.dumps({"choices": [{"text": " 0:5:3 1:9", "index": 0}]}).encode()
    assert tokens_in(data, 12) == [Seen(0, 5, 3, 12), Seen(1, 9, 0, 12)]


def test_a_delay_is_from_the_writing_to_the_seeing() -> None:
    assert delays([Seen(0, 1_000_000, 0, 3_500_000)]) == [2.5]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 1, 2], ""),
        ([0, 2], "1 missing"),
        ([0, 1, 1, 2], "1 doubled"),
        ([0, 1, 1], "1 missing, 1 doubled"),
        ([18, 0, 1, 2], "1 strange"),
        ([0, 2, 1], "in a wrong order"),
        ([], "3 missing"),
    ],
)
def test_what_is_wrong_with_a_stream_is_said(numbers: list[int], expected: str) -> None:
    assert faults_in(numbers, 3) == expected


@asynccontextmanager
async def double(rate: float) -> AsyncGenerator[int]:
    pace = Pace(rate)
    server = await asyncio.get_running_loop().create_server(lambda: Wire(pace, 4), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("rate", [0, 2000])
@pytest.mark.parametrize(
    ("path", "length"), [("/completion", "n_predict"), ("/v1/chat/completions", "max_completion_tokens")]
)
async def test_each_stream_of_the_double_is_whole_and_in_order(rate: float, path: str, length: str) -> None:
    async with double(rate) as port, asyncio.timeout(30):
        found = await follow(port, request(path, {length: 50, "stream": True}), 3)
    for watch in found:
        assert faults_in([one.number for one in watch.seen], 50) == ""
        assert watch.seen[0].asked <= watch.seen[0].written <= watch.seen[0].seen
        assert min(delays(watch.seen)) >= 0


async def test_the_double_keeps_its_pace() -> None:
    async with double(200) as port, asyncio.timeout(30):
        (watch,) = await follow(port, request("/completion", {"n_predict": 41}), 1)
    took = (watch.seen[-1].written - watch.seen[0].asked) / 1e9
    assert took >= 0.19, "40 gaps of 5 ms, the last of which may come a little early"


def test_streams_have_their_tokens_at_the_same_moments_whenever_they_begin() -> None:
    assert [first_moment(now, 0.25, 0) for now in (10.0, 10.01, 10.24, 10.26)] == [10.0, 10.25, 10.25, 10.5]


def test_or_at_moments_that_are_evenly_spread() -> None:
    moments = sorted(first_moment(10.0, 1.0, number) for number in range(1, 9))
    assert all(10 <= moment < 11 for moment in moments)
    gaps = [later - one for one, later in itertools.pairwise([*moments, moments[0] + 1])]
    assert min(gaps) > 1 / 8 / 2
    assert max(gaps) < 2 / 8


async def test_bytes_that_come_one_by_one_are_read_like_whole_ones() -> None:
    pace, answer = Pace(0), bytearray()
    async with asyncio.timeout(30):
        server = await asyncio.get_running_loop().create_server(lambda: Wire(pace, 4), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(request("/completion", {"n_predict": 3}))
            while not answer.endswith(b"0\r\n\r\n"):
                answer += await reader.read(65536)
            writer.close()
    watch = HttpWatch(b"")
    for byte in answer[:-1]:
        watch.data_received(bytes([byte]))
    assert not watch.over.done()
    assert faults_in([one.number for one in watch.seen], 3) == ""


async def test_an_answer_that_is_cut_is_a_failure() -> None:
    watch = HttpWatch(b"")
    watch.data_received(b"HTTP/1.1 200 OK\r\ndate: Sat, 28 Nov 2026 18:59:30 GMT\r\n\r\n")
    watch.data_received(b'data: {"content":" 0:1:1"}\n\n')
    assert [one.number for one in watch.seen] == [0], "a time of day is no token"
    watch.connection_lost(None)
    with pytest.raises(ConnectionError, match="cut"):
        await watch.over
