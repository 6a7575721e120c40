"""The command line: ``velesio-worker [run | doctor | health | settings | submit | dead | models | demo]``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from velesio_worker import __version__
from velesio_worker.cli import dead as cli_dead
from velesio_worker.cli import health as cli_health
from velesio_worker.cli import models as cli_models
from velesio_worker.cli.base import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Command, run_async, with_redis
from velesio_worker.cli.demo import run_demo
from velesio_worker.cli.doctor import command as cli_doctor
from velesio_worker.cli.show_settings import run_show_settings
from velesio_worker.cli.submit import json_object, run_submit
from velesio_worker.core.logs import configure_logging, get_logger
from velesio_worker.core.settings import LogFormat, load_settings, misspelt
from velesio_worker.wire.errors import SettingsError, VelesioError
from velesio_worker.worker import Worker


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
    submit.add_argument("--data", type=json_object, default={}, help="more parameters as JSON: '{\"temperature\": 0}'")
    submit.add_argument("--id", help="the job's id; drawn at random if left out")
    submit.add_argument("--json", action="store_true", help="print the result as JSON")
    cli_dead.add_parser(commands)
    cli_models.add_parser(commands)
    demo = commands.add_parser("demo", help="see it work on a Redis, a server and a model of its own")
    demo.add_argument("--prompt", help="what to ask")
    demo.add_argument("--chat", action="store_true", help="converse until Ctrl-D")
    return parser


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
        return run_async(main)
    except SettingsError:
        raise
    except VelesioError as error:
        log.critical(str(error), action="worker_failed", error=type(error).__name__)
        return EXIT_FAILED


def _run_demo(arguments: argparse.Namespace) -> int:
    configure_logging("ERROR", LogFormat.CONSOLE)

    async def main() -> int:
        return await run_demo(prompt=arguments.prompt, chat=arguments.chat)

    code = run_async(main)
    sys.stdout.flush()
    os._exit(code)  # a thread may still wait for a line of input


_COMMANDS: Final[Mapping[str, Command]] = {
    "run": _run_worker,
    "doctor": cli_doctor.run,
    "health": cli_health.run,
    "settings": run_show_settings,
    "submit": with_redis(run_submit),
    "dead": with_redis(cli_dead.run),
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
