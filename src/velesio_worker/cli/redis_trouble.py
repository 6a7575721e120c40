"""Trouble with Redis, told in one line."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from velesio_worker.cli.base import EXIT_FAILED
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings import load_settings
from velesio_worker.queue.outage import remedy


def with_redis(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Have a command say in one line what its trouble with Redis is."""

    @functools.wraps(command)
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
