"""The command line: ``velesio-worker [COMMAND]``; each command has a module here."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from velesio_worker import __version__
from velesio_worker.cli.base import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, complain, harmless
from velesio_worker.wire.errors import SettingsError, VelesioError

_NAME: Final = "velesio-worker"
_HELP: Final = ("--help", "-h")
_SERVE, _JOBS, _LOOK, _SET_UP = "Serve", "Jobs", "Look", "Set up"

Command = TypeVar("Command", bound=TyperCommand | TyperGroup)


class Row(NamedTuple):
    """A command: its module in this package, the panel of the help that it stands in, and what it does.

    The module has a function ``command``, which returns the exit code or None for 0; or an ``app`` with commands below.
    """

    module: str
    panel: str
    help: str


COMMANDS: Final[Mapping[str, Row]] = {
    "run": Row("run", _SERVE, "Run the worker (what happens without a command, too)."),
    "gateway": Row(
        "gateway",
        _SERVE,
        "Serve HTTP in front of the queue: OpenAI's, Anthropic's, the WebUI's and its own routes.",
    ),
    "serve": Row("serve", _SERVE, "Chat in the browser: Redis, workers, gateway and page, kept running until Ctrl-C."),
    "demo": Row("demo", _SERVE, "See it work on a Redis, a server and a model of its own."),
    "submit": Row("submit", _JOBS, "Submit a job, of text or images, and print or write what it yields."),
    "dead": Row("dead", _JOBS, "Look at dead letters, put their jobs back, or drop them."),
    "queue": Row("queue", _JOBS, "See who waits and what runs, move a tenant's waiting jobs, or drop them."),
    "top": Row("top", _LOOK, "See the fleet: workers, queues and running jobs, live in the terminal."),
    "health": Row(
        "health_command",
        _LOOK,
        "Ask the worker of this host how it is: exit code 0 if it can run jobs, else 1 and why not.",
    ),
    "doctor": Row("doctor", _LOOK, "Look whether a worker could work here, and what to do if not."),
    "settings": Row("settings", _LOOK, "Show every setting: value, source, default, meaning."),
    "models": Row("models", _SET_UP, "Download text models, or list those that are there."),
    "acl": Row("acl", _SET_UP, "Print Redis users with the rights that each needs, ready to paste."),
}
"""A module is imported for its own command alone, and not for help or completion."""


class _Commands(TyperGroup):
    """Knows of its commands what the table says, and loads the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401 (typer's own is private)
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if command is None or name is None else load(name), rest


def load(name: str) -> TyperCommand | TyperGroup:
    """Import a command of the table."""
    row = COMMANDS[name]
    module: Any = importlib.import_module(f"velesio_worker.cli.{row.module}")
    app: typer.Typer | None = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command(name, help=row.help)(module.command)
    command = get_command(app)
    assert isinstance(command, TyperCommand | TyperGroup)  # noqa: S101 (tells the type)
    command.name, command.help = name, row.help
    return _tidy(command)


def command_line() -> TyperGroup:
    """Return the whole command line, its commands as the table has them; ``load`` gives one with its parameters."""
    app = typer.Typer(
        cls=_Commands,
        help="A GPU inference worker: jobs from Redis, tokens to Redis Streams as they are made.",
        epilog="Settings are environment variables: see velesio-worker settings.",
        context_settings={"help_option_names": list(_HELP)},
    )
    app.callback()(_root)
    for name, row in COMMANDS.items():
        app.command(name, help=row.help, rich_help_panel=row.panel)(_root_of_none)
    whole = get_command(app)
    assert isinstance(whole, TyperGroup)  # noqa: S101 (it has a callback)
    return _tidy(whole)


def _tidy(command: Command) -> Command:
    """Leave out of the help that a flag is a ``<bool>``."""
    for param in command.get_params(typer.Context(command, help_option_names=list(_HELP))):
        if getattr(param, "is_flag", False):
            param.metavar = ""
    for below in getattr(command, "commands", {}).values():
        _tidy(below)
    return command


def _show_version(asked: bool) -> None:  # noqa: FBT001 (typer's way)
    if asked:
        print(f"{_NAME} {__version__}")
        raise typer.Exit


def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def _root_of_none() -> None: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 a wrong setting or argument, 130 Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code: int | None = command_line().main(words or ["run"], _NAME, standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        complain(_sentence(error))
        return EXIT_USAGE
    except SettingsError as error:
        print(harmless(str(error)), file=sys.stderr)
        return EXIT_USAGE
    except VelesioError as error:
        complain(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    else:
        return code or 0


def _sentence(error: typer.TyperException) -> str:
    """Say in one sentence what is wrong with the arguments, and where it stands what there is."""
    text = error.format_message().rstrip(".").removeprefix("Invalid value: ").replace("Value error, ", "")
    text = re.sub(r"\.? (?:Did you mean|\(Possible options:) ([^?)]+)[?)]", _meant, text)
    context: typer.Context | None = getattr(error, "ctx", None)
    where = "" if context is None else f": see {context.command_path} --help"
    return f"{text[:1].lower()}{text[1:]}{where}"


def _meant(found: re.Match[str]) -> str:
    meant = found[1].replace("'", "")
    return f" (did you mean {meant}?)"
