"""``velesio-worker submit``: submit a job and print, or write, what it yields."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio
import typer
from redis.exceptions import RedisError

from velesio_worker.cli import submit_options as options
from velesio_worker.cli.base import EXIT_FAILED, complain, harmless, print_json
from velesio_worker.cli.progress import Note, spinner, step_bar
from velesio_worker.cli.redis_trouble import run_with_redis
from velesio_worker.cli.submit_images import Output, init_image
from velesio_worker.client import Client, JobOptions
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.settings import LogFormat, Settings
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.scripts import Scripts
from velesio_worker.wire.errors import JobError, VelesioError
from velesio_worker.wire.events import PROGRESS, START, TOKEN, StreamEvent

CANCEL_SECONDS: Final = 2.0
MOMENT_SECONDS: Final = 3.0
"""For so long a job waits before anybody wonders whether a worker lives."""

ANY_TIME: Final = 10**9
"""Seconds; every lease ends sooner."""


def command(  # noqa: PLR0913 (each is an option)
    context: typer.Context,
    prompt: options.Prompt = None,
    *,
    job_type: options.JobType = "chat_completion",
    data: options.Data = None,
    job_id: options.JobId = None,
    json: options.Json = False,
    priority: options.Priority = None,
    tenant: options.Tenant = None,
    session: options.Session = None,
    stream: options.Stream = False,
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    output: options.OutputPath = None,
    force: options.Force = False,
    show: options.Show = None,
    steps: options.Steps = None,
    width: options.Pixels = None,
    height: options.Pixels = None,
    seed: options.Seed = None,
    count: options.Count = None,
    negative: options.Negative = None,
    init: options.InitImage = None,
) -> int:
    """Submit a job and print, or write, what it yields; returns the exit code. Raises SettingsError."""
    configure_logging("WARNING", LogFormat.CONSOLE)
    _refuse_what_does_not_fit(context, job_type)
    image = {"steps": steps, "width": width, "height": height, "seed": seed, "batch_size": count}
    image |= {"negative_prompt": negative, "init_images": init and [init_image(init)]}
    whole = {name: value for name, value in image.items() if value is not None} | (data or {})
    turn = JobOptions(priority=priority, tenant=tenant, session=session)
    job_id = uuid.uuid4().hex if job_id is None else job_id
    if job_type in options.TAKEN_BY[options.IMAGES]:
        if job_type == "img2img" and "init_images" not in whole:
            raise typer.BadParameter("img2img needs --init-image FILE")
        images = Output(output, force=force, show=show, json=json)
        images.check(job_id, whole)
        answer = partial(_take_images, output=images)
    else:
        answer = partial(_print_answer, stream=stream, json=json or job_type == "embedding")
    text = sys.stdin.read() if prompt is None or prompt == "-" else prompt
    whole = _job_data(job_type, text, system, max_tokens, stream=stream) | whole
    return _run(partial(Client.submit, job_type=job_type, data=whole, job_id=job_id, **turn), job_id, answer)


def _refuse_what_does_not_fit(context: typer.Context, job_type: options.Type) -> None:
    """Refuse an option that would have no effect. Raises typer.BadParameter."""
    for param in context.command.params:
        types = options.TAKEN_BY.get(getattr(param, "rich_help_panel", None) or "", (job_type,))
        source = context.get_parameter_source(param.name)
        if job_type not in types and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{param.opts[0]} is for --type {' and '.join(types)}, and not for {job_type}")


def _job_data(
    job_type: options.Type, text: str, system: str | None, max_tokens: int | None, *, stream: bool
) -> dict[str, Any]:
    if job_type == "embedding":
        return {"input": text}
    if job_type in options.TAKEN_BY[options.IMAGES]:
        return {"prompt": text}
    data: dict[str, Any] = {"stream": stream} | ({} if max_tokens is None else {"max_tokens": max_tokens})
    if job_type == "completion":
        return data | {"prompt": text}
    before = [{"role": "system", "content": system}] if system else []
    return data | {"messages": [*before, {"role": "user", "content": text}]}


def _run(
    submit: Callable[[Client], Awaitable[str]], job_id: str, answer: Callable[[Client, str], Awaitable[None]]
) -> int:
    async def main(settings: Settings) -> int:
        async with Client(settings.redis_url, queue_name=settings.queue_name) as client:
            await submit(client)
            print(f"job {job_id}", file=sys.stderr)
            try:
                await _answered(partial(answer, client, job_id), settings)
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                    await client.cancel(job_id)
                raise
        return 0

    try:
        return run_with_redis(main)
    except JobError as error:
        complain(f"{error} ({error.code})")
        return EXIT_FAILED


async def _print_answer(client: Client, job_id: str, *, stream: bool, json: bool) -> None:
    if stream and not json:
        async for event in client.events(job_id):
            if event.event == TOKEN:
                print(harmless(event.text), end="", flush=True)
            elif event.event == START and event.data.get("mode") == "restart":
                print("\n[the worker was lost; the answer begins anew]", file=sys.stderr)
        print()
    else:
        with spinner("waiting for a worker") as note:
            await _followed(client, job_id, note)
    result = await client.result(job_id)
    if json:
        print_json(result)
    elif not stream:
        print(harmless(str(result.get("text", ""))))


async def _take_images(client: Client, job_id: str, *, output: Output) -> None:
    with step_bar("waiting for a worker") as note:
        await _followed(client, job_id, note)
    output.take(job_id, await client.result(job_id))


async def _followed(client: Client, job_id: str, note: Note) -> None:
    async for event in client.events(job_id):
        _note(event, note)


def _note(event: StreamEvent, note: Note) -> None:
    """Show how far a job is; what is no number in an entry that no worker wrote is passed over."""
    data = event.data
    if event.event == START:
        note("it was begun anew" if data.get("mode") == "restart" else "begun")
    elif event.event == PROGRESS and data.get("stage") == "loading":
        note(f"the engine is {data.get('state')}")
    elif event.event == PROGRESS:
        prompt = data.get("stage") == "prompt"
        done, total = (data.get("processed"), data.get("total")) if prompt else (data.get("fraction"), 1)
        if isinstance(done, int | float) and isinstance(total, int | float):
            note("reading the prompt" if prompt else f"step {data.get('step')} of {data.get('steps')}", done, total)


async def _answered(answer: Callable[[], Awaitable[None]], settings: Settings) -> None:
    """Have the answer, however long it takes, and say meanwhile should there be nobody to give it."""
    trouble: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_tell_of_nobody, settings)
        try:
            await answer()
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
