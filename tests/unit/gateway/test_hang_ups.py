"""The wait for a client that hangs up: its block ends with it, and nothing but that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message

from velesio_worker.gateway.hang_ups import until_hung_up
from velesio_worker.gateway.seen import LINE

pytestmark = pytest.mark.anyio


class LineDouble:
    """A connection that is lost when told."""

    def __init__(self, *, lost: bool = False) -> None:
        self._lost = lost
        self._call: Callable[[], None] | None = None

    def when_lost(self, call: Callable[[], None]) -> None:
        if self._lost:
            call()
        self._call = call

    def send_piece(self, chunk: bytes) -> Awaitable[None] | None:
        pytest.fail(f"nobody sends {chunk!r}")

    def lose(self) -> None:
        assert self._call is not None
        self._call()


async def receive() -> Message:
    pytest.fail("nobody asks the server")


@pytest.fixture
def line() -> LineDouble:
    return LineDouble()


@pytest.fixture
def scope(line: LineDouble) -> dict[str, object]:
    return {"state": {LINE: line}}


async def test_the_block_ends_with_the_connection_and_what_follows_goes_on(
    scope: dict[str, object], line: LineDouble
) -> None:
    asyncio.get_running_loop().call_soon(line.lose)
    async with until_hung_up(scope, receive):
        await anyio.sleep_forever()
    await anyio.lowlevel.checkpoint()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_connection_that_is_lost_already_ends_it_at_once() -> None:
    async with until_hung_up({"state": {LINE: LineDouble(lost=True)}}, receive):
        await anyio.sleep_forever()


async def test_a_group_of_tasks_within_ends_whole(scope: dict[str, object], line: LineDouble) -> None:
    ended: list[int] = []

    async def wait(index: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(index)

    async with until_hung_up(scope, receive), anyio.create_task_group() as tasks:
        for index in range(3):
            tasks.start_soon(wait, index)
        await anyio.wait_all_tasks_blocked()
        asyncio.get_running_loop().call_soon(line.lose)
    assert sorted(ended) == [0, 1, 2]


async def test_what_follows_is_not_cancelled_when_the_connection_is_lost_behind_the_block(
    scope: dict[str, object], line: LineDouble
) -> None:
    async with until_hung_up(scope, receive):
        await anyio.lowlevel.checkpoint()
    line.lose()
    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("loses", [False, True])
async def test_who_wants_the_whole_task_to_end_gets_that_though_the_connection_is_lost_too(*, loses: bool) -> None:
    line = LineDouble()
    began, went_on = asyncio.Event(), False

    async def work() -> None:
        nonlocal went_on
        async with until_hung_up({"state": {LINE: line}}, receive):
            began.set()
            await anyio.sleep_forever()
        went_on = True

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    if loses:
        line.lose()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not went_on


async def test_an_error_within_is_told_though_the_connection_was_lost(
    scope: dict[str, object], line: LineDouble
) -> None:
    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError

    asyncio.get_running_loop().call_soon(line.lose)
    with pytest.raises(KeyError):
        async with until_hung_up(scope, receive):
            await fail()


async def test_of_another_server_it_is_asked() -> None:
    messages: list[Message] = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]

    async def told() -> Message:
        await anyio.lowlevel.checkpoint()
        return messages.pop(0)

    async with until_hung_up({"state": {}}, told):
        await anyio.sleep_forever()
    assert messages == []
