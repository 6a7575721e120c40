"""The command line's part for models: ``velesio-worker models [pull | list]``."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

from velesio_worker.cli.base import Commands, print_json, print_table
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.model_source import ModelSource, hub_token, parse_model_source
from velesio_worker.core.secrets import unread
from velesio_worker.core.settings import LogFormat, Settings, load_settings
from velesio_worker.engines.models.download import OnProgress, download
from velesio_worker.engines.models.folder import ModelFolder
from velesio_worker.engines.models.meter import MEBIBYTE, Meter
from velesio_worker.wire.errors import SettingsError

_REDRAW_SECONDS: Final = 0.2
_HEADINGS: Final = ("model", "architecture", "parameters", "context", "size", "hash", "")
_BILLION: Final = 1e9


def add_parser(commands: Commands) -> None:
    """Add ``models`` and its commands to the command line."""
    models = commands.add_parser("models", help="download text models, or list those that are there")
    actions = models.add_subparsers(dest="action", title="commands", required=True)
    pull = actions.add_parser("pull", help="download a model into the folder of MODEL_PATH")
    pull.add_argument("source", type=_source, metavar="SOURCE", help="a URL or hf:owner/repo/file, #sha256=… behind it")
    pull.add_argument("--to", type=Path, metavar="FILE", help="where to put it instead")
    pull.add_argument("--sha256", type=_sha256, metavar="HEX", help="the checksum that it must have")
    listing = actions.add_parser("list", help="the models in the folder of MODEL_PATH")
    listing.add_argument("--json", action="store_true", help="as JSON (loaded: the one that MODEL_PATH names)")


def _source(text: str) -> ModelSource:
    try:
        return parse_model_source(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{unread(text)!r} must be {error}") from None


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no SHA-256: 64 hexadecimal digits")
    return text.lower()


def run(arguments: argparse.Namespace) -> int:
    """Run ``velesio-worker models``; returns the exit code.

    Raises:
        SettingsError: a setting or an argument has a wrong value.
        ModelDownloadError: the model could not be had.
    """
    configure_logging("WARNING", LogFormat.CONSOLE)
    return _ACTIONS[arguments.action](load_settings(), arguments)


def _pull(settings: Settings, arguments: argparse.Namespace) -> int:
    source: ModelSource = arguments.source
    if arguments.sha256 is not None:
        if source.sha256 not in {None, arguments.sha256}:
            raise SettingsError("--sha256 and #sha256= name two checksums: leave one out")
        source = replace(source, sha256=arguments.sha256)
    target: Path = (arguments.to or settings.model_path.parent / source.filename).absolute()
    if target.is_dir():
        target /= source.filename
    token = hub_token()
    was_there = target.exists()
    try:
        with _progress() as report:
            sha256 = anyio.run(partial(download, source, target, token=token, on_progress=report))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise
    if was_there:
        print("it was there already: remove it to download it anew", file=sys.stderr)
    print(target, flush=True)
    if sha256 is not None and source.sha256 is None:
        print(f"its SHA-256 is {sha256}; to have no other: #sha256={sha256} behind the source", file=sys.stderr)
    print(f"to use it: MODEL_PATH={shlex.quote(str(target))}", file=sys.stderr)
    return 0


@contextmanager
def _progress() -> Generator[OnProgress, None, None]:
    """Show on standard error how a download goes: one line, rewritten, on a terminal; elsewhere a line now and then."""
    meter, terminal, drawn = Meter(), sys.stderr.isatty(), 0.0

    def report(done: int, total: int | None) -> None:
        nonlocal drawn
        meter.note(done, total)
        if terminal and (done == total or time.monotonic() >= drawn + _REDRAW_SECONDS):
            drawn = time.monotonic()
            print(f"{meter}\x1b[K", end="\r", file=sys.stderr, flush=True)  # whatever is logged next overwrites it
        elif not terminal and meter.is_due():
            print(meter, file=sys.stderr, flush=True)

    try:
        yield report
    finally:
        if drawn:
            print(file=sys.stderr)


def _list(settings: Settings, arguments: argparse.Namespace) -> int:
    folder = settings.model_path.parent
    rows = ModelFolder(folder).listing(settings.model_path)
    if arguments.json:
        print_json(rows)
    elif rows:
        print_table([_HEADINGS, *map(_cells, rows)])
    else:
        print(f"no models in {folder}", file=sys.stderr)
    return 0


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"{row['filename']}{' (MODEL_PATH)' if row['loaded'] else ''}"
    parameters = f"{row['parameters'] / _BILLION:.2f} B" if row.get("parameters") else "-"
    size = "-" if row["size"] is None else f"{row['size'] / MEBIBYTE:.0f} MiB"
    architecture, context = row.get("architecture") or "-", str(row.get("context_length") or "-")
    return name, architecture, parameters, context, size, row["hash"] or "-", row.get("error", "")


_ACTIONS: Final[Mapping[str, Callable[[Settings, argparse.Namespace], int]]] = {"pull": _pull, "list": _list}
