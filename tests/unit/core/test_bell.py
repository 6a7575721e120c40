"""A bell wakes all who listen by then, once, whoever of them left meanwhile."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from velesio_worker.core.bell import Bell

pytestmark = pytest.mark.anyio


async def test_a_ring_wakes_all_who_wait_and_nobody_later() -> None:
    bell, woken = Bell(), list[str]()

    async def wait(name: str) -> None:
        await bell.wait()
        woken.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(wait, "first")
        group.start_soon(wait, "second")
        await anyio.lowlevel.checkpoint()
        bell.ring()
        group.start_soon(wait, "late")
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert sorted(woken) == ["first", "second"]
        bell.ring()
    assert woken[2:] == ["late"]


async def test_whoever_listened_before_a_ring_does_not_wait_after_it() -> None:
    bell = Bell()
    rung = bell.listen()
    bell.ring()
    with anyio.fail_after(5):
        await rung.wait()


async def test_one_who_gives_up_keeps_nobody_from_being_woken() -> None:
    bell = Bell()
    rung = bell.listen()
    with anyio.move_on_after(0):
        await rung.wait()
    async with anyio.create_task_group() as group:
        group.start_soon(rung.wait)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await rung.wait()
        await anyio.lowlevel.checkpoint()
        bell.ring()
