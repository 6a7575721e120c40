"""Clients that hang up while they are answered: what is done for one ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
from starlette.types import Receive, Scope

from velesio_worker.gateway.seen import LINE, Line


def until_hung_up(scope: Scope, receive: Receive) -> AbstractAsyncContextManager[object]:
    """Cancel the block, and go on behind it, should the client of a request hang up; its body has to be read before.

    The block is cancelled as a task is, once: on its way out it awaits nothing that lasts.
    """
    line: Line | None = scope.get("state", {}).get(LINE)
    return _told_by_server(receive) if line is None else _UntilLost(line)


class _UntilLost:
    """The same for a connection that tells; a cancel scope would take a kilobyte of each viewer."""

    __slots__ = ("_cancelled", "_line", "_others", "_task")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._task: asyncio.Task[object] | None = None
        self._others = 0
        self._cancelled = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._others = 0 if self._task is None else self._task.cancelling()
        self._line.when_lost(self._cancel)

    async def __aexit__(self, _: object, error: BaseException | None, _traceback: object) -> bool:
        task, self._task = self._task, None
        if task is None or not self._cancelled:
            return False
        is_alone = task.uncancel() <= self._others  # else somebody else wants the whole task to end
        return is_alone and isinstance(error, asyncio.CancelledError)

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancelled = self._task.cancel()


@asynccontextmanager
async def _told_by_server(receive: Receive) -> AsyncGenerator[None, None]:
    """The same for any server: it says so to whoever asks."""
    trouble: Exception | None = None
    async with anyio.create_task_group() as tasks:

        async def notice() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(notice)
        try:
            yield
        except Exception as error:  # noqa: BLE001 (raised behind the group, which would put it into one of its own)
            trouble = error
        tasks.cancel_scope.cancel()
    if trouble is not None:
        raise trouble
