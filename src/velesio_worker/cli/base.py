"""What the commands share: exit codes, the event loop, trouble with Redis in one line."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings import load_settings
from velesio_worker.queue.outage import remedy

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

Command = Callable[[argparse.Namespace], int]


def run_async(main: Callable[[], Awaitable[int]]) -> int:
    """Run a coroutine function on uvloop where it is installed."""
    fast = importlib.util.find_spec("uvloop") is not None
    return anyio.run(main, backend_options={"use_uvloop": fast})


def with_redis(command: Command) -> Command:
    """Have a command say in one line what its trouble with Redis is."""

    def run(arguments: argparse.Namespace) -> int:
        try:
            return command(arguments)
        except (AuthenticationError, NoPermissionError) as error:
            where = hide_password(load_settings().redis_url)
            trouble = f"Redis at {where} refuses the user or password ({error}): check REDIS_URL"
        except RedisError as error:
            trouble = remedy(error, load_settings().redis_url)
        print(f"error: {trouble}", file=sys.stderr)
        return EXIT_FAILED

    return run
