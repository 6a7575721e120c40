"""The settings, and this machine: ports, folders, limits, and what is installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shlex
import shutil
import stat
from pathlib import Path
from typing import Any, Final

from velesio_worker import __version__
from velesio_worker.aside import aside
from velesio_worker.doctor.findings import MEBIBYTE, Report, Subject, mebibytes, parted
from velesio_worker.doctor.model import nearest_folder
from velesio_worker.engines.command import HOST, check_port, llama_command
from velesio_worker.engines.orphans import notes_folder
from velesio_worker.errors import EngineStartError, SettingsError
from velesio_worker.model_source import hub_token
from velesio_worker.settings import Settings, describe, misspelt

WEBUI_PORT: Final = 7860
LEAST_FILES: Final = 1024
LEAST_ROOM: Final = 100 * MEBIBYTE
"""What is to be free where temporary files lie, in bytes."""

_WRITABLE: Final = os.W_OK | os.X_OK
_EXTRAS: Final = ("uvloop", "httpx-aiohttp")


async def check_settings(subject: Subject, report: Report) -> None:
    """Look at what the environment sets, and at what nobody reads because its name has a slip."""
    settings = subject.settings
    rows = describe(settings, subject.environ)
    given = {row["name"]: row["value"] for row in rows if row["source"] == "environment"}
    shown = f"from the environment: {', '.join(given)}" if given else "none is set: all have their defaults"
    report.ok(shown, environment=given)
    for found, meant in misspelt(subject.environ):
        report.warning(f"{found} is no setting, and has no effect", f"did you mean {meant}?", found=found, meant=meant)
    if not settings.run_llm:
        report.error("RUN_LLM=false leaves nothing to do: this release has no image engine", "RUN_LLM=true")
    if settings.model_url is not None:
        try:
            hub_token()
        except SettingsError as error:
            report.error(*parted(str(error), "unset HF_TOKEN"))


async def check_ports(subject: Subject, report: Report) -> None:
    """Look whether the ports of engines that the worker starts are free."""
    settings = subject.settings
    if settings.llama_server_url is not None:
        report.ok("none is needed here: llama-server runs elsewhere (LLAMA_SERVER_URL)")
    else:
        port = settings.llama_port if settings.startup_command is None else llama_command(settings).port
        trouble = _taken(port)
        if trouble is None:
            report.ok(f"{port} on {HOST} is free for llama-server", port=port)
        else:
            message, remedy = parted(trouble, "LLAMA_PORT=another one")
            report.error(message, f"{remedy}. Who listens: {_who(port)}", port=port)
    if settings.run_sd and settings.sd_startup_command is not None and _taken(WEBUI_PORT) is not None:
        report.warning(
            f"port {WEBUI_PORT} on {HOST}, the WebUI's, is taken",
            f"stop what listens there, or set SD_SERVER_URL=http://{HOST}:{WEBUI_PORT} if that is a WebUI. "
            f"Who listens: {_who(WEBUI_PORT)}",
            port=WEBUI_PORT,
        )


def _taken(port: int) -> str | None:
    try:
        check_port(port)
    except EngineStartError as error:
        return str(error)
    return None


def _who(port: int) -> str:
    return f"ss -ltnp 'sport = :{port}'"


async def check_folders(subject: Subject, report: Report) -> None:
    """Look at the folders that the worker writes to."""
    await aside(lambda: _look_at_folders(subject.settings, report))


def _look_at_folders(settings: Settings, report: Report) -> None:
    own = settings.llama_server_url is None and settings.startup_command is None
    models = settings.model_path.parent
    if own and settings.model_url is not None and not settings.model_path.exists():
        above = nearest_folder(models)
        if not (above.is_dir() and os.access(above, _WRITABLE)):
            report.error(
                f"MODEL_URL: the model cannot be put into {models}: {above} is not writable for this user",
                f"sudo chown {os.getuid()} {shlex.quote(str(above))}, or point MODEL_PATH at a folder of this user's",
                folder=str(models),
            )
    try:
        notes = notes_folder()
        free = shutil.disk_usage(notes.parent).free
    except OSError as error:
        report.error(f"no folder for temporary files is writable ({error.strerror})", "TMPDIR=/a/folder/of/yours")
        return
    facts = {"notes": str(notes), "temporary": str(notes.parent), "free": free}
    if trouble := _trouble_with_notes(notes):
        report.warning(
            f"{notes} {trouble}: no notes on engines can be kept there, and engines of a worker that dies stay",
            f"remove it, or TMPDIR={shlex.quote(str(Path.home() / 'tmp'))}, a folder that is yours",
            **facts,
        )
    elif free < LEAST_ROOM:
        report.warning(f"{notes.parent} has only {mebibytes(free)} free", f"make room: df -h {notes.parent}", **facts)
    else:
        report.ok(f"notes on engines lie in {notes}, {mebibytes(free)} are free there", **facts)


def _trouble_with_notes(folder: Path) -> str | None:
    try:
        facts = folder.lstat()
    except FileNotFoundError:
        return None if os.access(folder.parent, _WRITABLE) else "cannot be made"
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        return "is not this user's folder"
    return None if os.access(folder, _WRITABLE) else "is not writable"


async def check_system(_subject: Subject, report: Report) -> None:
    """Look at what Python there is, with what, and at the limit of open files."""
    versions = {name: _version(name) for name in _EXTRAS}
    there = [f"{name} {version}" for name, version in versions.items() if version]
    missing = [name for name, version in versions.items() if not version]
    hint = f"; without {' and '.join(missing)} (pip install 'velesio-worker[fast]' makes it faster)" if missing else ""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    facts: dict[str, Any] = {"python": platform.python_version(), "velesio_worker": __version__, **versions}
    report.ok(", ".join([f"Python {platform.python_version()}", *there]) + hint, open_files=files, **facts)
    if 0 <= files < LEAST_FILES:
        report.warning(
            f"this process may have {files} open files: connections of many jobs may be refused",
            "ulimit -n 65536; in a service LimitNOFILE=65536, in Docker --ulimit nofile=65536",
            open_files=files,
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
