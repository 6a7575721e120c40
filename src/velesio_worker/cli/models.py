"""The command line's part for models: ``velesio-worker models [pull | list]``."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import typer

from velesio_worker.cli.base import print_json, print_table
from velesio_worker.cli.progress import download_bar
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.model_source import ModelSource, hub_token, parse_model_source
from velesio_worker.core.secrets import unread
from velesio_worker.core.settings import LogFormat, load_settings
from velesio_worker.engines.models.download import download
from velesio_worker.engines.models.folder import ModelFolder
from velesio_worker.engines.models.meter import MEBIBYTE
from velesio_worker.wire.errors import SettingsError

_HEADINGS: Final = ("model", "architecture", "parameters", "context", "size", "hash", "")
_BILLION: Final = 1e9


app = typer.Typer(add_completion=False)


def _source(text: str) -> ModelSource:
    try:
        return parse_model_source(text)
    except ValueError as error:
        raise typer.BadParameter(f"{unread(text)!r} must be {error}") from None


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise typer.BadParameter(f"{text!r} is no SHA-256: 64 hexadecimal digits")
    return text.lower()


@app.command()
def pull(
    source: Annotated[
        ModelSource,
        typer.Argument(parser=_source, metavar="SOURCE", help="A URL or hf:owner/repo/file, #sha256=… behind it."),
    ],
    *,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to put it instead.")] = None,
    sha256: Annotated[
        str | None, typer.Option(parser=_sha256, metavar="HEX", help="The checksum that it must have.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON where it is, and its checksum.")] = False,
) -> None:
    """Download a model into the folder of MODEL_PATH.

    Raises:
        SettingsError: a setting or an argument has a wrong value.
        ModelDownloadError: the model could not be had.
    """
    configure_logging("WARNING", LogFormat.CONSOLE)
    settings = load_settings()
    if sha256 is not None:
        if source.sha256 not in {None, sha256}:
            raise SettingsError("--sha256 and #sha256= name two checksums: leave one out")
        source = replace(source, sha256=sha256)
    target: Path = (to or settings.model_path.parent / source.filename).absolute()
    if target.is_dir():
        target /= source.filename
    token = hub_token()
    was_there = target.exists()
    try:
        with download_bar(target.name) as report:
            found = anyio.run(partial(download, source, target, token=token, on_progress=report))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise
    if was_there:
        print("it was there already: remove it to download it anew", file=sys.stderr)
    if json:
        print_json({"path": str(target), "sha256": found or source.sha256, "downloaded": not was_there})
        return
    print(target, flush=True)
    if found is not None and source.sha256 is None:
        print(f"its SHA-256 is {found}; to have no other: #sha256={found} behind the source", file=sys.stderr)
    print(f"to use it: MODEL_PATH={shlex.quote(str(target))}", file=sys.stderr)


@app.command("list")
def list_models(
    *,
    json: Annotated[bool, typer.Option("--json", help="As JSON (loaded: the one that MODEL_PATH names).")] = False,
) -> None:
    """The models in the folder of MODEL_PATH."""
    configure_logging("WARNING", LogFormat.CONSOLE)
    settings = load_settings()
    folder = settings.model_path.parent
    rows = ModelFolder(folder).listing(settings.model_path)
    if json:
        print_json(rows)
    elif rows:
        print_table([_HEADINGS, *map(_cells, rows)])
    else:
        print(f"no models in {folder}", file=sys.stderr)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"{row['filename']}{' (MODEL_PATH)' if row['loaded'] else ''}"
    parameters = f"{row['parameters'] / _BILLION:.2f} B" if row.get("parameters") else "-"
    size = "-" if row["size"] is None else f"{row['size'] / MEBIBYTE:.0f} MiB"
    architecture, context = row.get("architecture") or "-", str(row.get("context_length") or "-")
    return name, architecture, parameters, context, size, row["hash"] or "-", row.get("error", "")
