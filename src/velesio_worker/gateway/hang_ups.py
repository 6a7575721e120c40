"""Clients that hang up while they are answered: what is done for one ends with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from starlette.types import Receive, Scope

from velesio_worker.gateway.seen import WHEN_LOST


@asynccontextmanager
async def until_hung_up(scope: Scope, receive: Receive) -> AsyncGenerator[None, None]:
    """Cancel the block, and go on behind it, should the client of a request hang up; its body has to be read before."""
    if (when_lost := scope.get("state", {}).get(WHEN_LOST)) is not None:
        with anyio.CancelScope() as gone:
            when_lost(gone.cancel)
            yield
        return
    trouble: Exception | None = None
    async with anyio.create_task_group() as tasks:

        async def notice() -> None:
            await _hung_up(receive)
            tasks.cancel_scope.cancel()

        tasks.start_soon(notice)
        try:
            yield
        except Exception as error:  # noqa: BLE001 (raised behind the group, which would put it into one of its own)
            trouble = error
        tasks.cancel_scope.cancel()
    if trouble is not None:
        raise trouble


async def _hung_up(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
