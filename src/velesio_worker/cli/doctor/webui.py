"""The Stable Diffusion WebUI: the one that would be started, or the one that runs elsewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final
from urllib.parse import urlsplit

import anyio

from velesio_worker.cli.doctor.findings import CheckReport, has_address, parted
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.threads import aside
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.webui.api import WebUIApi
from velesio_worker.engines.webui.catalogue import Catalogue, listed, read_catalogue
from velesio_worker.engines.webui.command import FOLDER, LAUNCH, WebUICommand, credentials_of, has_webui, webui_command
from velesio_worker.engines.webui.refusals import is_passing
from velesio_worker.queue.keys import Keys
from velesio_worker.wire.errors import EngineStartError, JobError
from velesio_worker.wire.jobs import Kind

ANSWER_SECONDS: Final = 5.0
"""How long a WebUI may take to answer all that it is asked."""

_PREFIX: Final = "/sdapi/v1"
_ABSENT: Final = frozenset({404, 405, 501})
_WRONG_METHOD: Final = 405
_NO_OPTIONS: Final = b"[]"
"""A WebUI takes an object: it refuses this before it does anything. ``{}`` would have it write its settings down,
with those that an image in the making has overridden."""

_LOSSES: Final = {
    "progress": "jobs get no progress entries",
    "interrupt": "it makes the image of a cancelled job to its end, and other jobs wait for that",
    "options": "it serves the one model that it has loaded",
}
"""What it means that a WebUI lacks a route."""

SUFFIXES: Final = (".safetensors", ".ckpt", ".gguf")
"""How the files of image models end."""

_NO_MODELS: Final = (".vae.safetensors", ".vae.ckpt")
_OWN_MODELS: Final = FOLDER / "models/Stable-diffusion"
_USUAL_PORT: Final = 7860
_SD_SERVER: Final = "sd-server"
_SCRIPTS: Final = frozenset({"webui.sh", "webui.py", "launch.py"})
_INTERPRETER: Final = re.compile(r"python[\d.]*|(ba|da|z)?sh")
_CODE: Final = ("-c", "-m")
"""What follows is no script."""

_SCRIPT_SUFFIXES: Final = (".py", ".sh")
_CONTAINERS: Final = frozenset({"docker", "podman"})
"""What listens in there has to listen everywhere; who reaches it is a matter of ``--publish``."""

_PORTS: Final = ("--port", "--listen-port")
_HOSTS: Final = ("--server-name", "--listen-ip")
_SD_SERVER_HOSTS: Final = ("--listen-ip", "-l")
_LOCAL: Final = frozenset({"localhost", "::1"})


async def check_webui(report: CheckReport, limit: float = ANSWER_SECONDS) -> None:
    """Look at the WebUI that the worker would use; in one that runs nothing is changed, and nothing interrupted.

    One that runs may take so many seconds for its answers.
    """
    settings = report.settings
    if not settings.run_sd:
        report.ok("RUN_SD=false: image jobs are left to other workers")
    elif settings.sd_server_url is not None:
        await _look_at_url(settings.sd_server_url, report, limit)
    elif await aside(lambda: has_webui(settings)):
        await aside(lambda: _look_at_command(report))
    else:
        _tell_none(report)


def _tell_none(report: CheckReport) -> None:
    settings = report.settings
    missing = (
        f"there is no Stable Diffusion WebUI: {FOLDER / LAUNCH} is missing, and neither SD_STARTUP_COMMAND nor "
        "SD_SERVER_URL is set"
    )
    put = f"put one into {FOLDER}, or name yours with SD_STARTUP_COMMAND or SD_SERVER_URL"
    if settings.run_llm:
        waits = Keys(settings.queue_name).ready(Kind.IMAGE)
        report.warning(f"{missing}: image jobs wait in {waits} for a worker that has one", f"{put}; or RUN_SD=false")
    else:
        report.error(f"RUN_LLM=false, and {missing}: the worker has nothing to run", f"{put}; or RUN_LLM=true")


async def _look_at_url(url: str, report: CheckReport, limit: float) -> None:
    if not await has_address(url, "SD_SERVER_URL", report):
        return
    shown = f"SD_SERVER_URL={hide_password(url)}"
    curl = f"see what answers there: curl {hide_password(url)}{_PREFIX}/sd-models"
    try:
        with anyio.fail_after(limit):
            async with EngineHTTP(url, ca_file=report.settings.ca_file) as http:
                catalogue = await read_catalogue(WebUIApi(http))
                lacks = await _lacks(http)
    except JobError as error:
        _tell_refusal(error, url, curl, report)
    except (ConnectionLostError, TimeoutError) as error:
        report.error(
            f"{shown} does not answer ({str(error) or f'no answer in {limit:g} s'})",
            f"start the WebUI there with --api, or correct SD_SERVER_URL; {curl}",
        )
    else:
        _describe(shown, catalogue, lacks, report)


async def _lacks(http: EngineHTTP) -> Sequence[str]:
    """Find out what a WebUI cannot do, without having it do anything: a GET of a route that takes POST is refused."""
    status, progress = await http.get(f"{_PREFIX}/progress?skip_current_image=true", timeout=ANSWER_SECONDS)
    lacks = ["progress"] if status in _ABSENT or not isinstance(progress, dict) or "state" not in progress else []
    status, _ = await http.get(f"{_PREFIX}/interrupt", timeout=ANSWER_SECONDS)
    lacks += ["interrupt"] if status in _ABSENT - {_WRONG_METHOD} else []
    async with http.post(f"{_PREFIX}/options", _NO_OPTIONS) as response:
        lacks += ["options"] if response.status in _ABSENT else []
    return lacks


def _tell_refusal(error: JobError, url: str, curl: str, report: CheckReport) -> None:
    text, shown = str(error), f"SD_SERVER_URL={hide_password(url)}"
    if is_passing(error):
        report.warning(f"{shown} cannot be used yet ({text}): the worker waits for it", f"wait; {curl}")
    elif "--api-auth" in text and urlsplit(url).username is not None:
        report.error(
            f"{shown}: the WebUI wants another user or password (--api-auth)",
            "correct those in SD_SERVER_URL; %40 stands for @, %3A for a colon, %2F for a slash",
        )
    elif "--api-auth" in text:
        report.error(*parted(f"{shown}: {text}", curl))
    else:
        report.error(f"{shown}: {text}", f"point SD_SERVER_URL at a WebUI that was started with --api; {curl}")


def _describe(shown: str, catalogue: Catalogue, lacks: Sequence[str], report: CheckReport) -> None:
    names = [model.name for model in catalogue.models]
    loaded = None if catalogue.loaded is None else catalogue.loaded.name
    facts = {"source": "SD_SERVER_URL", "models": names, "loaded": loaded, "lacks": list(lacks)}
    many = f"{len(names)} model{'s'[: len(names) != 1]} ({listed(names)})" if names else "no model"
    report.ok(f"{shown}: {many}, {loaded or 'it does not tell which one'} is loaded", **facts)
    if not names:
        report.warning(
            f"{shown} has no model, and can make no image", "put one where that WebUI looks: models/Stable-diffusion"
        )
    if lacks:
        losses = "; ".join(f"no {name}: {_LOSSES[name]}" for name in lacks)
        report.warning(
            f"that WebUI cannot do all that AUTOMATIC1111's can ({losses})",
            "if somebody needs that, point SD_SERVER_URL at AUTOMATIC1111, Forge or SD.Next",
            lacks=list(lacks),
        )


def _look_at_command(report: CheckReport) -> None:
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
    names_port = _given(command.argv, _PORTS) is not None
    where = f" in {command.folder}" if command.folder else ""
    why = "" if names_port else " (SD_PORT)"
    if not names_port and "--nowebui" in words and command.port != settings.sd_port:
        why = ", as it does with --nowebui and without --port, whatever SD_PORT is"
    report.ok(
        f"{command.source} starts {program}{where}; the worker takes it to listen on port {command.port}{why}",
        program=program,
        source=command.source,
        folder=None if command.folder is None else str(command.folder),
        port=command.port,
    )
    if settings.sd_startup_command is not None:
        _look_for_script(command, report)
        _judge_words(command, words, report, names_port=names_port)
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


def _look_for_script(command: WebUICommand, report: CheckReport) -> None:
    """Say whether the script is there that an interpreter is to run: that one runs, and ends at once without it."""
    if _INTERPRETER.fullmatch(PurePath(command.argv[0]).name) is None:
        return
    script = next((word for word in command.argv[1:] if word.startswith(_CODE) or not word.startswith("-")), "")
    where = command.folder or Path.cwd()
    in_path = script.endswith(".sh") and shutil.which(script, path=report.environ.get("PATH")) is not None
    if script.endswith(_SCRIPT_SUFFIXES) and not (where / script).is_file() and not in_path:
        report.error(
            f"SD_STARTUP_COMMAND: there is no {script} in {where}, where it is started",
            f"put the WebUI into {FOLDER} (so that {FOLDER / LAUNCH} is there), or write the script's whole path",
            script=str(where / script),
        )


def _given(words: Sequence[str], flags: Sequence[str]) -> str | None:
    """Return the value of the last of these flags; None if there is none of them."""
    value = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, equals, behind = word.partition("=")
        if flag in flags:
            value = behind if equals else following
    return value


def _judge_words(command: WebUICommand, words: Sequence[str], report: CheckReport, *, names_port: bool) -> None:
    names = {PurePath(word).name for word in words}
    sd_server = _SD_SERVER in names
    if not (names_port or "--nowebui" in command.argv) and (sd_server or command.port != _USUAL_PORT):
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
    opens = {"--listen", "--nowebui"} & set(words) if host is None else not local
    if "--share" in words:
        report.warning(
            "--share shows the WebUI to the whole internet: anybody can use it, and its settings",
            f"take --share out of {setting}{ask}",
        )
    elif opens:
        why = f"on {host}" if host else f"everywhere ({'--listen' if '--listen' in words else '--nowebui does that'})"
        flag = "--listen-ip" if sd_server else "--server-name"
        report.warning(
            f"the WebUI listens {why}: anybody on the network can use it, and its settings",
            f"{flag} 127.0.0.1 in {setting}, which is enough for the worker{ask}",
        )


def _look_at_models(folder: Path, report: CheckReport) -> None:
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
