"""``velesio-worker submit``: submit a text job and print what it yields."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, Literal

import anyio
import orjson
import typer
from redis.exceptions import RedisError

from velesio_worker.cli.base import EXIT_FAILED, harmless, print_json
from velesio_worker.cli.redis_trouble import run_with_redis
from velesio_worker.client import Client
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.settings import LogFormat, Settings
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.scripts import Scripts
from velesio_worker.wire.errors import JobError, VelesioError
from velesio_worker.wire.events import START, TOKEN

CANCEL_SECONDS: Final = 2.0
MOMENT_SECONDS: Final = 3.0
"""For so long a job waits before anybody wonders whether a worker lives."""

ANY_TIME: Final = 10**9
"""Seconds; every lease ends sooner."""


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("not a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


async def _print_answer(client: Client, job_id: str, *, stream: bool, json: bool) -> None:
    if stream and not json:
        async for event in client.events(job_id):
            if event.event == TOKEN:
                print(harmless(event.text), end="", flush=True)
            elif event.event == START and event.data.get("mode") == "restart":
                print("\n[the worker was lost; the answer begins anew]", file=sys.stderr)
        print()
    result = await client.result(job_id)
    if json:
        print_json(result)
    elif not stream:
        print(harmless(str(result.get("text", ""))))


async def _told_of_nobody(settings: Settings, wait: Callable[[], Awaitable[None]]) -> None:
    """Wait for the answer, however long it takes, and say meanwhile should there be nobody to give it."""
    trouble: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_tell_of_nobody, settings)
        try:
            await wait()
        except (VelesioError, RedisError) as error:
            trouble = error
        group.cancel_scope.cancel()
    if trouble is not None:
        raise trouble


async def _tell_of_nobody(settings: Settings) -> None:
    """Say once that no worker of the queue lives, should that be so; a user who may not look says nothing."""
    redis = connect(settings.redis_url, name="velesio-client")
    keys = Keys(settings.queue_name)
    try:
        with contextlib.suppress(RedisError):
            lives = True
            while lives:
                await anyio.sleep(MOMENT_SECONDS)
                lives = any(lease.left > 0 for lease in await Scripts(redis).leases(keys, ANY_TIME))
            print(
                f"no worker of the queue {settings.queue_name} lives: the job waits until one starts "
                "(velesio-worker run), perhaps with another QUEUE_NAME; velesio-worker doctor shows the queue",
                file=sys.stderr,
            )
    finally:
        with anyio.move_on_after(CANCEL_SECONDS, shield=True):
            await redis.aclose()


TextType = Literal["completion", "chat_completion"]


def command(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The prompt; standard input if it is - or left out.")
    ] = None,
    *,
    job_type: Annotated[TextType, typer.Option("--type", help="Its type.")] = "chat_completion",
    stream: Annotated[bool, typer.Option("--stream", help="Print tokens as they come.")] = False,
    system: Annotated[
        str | None, typer.Option(help="A system message in front of the prompt (chat_completion).")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens of the answer.")] = None,
    data: Annotated[
        dict[str, Any] | None,
        typer.Option(parser=_json_object, metavar="JSON", help="More parameters: '{\"temperature\": 0}'."),
    ] = None,
    job_id: Annotated[str | None, typer.Option("--id", help="The job's id; drawn at random if left out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Submit a job and print what it yields; returns the exit code. Raises SettingsError."""
    configure_logging("WARNING", LogFormat.CONSOLE)
    text = sys.stdin.read() if prompt in {None, "-"} else prompt
    whole: dict[str, Any] = {"stream": stream}
    if max_tokens is not None:
        whole["max_tokens"] = max_tokens
    if job_type == "completion":
        whole["prompt"] = text
    else:
        before = [{"role": "system", "content": system}] if system else []
        whole["messages"] = [*before, {"role": "user", "content": text}]

    async def main(settings: Settings) -> int:
        async with Client(settings.redis_url, queue_name=settings.queue_name) as client:
            new = await client.submit(job_type, whole | (data or {}), job_id=job_id)
            print(f"job {new}", file=sys.stderr)
            try:
                await _told_of_nobody(settings, partial(_print_answer, client, new, stream=stream, json=json))
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                    await client.cancel(new)
                raise
        return 0

    try:
        return run_with_redis(main)
    except JobError as error:
        print(f"error: {harmless(str(error))} ({harmless(error.code)})", file=sys.stderr)
        return EXIT_FAILED
