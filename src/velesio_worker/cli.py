"""The command line: ``velesio-worker [run | doctor | health | settings | submit | dead | models | demo]``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import anyio
import orjson
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from velesio_worker import __version__, cli_dead, cli_doctor, cli_health, cli_models
from velesio_worker.client import Client
from velesio_worker.demo import run_demo
from velesio_worker.errors import JobError, SettingsError, VelesioError
from velesio_worker.events import START, TOKEN
from velesio_worker.logs import configure_logging, get_logger
from velesio_worker.queue.connection import remedy
from velesio_worker.settings import LogFormat, Settings, describe, hide_password, load_settings, misspelt
from velesio_worker.worker import Worker

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
CANCEL_SECONDS: Final = 2.0

Command = Callable[[argparse.Namespace], int]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="velesio-worker",
        description="A GPU inference worker: jobs from Redis, tokens to Redis Streams as they are made.",
        epilog="Settings are environment variables: see velesio-worker settings.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    commands.add_parser("run", help="run the worker (what happens without a command, too)")
    cli_doctor.add_parser(commands)
    cli_health.add_parser(commands)
    settings = commands.add_parser("settings", help="show every setting: value, source, default, meaning")
    settings.add_argument("--json", action="store_true", help="as JSON")
    submit = commands.add_parser("submit", help="submit a text job and print what it yields")
    submit.add_argument("prompt", nargs="?", help="the prompt; standard input if it is - or left out")
    submit.add_argument("--type", default="chat_completion", choices=("completion", "chat_completion"))
    submit.add_argument("--stream", action="store_true", help="print tokens as they come")
    submit.add_argument("--system", help="a system message in front of the prompt (chat_completion)")
    submit.add_argument("--max-tokens", type=int)
    submit.add_argument("--data", type=_json_object, default={}, help="more parameters as JSON: '{\"temperature\": 0}'")
    submit.add_argument("--id", help="the job's id; drawn at random if left out")
    submit.add_argument("--json", action="store_true", help="print the result as JSON")
    cli_dead.add_parser(commands)
    cli_models.add_parser(commands)
    demo = commands.add_parser("demo", help="see it work on a Redis, a server and a model of its own")
    demo.add_argument("--prompt", help="what to ask")
    demo.add_argument("--chat", action="store_true", help="converse until Ctrl-D")
    return parser


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def _run_async(main: Callable[[], Awaitable[int]]) -> int:
    """Run a coroutine function on uvloop where it is installed."""
    fast = importlib.util.find_spec("uvloop") is not None
    return anyio.run(main, backend_options={"use_uvloop": fast})


def _run_worker(_: argparse.Namespace) -> int:
    settings = load_settings()
    log = get_logger(__name__)

    async def main() -> int:
        worker = Worker(settings)
        configure_logging(settings.log_level, settings.log_format, worker=worker.id)
        for found, meant in misspelt(os.environ):
            log.warning(f"{found} is no setting; did you mean {meant}?", action="unknown_setting")
        await worker.run()
        return 0

    try:
        return _run_async(main)
    except SettingsError:
        raise
    except VelesioError as error:
        log.critical(str(error), action="worker_failed", error=type(error).__name__)
        return EXIT_FAILED


def _show_settings(arguments: argparse.Namespace) -> int:
    rows = describe(load_settings(), os.environ)
    if arguments.json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return 0
    for row in rows:
        value = "(not set)" if row["value"] is None else row["value"]
        default = "not set" if row["default"] is None else row["default"]
        print(f"{row['name']}={value}\n    {row['description']}\n    from {row['source']}; default: {default}")
    for found, meant in misspelt(os.environ):
        print(f"{found} is no setting; did you mean {meant}?", file=sys.stderr)
    return 0


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


async def _submit(settings: Settings, arguments: argparse.Namespace) -> int:
    async with Client(settings.redis_url, queue_name=settings.queue_name) as client:
        job_id = await client.submit(arguments.type, _job_data(arguments), job_id=arguments.id)
        print(f"job {job_id}", file=sys.stderr)
        try:
            await _print_answer(client, job_id, arguments)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                await client.cancel(job_id)
            raise
    return 0


async def _print_answer(client: Client, job_id: str, arguments: argparse.Namespace) -> None:
    if arguments.stream and not arguments.json:
        await _print_stream(client, job_id)
    result = await client.result(job_id)
    if arguments.json:
        print(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    elif not arguments.stream:
        print(result.get("text", ""))


async def _print_stream(client: Client, job_id: str) -> None:
    async for event in client.events(job_id):
        if event.event == TOKEN:
            print(event.text, end="", flush=True)
        elif event.event == START and event.data.get("mode") == "restart":
            print("\n[the worker was lost; the answer begins anew]", file=sys.stderr)
    print()


def _submit_job(arguments: argparse.Namespace) -> int:
    settings = load_settings()
    configure_logging("WARNING", LogFormat.CONSOLE)

    async def main() -> int:
        return await _submit(settings, arguments)

    try:
        return _run_async(main)
    except JobError as error:
        print(f"error: {error} ({error.code})", file=sys.stderr)
        return EXIT_FAILED


def _with_redis(command: Command) -> Command:
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


def _run_demo(arguments: argparse.Namespace) -> int:
    configure_logging("ERROR", LogFormat.CONSOLE)

    async def main() -> int:
        return await run_demo(prompt=arguments.prompt, chat=arguments.chat)

    code = _run_async(main)
    sys.stdout.flush()
    os._exit(code)  # a thread may still wait for a line of input


_COMMANDS: Final[Mapping[str, Command]] = {
    "run": _run_worker,
    "doctor": cli_doctor.run,
    "health": cli_health.run,
    "settings": _show_settings,
    "submit": _with_redis(_submit_job),
    "dead": _with_redis(cli_dead.run),
    "models": cli_models.run,
    "demo": _run_demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 a setting or an argument is wrong."""
    arguments = _parser().parse_args(argv)
    command = _COMMANDS[arguments.command or "run"]
    try:
        code = command(arguments)
        sys.stdout.flush()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except VelesioError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    else:
        return code
