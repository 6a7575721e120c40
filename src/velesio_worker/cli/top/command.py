"""The command itself: the live view, or one picture for scripts."""

from __future__ import annotations

import importlib
import sys
import time
from functools import partial
from typing import Annotated, Final

import anyio
import typer

from velesio_worker.cli.base import print_json, print_table
from velesio_worker.cli.redis_trouble import run_with_redis
from velesio_worker.cli.top.arranging import Order, arranged
from velesio_worker.cli.top.watch import Picture, Watch
from velesio_worker.cli.top.writing import as_json, lines
from velesio_worker.client import Client
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.settings import LogFormat, Settings
from velesio_worker.wire.errors import VelesioError
from velesio_worker.wire.printable import printable

_RATE_SECONDS: Final = 3.0
"""How long one picture waits for the rates of workers that are at work: they tell their tokens with each beat."""

_AGAIN_SECONDS: Final = 0.25


def command(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print the fleet once, as a table.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --once: print it for programs.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Look so often, in seconds.")] = 1.0,
    sort: Annotated[Order, typer.Option(help="Sort jobs by this.")] = Order.AGE,
    words: Annotated[str, typer.Option("--filter", help="Only jobs whose id, type or worker has these words.")] = "",
) -> int:
    """See the fleet: workers, queues and running jobs, live in the terminal; ? tells the keys."""
    configure_logging("ERROR", LogFormat.CONSOLE)
    if once or json:
        return run_with_redis(partial(_print_once, json=json, sort=sort, words=words))
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise VelesioError("this is no terminal: --once prints the fleet once, --once --json for programs")
    try:
        importlib.import_module("textual")  # an extra
    except ModuleNotFoundError:
        raise VelesioError("top needs textual, which is not installed: pip install 'velesio-worker[top]'") from None
    return run_with_redis(partial(_show, interval=interval, sort=sort, words=words))


async def _print_once(settings: Settings, *, json: bool, sort: Order, words: str) -> int:
    async with Client(settings.redis_url, queue_name=settings.queue_name) as client:
        picture = await _picture(client)
    jobs = arranged(picture.jobs, sort, words=words)
    if json:
        print_json(as_json(picture, settings.queue_name, jobs))
        return 0
    for part in lines(picture, settings.queue_name, jobs):
        if isinstance(part, str):
            print(printable(part))
        else:
            print_table(part)
    return 0


async def _picture(client: Client) -> Picture:
    """Look at the fleet; again, for a moment, while workers are at work whose rates take a second look."""
    watch = Watch()
    picture = watch.see(await client.look(), time.monotonic())
    with anyio.move_on_after(_RATE_SECONDS):
        while not watch.moved:
            await anyio.sleep(_AGAIN_SECONDS)
            picture = watch.see(await client.look(), time.monotonic())
    return picture


async def _show(settings: Settings, *, interval: float, sort: Order, words: str) -> int:
    from velesio_worker.cli.top.screen import Top  # noqa: PLC0415 (an extra)

    async with Client(settings.redis_url, queue_name=settings.queue_name) as client:
        top = Top(client, settings.queue_name, settings.redis_url, interval=interval, order=sort, words=words)
        await top.run_async()
    return top.return_code or 0
