"""The WebUI that the worker would start: its program, its port, who can reach it, and its models."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

from velesio_worker.cli.doctor.findings import CheckReport, parted
from velesio_worker.core.settings import Settings
from velesio_worker.engines.webui.command import FOLDER, WebUICommand, credentials_of, webui_command
from velesio_worker.wire.errors import EngineStartError

SUFFIXES: Final = (".safetensors", ".ckpt", ".gguf")
"""How the files of image models end."""

_NO_MODELS: Final = (".vae.safetensors", ".vae.ckpt")
_OWN_MODELS: Final = FOLDER / "models/Stable-diffusion"
_USUAL_PORT: Final = 7860
_SD_SERVER: Final = "sd-server"
_SCRIPTS: Final = frozenset({"webui.sh", "webui.py", "launch.py"})
_CONTAINERS: Final = frozenset({"docker", "podman"})
"""What listens in there has to listen everywhere; who reaches it is a matter of ``--publish``."""

_PORTS: Final = ("--port", "--listen-port")
_HOSTS: Final = ("--server-name", "--listen-ip")
_SD_SERVER_HOSTS: Final = ("--listen-ip", "-l")
_LOCAL: Final = frozenset({"localhost", "::1"})


def look_at_command(report: CheckReport) -> None:
    """Look at what ``SD_STARTUP_COMMAND`` or ``data/sd`` would start."""
    settings = report.settings
    try:
        command = webui_command(settings)
    except EngineStartError as error:
        report.error(*parted(str(error), "name the program with SD_STARTUP_COMMAND"))
        return
    name = command.argv[0]  # only a name without a slash is looked up
    place = str((command.folder or Path.cwd()) / name) if "/" in name else name
    program = shutil.which(place, path=report.environ.get("PATH"))
    if program is None:
        _tell_no_program(command, report)
        return
    words = [part for word in command.argv for part in word.split()]  # those within a shell's script as well
    where = f" in {command.folder}" if command.folder else ""
    report.ok(
        f"{command.source} starts {program}{where}; the worker takes it to listen on {_port(settings, command, words)}",
        program=program,
        source=command.source,
        folder=None if command.folder is None else str(command.folder),
        port=command.port,
    )
    if settings.sd_startup_command is not None:
        _judge_words(command, words, report)
    _judge_openness(command, words, report)
    if settings.sd_startup_command is None and "--ckpt" not in (settings.sd_args or ""):
        _look_at_models(settings.sd_model_path, report)


def _tell_no_program(command: WebUICommand, report: CheckReport) -> None:
    program = command.argv[0]
    if command.source != "SD_STARTUP_COMMAND":
        report.error(f"{program} is no program that can be run here", f"make the venv in {command.folder} anew")
        return
    where = command.folder or Path.cwd()
    file = where / program
    if not file.is_file():
        remedy = f"name one, with its path: command -v {shlex.quote(PurePath(program).name)}"
    elif not os.access(file, os.X_OK):
        remedy = f"chmod +x {shlex.quote(str(file))}"
    else:
        remedy = f"SD_STARTUP_COMMAND='./{program} …': without a slash it is looked for in PATH only"
    shown = f"in {where}" if "/" in program else "here"
    report.error(f"SD_STARTUP_COMMAND: {program!r} is no program that can be run {shown}", remedy)


def _given(words: Sequence[str], flags: Sequence[str]) -> str | None:
    """Return the value of the last of these flags; None if there is none of them."""
    value = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, equals, behind = word.partition("=")
        if flag in flags:
            value = behind if equals else following
    return value


def _port(settings: Settings, command: WebUICommand, words: Sequence[str]) -> str:
    """Say which port the worker looks for the WebUI on, and why."""
    if _given(command.argv, _PORTS) is not None:
        return f"port {command.port}"
    if "--nowebui" in words and command.port != settings.sd_port:
        return f"port {command.port}, as it does with --nowebui and without --port, whatever SD_PORT is"
    return f"port {command.port} (SD_PORT)"


def _judge_words(command: WebUICommand, words: Sequence[str], report: CheckReport) -> None:
    """Look for what a WebUI has to be told, and SD_STARTUP_COMMAND does not tell it."""
    names = {PurePath(word).name for word in words}
    sd_server = _SD_SERVER in names
    unsaid = _given(command.argv, _PORTS) is None and "--nowebui" not in command.argv
    if unsaid and (sd_server or command.port != _USUAL_PORT):
        flag = "--listen-port" if sd_server else "--port"
        report.warning(
            f"SD_STARTUP_COMMAND names no port: whether the WebUI listens on {command.port} (SD_PORT) is not known",
            f"add {flag} {command.port} to SD_STARTUP_COMMAND, unless what it starts says so",
            port=command.port,
        )
    if names & _SCRIPTS and not {"--api", "--nowebui", "--api-only"} & set(words):
        report.warning(
            "SD_STARTUP_COMMAND has no --api: most WebUIs take no jobs without it",
            "add --api to SD_STARTUP_COMMAND, unless what it starts says so (COMMANDLINE_ARGS)",
        )


def _judge_openness(command: WebUICommand, words: Sequence[str], report: CheckReport) -> None:
    """Say who else can use a WebUI, which asks nobody who he is unless it is told to."""
    if PurePath(command.argv[0]).name in _CONTAINERS or credentials_of(words) is not None:
        return
    setting = "SD_STARTUP_COMMAND" if command.source == "SD_STARTUP_COMMAND" else "SD_ARGS"
    sd_server = any(PurePath(word).name == _SD_SERVER for word in words)
    ask = "" if sd_server else f", or have it ask for a user and a password: --api-auth USER:PASSWORD in {setting}"
    host = _given(words, _SD_SERVER_HOSTS if sd_server else _HOSTS)
    local = host is not None and (host in _LOCAL or host.startswith("127."))
    if "--share" in words:
        report.warning(
            "--share shows the WebUI to the whole internet: anybody can use it, and its settings",
            f"take --share out of {setting}{ask}",
        )
    elif (host is not None and not local) or (host is None and {"--listen", "--nowebui"} & set(words)):
        why = f"on {host}" if host else f"everywhere ({'--listen' if '--listen' in words else '--nowebui does that'})"
        flag = "--listen-ip" if sd_server else "--server-name"
        report.warning(
            f"the WebUI listens {why}: anybody on the network can use it, and its settings",
            f"{flag} 127.0.0.1 in {setting}, which is enough for the worker{ask}",
        )


def _look_at_models(folder: Path, report: CheckReport) -> None:
    """Look for a model where the worker tells the WebUI to look, and where that looks by itself."""
    if _has_model(folder):
        report.ok(f"there are image models in SD_MODEL_PATH={folder}", folder=str(folder))
        return
    is_folder = folder.is_dir()
    what = f"SD_MODEL_PATH={folder} {'holds no model' if is_folder else 'is no folder'}"
    if _has_model(_OWN_MODELS):
        report.ok(f"{what}, and {_OWN_MODELS} has one", folder=str(_OWN_MODELS))
        return
    report.warning(
        f"{what} ({', '.join(SUFFIXES)}): the WebUI may download one by itself, or make no image",
        f"{'put one there' if is_folder else f'mkdir -p {shlex.quote(str(folder))}, and put one there'}, or point "
        "SD_MODEL_PATH at the folder of yours",
        folder=str(folder),
    )


def _has_model(folder: Path) -> bool:
    """Whether a model lies in a folder or below, links followed as WebUIs do."""
    names = (name.lower() for _, _, names in os.walk(folder, followlinks=True) for name in names)
    return any(name.endswith(SUFFIXES) and not name.endswith(_NO_MODELS) for name in names)
