"""Trouble with Redis, told in one line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from redis.exceptions import RedisError

from velesio_worker.cli.base import run_async
from velesio_worker.core.settings import Settings, load_settings
from velesio_worker.queue.remedies import remedy
from velesio_worker.wire.errors import VelesioError


def run_with_redis(main: Callable[[Settings], Awaitable[int]]) -> int:
    """Run a command that needs Redis; returns its exit code.

    Raises:
        SettingsError: a setting has a wrong value.
        VelesioError: what the command raises, and what its trouble with Redis is.
    """
    settings = load_settings()
    try:
        return run_async(partial(main, settings))
    except RedisError as error:
        raise VelesioError(remedy(error, settings.redis_url)) from None
