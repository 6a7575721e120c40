"""The command line: ``velesio-worker [COMMAND]``; each command has a module here."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from velesio_worker import __version__
from velesio_worker.cli.base import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, harmless
from velesio_worker.wire.errors import SettingsError, VelesioError

_COMMANDS: Final = ("run", "doctor", "health", "settings", "acl", "submit", "dead", "models", "gateway", "demo")
"""Each has a module, which is imported for that command alone, and for help."""


def _module(command: str) -> Any:  # noqa: ANN401 (a module with add_parser and run)
    return importlib.import_module(f"velesio_worker.cli.{command}")


def parser(commands: Sequence[str] = _COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the command line, or of some of its commands."""
    whole = argparse.ArgumentParser(
        prog="velesio-worker",
        description="A GPU inference worker: jobs from Redis, tokens to Redis Streams as they are made.",
        epilog="Settings are environment variables: see velesio-worker settings.",
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {__version__}", help="print the version")
    actions = whole.add_subparsers(dest="command", title="commands")
    for command in commands:
        _module(command).add_parser(actions)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 a setting or an argument is wrong."""
    words = sys.argv[1:] if argv is None else argv
    named = (words or ["run"])[0]
    arguments = parser([named] if named in _COMMANDS else _COMMANDS).parse_args(words)
    try:
        code: int = _module(arguments.command or "run").run(arguments)
        sys.stdout.flush()
    except SettingsError as error:
        print(harmless(str(error)), file=sys.stderr)
        return EXIT_USAGE
    except VelesioError as error:
        print(f"error: {harmless(str(error))}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    else:
        return code
