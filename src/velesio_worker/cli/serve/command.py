"""The command itself: starts the parts, says when a request can be answered, and ends all of them."""

from __future__ import annotations

import os
import sys
import tempfile
import webbrowser
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from velesio_worker.cli.base import run_async
from velesio_worker.cli.parts import COMMAND, own_redis
from velesio_worker.cli.serve.images import find_images
from velesio_worker.cli.serve.keeping import Part
from velesio_worker.cli.serve.plan import HOST, PORT, Plan, choose_port, model_settings
from velesio_worker.cli.serve.readiness import until_ready
from velesio_worker.cli.serve.running import Running
from velesio_worker.cli.serve.voice import Journal, Voice
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings import LogFormat
from velesio_worker.core.threads import aside
from velesio_worker.wire.errors import VelesioError

_PREFIX: Final = "velesio-serve-"
_MOST_WORKERS: Final = 64
_NAME: Final = "velesio-worker"


def command(  # noqa: PLR0913 (a command's options)
    *,
    model: Annotated[
        str | None, typer.Option(help="A GGUF file, a URL of one, or hf:owner/repo/file. Default: MODEL_PATH.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=_MOST_WORKERS, help="So many workers, each with its model.")] = 1,
    redis_url: Annotated[
        str | None, typer.Option(help="Use this Redis, with the jobs that wait in it. Default: one of its own.")
    ] = None,
    host: Annotated[str | None, typer.Option(help=f"The address of page and API. Default: {HOST}.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help=f"Its port. Default: {PORT}, or the next one that is free.")
    ] = None,
    sd: Annotated[Path | None, typer.Option(help="An sd-server. Default: on PATH, or in data/binaries.")] = None,
    sd_model: Annotated[
        Path | None, typer.Option(help="The image model, a file or a folder. Default: SD_MODEL_PATH.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Keep what the parts write in this file.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print what the parts write.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> int:
    """Chat in the browser: Redis, workers, gateway and page, kept running until Ctrl-C.

    Settings of workers and gateway hold (GPU_LAYERS, CONTEXT_SIZE, LLM_CONCURRENCY, API_TOKENS), REDIS_URL does not:
    whoever exports that for other purposes would have the jobs of others run here.
    """
    configure_logging("ERROR", LogFormat.CONSOLE)
    environ = os.environ
    where = host or environ.get("GATEWAY_HOST") or HOST
    wanted = port or _number(environ.get("GATEWAY_PORT"))
    images = find_images(sd, sd_model, environ)
    chosen = model_settings(model, environ)
    voice, free = Voice(), choose_port(where, wanted)
    if wanted is None and free != PORT:
        voice.say(f"port {PORT} is taken: the page is on {free} (--port chooses another)")
    plan = Plan(redis_url or "", where, free, workers, chosen, images, redis_url is None, dict(environ))
    return run_async(partial(_serve, plan, voice, log, aloud=verbose, browser=open_))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


async def _serve(plan: Plan, voice: Voice, log: Path | None, *, aloud: bool, browser: bool) -> int:
    """Run all of it until a signal comes, or it cannot go on."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        try:
            journal = Journal(log or Path(folder) / "log", aloud=aloud)
        except OSError as error:
            raise VelesioError(f"--log {log}: {error.strerror}") from None
        running = Running(voice)
        with journal:
            await running.run(partial(_all, plan, running, voice, journal, Path(folder), browser=browser))
    voice.say("all of it has ended")
    return 0


async def _all(plan: Plan, running: Running, voice: Voice, journal: Journal, folder: Path, *, browser: bool) -> None:
    async with AsyncExitStack() as stack:
        if plan.own_redis:
            say = partial(_say_where, voice)
            redis = await stack.enter_async_context(own_redis(_PREFIX, say, journal.of("Redis")))
            plan = replace(plan, redis_url=redis.url)
            running.watch("Redis", redis.process)
        else:
            voice.say(f"Redis at {hide_password(plan.redis_url)}")
        if plan.own_redis and plan.environ.get("REDIS_URL"):
            voice.say("REDIS_URL is set and not used: --redis-url uses a Redis that is there")
        voice.say(plan.images.said)
        parts = _parts(plan, voice, journal)
        async with running.kept(parts):
            await until_ready(plan, parts, voice, journal)
            _say_ready(plan, voice, journal, _key(plan, folder))
            if browser:
                await aside(partial(webbrowser.open, plan.address))
            await running.over()


def _say_where(voice: Voice, port: int, program: str) -> None:
    voice.say(f"Redis on {HOST}:{port} ({program})")


def _parts(plan: Plan, voice: Voice, journal: Journal) -> list[Part]:
    """Return the workers, and then the gateway."""
    parts: list[Part] = []
    for number in range(1, plan.workers + 1):
        name = f"worker {number}" if plan.workers > 1 else "worker"
        environment = partial(plan.worker, number)
        parts.append(Part(name, [*COMMAND, "run"], environment, voice.say, journal.of(name)))
    parts.append(Part("gateway", [*COMMAND, "gateway"], plan.gateway, voice.say, journal.of("gateway")))
    return parts


def _key(plan: Plan, folder: Path) -> str:
    """Return how other commands are told where Redis is; its password stands in a file of this user's alone."""
    if not plan.own_redis:
        return "REDIS_URL=…"
    file = folder / "redis-url"
    file.touch(mode=0o600)
    file.write_text(plan.redis_url, encoding="utf-8")
    return f"REDIS_URL_FILE={file}"


def _myself() -> str:
    """Return how this command line was called, so that the next call of it can be pasted."""
    called = Path(sys.argv[0])
    return str(called) if called.name == _NAME else _NAME


def _say_ready(plan: Plan, voice: Voice, journal: Journal, key: str) -> None:
    said = {"Chat": f"{plan.address}/", "Fleet": f"{key} {_myself()} top", "Logs": str(journal.path), "End": "Ctrl-C"}
    voice.show("\n" + "".join(f"  {name:<7} {text}\n" for name, text in said.items()))
