"""``velesio-worker submit``: submit a text job and print what it yields."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any, Final

import anyio
import orjson
from redis.exceptions import RedisError

from velesio_worker.cli.base import EXIT_FAILED, Commands, harmless, print_json
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


def add_parser(commands: Commands) -> None:
    """Add the command to the command line."""
    submit = commands.add_parser("submit", help="submit a text job and print what it yields")
    submit.add_argument("prompt", nargs="?", help="the prompt; standard input if it is - or left out")
    submit.add_argument("--type", default="chat_completion", choices=("completion", "chat_completion"), help="its type")
    submit.add_argument("--stream", action="store_true", help="print tokens as they come")
    submit.add_argument("--system", help="a system message in front of the prompt (chat_completion)")
    submit.add_argument("--max-tokens", type=int, help="the most tokens of the answer")
    submit.add_argument("--data", type=_json_object, default={}, help="more parameters as JSON: '{\"temperature\": 0}'")
    submit.add_argument("--id", help="the job's id; drawn at random if left out")
    submit.add_argument("--json", action="store_true", help="print the result as JSON")


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def _job_data(arguments: argparse.Namespace) -> dict[str, Any]:
    prompt = arguments.prompt
    if prompt in {None, "-"}:
        prompt = sys.stdin.read()
    data: dict[str, Any] = {"stream": arguments.stream}
    if arguments.max_tokens is not None:
        data["max_tokens"] = arguments.max_tokens
    if arguments.type == "completion":
        data["prompt"] = prompt
    else:
        system = [{"role": "system", "content": arguments.system}] if arguments.system else []
        data["messages"] = [*system, {"role": "user", "content": prompt}]
    return data | arguments.data


async def _print_answer(client: Client, job_id: str, arguments: argparse.Namespace) -> None:
    if arguments.stream and not arguments.json:
        async for event in client.events(job_id):
            if event.event == TOKEN:
                print(harmless(event.text), end="", flush=True)
            elif event.event == START and event.data.get("mode") == "restart":
                print("\n[the worker was lost; the answer begins anew]", file=sys.stderr)
        print()
    result = await client.result(job_id)
    if arguments.json:
        print_json(result)
    elif not arguments.stream:
        print(harmless(str(result.get("text", ""))))


async def _answered(client: Client, job_id: str, arguments: argparse.Namespace, settings: Settings) -> None:
    """Print the answer, however long it takes, and say meanwhile should there be nobody to give it."""
    trouble: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_tell_of_nobody, settings)
        try:
            await _print_answer(client, job_id, arguments)
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


def run(arguments: argparse.Namespace) -> int:
    """Run ``velesio-worker submit``; returns the exit code. Raises SettingsError."""
    configure_logging("WARNING", LogFormat.CONSOLE)

    async def main(settings: Settings) -> int:
        async with Client(settings.redis_url, queue_name=settings.queue_name) as client:
            job_id = await client.submit(arguments.type, _job_data(arguments), job_id=arguments.id)
            print(f"job {job_id}", file=sys.stderr)
            try:
                await _answered(client, job_id, arguments, settings)
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                    await client.cancel(job_id)
                raise
        return 0

    try:
        return run_with_redis(main)
    except JobError as error:
        print(f"error: {harmless(str(error))} ({harmless(error.code)})", file=sys.stderr)
        return EXIT_FAILED
