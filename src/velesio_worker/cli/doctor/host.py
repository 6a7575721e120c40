"""The settings, this machine (ports, folders, limits, and what is installed), and where large results go."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shlex
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from velesio_worker import __version__
from velesio_worker.cli.doctor.findings import MEBIBYTE, CheckReport, mebibytes, parted
from velesio_worker.cli.doctor.model import nearest_folder
from velesio_worker.core.exposure import exposures
from velesio_worker.core.model_source import hub_token
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings_list import describe, misspelt
from velesio_worker.engines.llama.command import llama_command
from velesio_worker.engines.supervision.orphans import notes_folder
from velesio_worker.engines.supervision.ports import HOST, check_port
from velesio_worker.engines.webui.command import has_webui, webui_command
from velesio_worker.execution.results.images import CHECK_NAME, check, open_store
from velesio_worker.observability.server import HealthListener
from velesio_worker.wire.errors import EngineStartError, SettingsError

LEAST_FILES: Final = 1024
LEAST_ROOM: Final = 100 * MEBIBYTE
"""What is to be free where temporary files lie, in bytes."""

_WRITABLE: Final = os.W_OK | os.X_OK
_EXTRAS: Final = ("uvloop",)


def check_settings(report: CheckReport) -> None:
    """Look at what the environment sets, and at what nobody reads because its name has a slip."""
    settings = report.settings
    rows = describe(settings, report.environ)
    given = {row["name"]: row["value"] for row in rows if row["source"] != "default"}
    shown = f"from the environment: {', '.join(given)}" if given else "none is set: all have their defaults"
    report.ok(shown, environment=given)
    for found, meant in misspelt(report.environ):
        report.warning(f"{found} is no setting, and has no effect", f"did you mean {meant}?", found=found, meant=meant)
    for exposed in exposures(settings):
        report.warning(exposed.what, exposed.remedy)
    if not settings.run_llm and not settings.run_sd:
        report.error("RUN_LLM=false and RUN_SD=false leave the worker nothing to run", "set one of them to true")
    if settings.run_llm and settings.model_url is not None:
        try:
            hub_token()
        except SettingsError as error:
            report.error(*parted(str(error), "unset HF_TOKEN"))


def check_ports(report: CheckReport) -> None:
    """Look whether the ports of engines that the worker starts are free, and not the same."""
    settings = report.settings
    if settings.health_port:
        _look_at_health_port(report)
    text: int | None = None
    if settings.run_llm and settings.llama_server_url is None:
        text = settings.llama_port if settings.startup_command is None else llama_command(settings).port
    image: int | None = None
    if settings.run_sd and settings.sd_server_url is None and has_webui(settings):
        with suppress(EngineStartError):  # the WebUI's own check tells
            image = webui_command(settings).port
    if text is not None:
        _look_at_port(text, "llama-server", "LLAMA_PORT", "LLAMA_SERVER_URL", report)
    elif settings.run_llm:
        report.ok("none is needed here: llama-server runs elsewhere (LLAMA_SERVER_URL)")
    elif image is None:
        report.ok("none is needed here: no engine is started")
    if image is None:
        return
    if image == text:
        report.error(
            f"llama-server and the WebUI would both listen on {image}",
            "LLAMA_PORT or SD_PORT=another one, or another port in SD_STARTUP_COMMAND where that names it",
            port=image,
        )
    else:
        _look_at_port(image, "the WebUI", "SD_PORT", "SD_SERVER_URL", report)


def _look_at_health_port(report: CheckReport) -> None:
    host, port = report.settings.health_host, report.settings.health_port
    where = f"HEALTH_HOST={host} HEALTH_PORT={port}"
    try:
        HealthListener(host, port).server_close()
    except OSError as error:
        asked = {"health_host", "health_port"} & report.settings.model_fields_set
        tell = report.error if asked else report.warning
        message = f"{where}: nothing can listen there ({error.strerror or error})"
        tell(message, f"HEALTH_PORT=another one, or 0 for none. {_who(port)}", port=port)
    else:
        report.ok(f"{where} is free for health and metrics", port=port)


def _look_at_port(port: int, whose: str, setting: str, url: str, report: CheckReport) -> None:
    try:
        check_port(port, setting=setting, url=url)
    except EngineStartError as error:
        message, remedy = parted(str(error), f"{setting}=another one")
        report.error(message, f"{remedy}. {_who(port)}", port=port)
    else:
        report.ok(f"{port} on {HOST} is free for {whose}", port=port)


def _who(port: int) -> str:
    return f"Who listens: ss -ltnp 'sport = :{port}'"


def check_folders(report: CheckReport) -> None:
    """Look at the folders that the worker writes to."""
    settings = report.settings
    own = settings.run_llm and settings.llama_server_url is None and settings.startup_command is None
    if own and settings.model_url is not None and not settings.model_path.exists():
        models = settings.model_path.parent
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


async def check_results(report: CheckReport) -> None:
    """Look whether RESULT_STORE can be written: a small file is put there."""
    settings = report.settings
    where = settings.result_store
    if where is None:
        images = settings.run_sd
        report.ok("RESULT_STORE is not set: images stay in their results" if images else "no images are made here")
        return
    try:
        store = open_store(settings)
        if store is None or not settings.run_sd:
            report.ok("RUN_SD=false: nothing is put into RESULT_STORE")
            return
        await check(store)
    except SettingsError as error:
        text = str(error)
        name = text.partition("=")[0]
        whole = ": must be " in text
        report.error(*((text, f"correct {name}, or unset it") if whole else parted(text, "correct RESULT_STORE")))
        return
    shown = hide_password(where)
    report.ok(f"RESULT_STORE={shown} can be written ({CHECK_NAME} lies there now)", store=shown)
    if settings.result_store_url is None and not where.startswith("s3://"):
        report.warning(
            f"RESULT_STORE={shown} is a folder and RESULT_STORE_URL is not set: the results' file:// URLs are of use "
            "on this host only",
            "have a web server show that folder, and set RESULT_STORE_URL to where it does",
        )


def check_system(report: CheckReport) -> None:
    """Look at what Python there is, with what, and at the limit of open files."""
    versions = {name: _version(name) for name in _EXTRAS}
    there = [f"{name} {version}" for name, version in versions.items() if version]
    missing = [name for name, version in versions.items() if not version]
    hint = f"; without {' and '.join(missing)} (pip install 'velesio-worker[fast]' makes it faster)" if missing else ""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    python = platform.python_version()
    facts = {"python": python, "velesio_worker": __version__, "open_files": files, **versions}
    report.ok(", ".join([f"Python {python}", *there]) + hint, **facts)
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
