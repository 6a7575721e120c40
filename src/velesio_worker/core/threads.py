"""Threads for what may block for ever."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


async def aside(function: Callable[[], T]) -> T:
    """Run what may block in a thread that nobody waits for when the process ends.

    A folder on a server that is gone, or a GPU that hangs, may block for ever; anyio's own threads are waited for.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    Thread(target=_settle, args=(future, function), name="aside", daemon=True).start()
    return await asyncio.wrap_future(future)


def _settle(future: concurrent.futures.Future[T], function: Callable[[], T]) -> None:
    future.set_running_or_notify_cancel()
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001 (whoever waits gets it)
        future.set_exception(error)
