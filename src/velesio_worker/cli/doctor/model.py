"""The model's file: whether it is there and whole, and what it says of itself; or whether it can be downloaded."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Final

from velesio_worker.cli.doctor.findings import MEBIBYTE, TEXT_ELSEWHERE, CheckReport, Subject, mebibytes, parted
from velesio_worker.cli.doctor.flags import is_reachable
from velesio_worker.core.model_source import parse_model_source
from velesio_worker.core.settings import Settings
from velesio_worker.core.threads import aside
from velesio_worker.engines.llama import command
from velesio_worker.engines.llama.command import model_of
from velesio_worker.engines.models.gguf import GgufInfo, part_paths
from velesio_worker.engines.models.part_file import PartFile
from velesio_worker.wire.errors import EngineStartError

LEAST_ROOM: Final = 1024 * MEBIBYTE
"""Free space below which hardly a model can be downloaded, where it is not known how large it is."""

_BILLION: Final = 1e9
_TEMPLATE: Final = re.compile(r"--(?:chat-template|chat-template-file)\b")
_FILE: Final = "hf:OWNER/REPO/FILE.gguf"


async def check_model(subject: Subject, report: CheckReport) -> None:
    """Look at the model that is served by default."""
    settings = subject.settings
    if not settings.run_llm:
        report.ok(TEXT_ELSEWHERE)
        return
    if settings.llama_server_url is not None:
        report.ok("none is needed here: the llama-server at LLAMA_SERVER_URL has its own")
        return
    path = model_of(settings)
    if path is None:
        report.ok("STARTUP_COMMAND names none (--model): it is not looked at")
        return
    own = settings.startup_command is None
    if own and settings.model_url is not None and not await aside(path.exists):
        await _look_at_download(settings, path, report)
        return
    try:
        info = await aside(partial(command.check_model, path, asked=not own))
    except EngineStartError as error:
        _tell_trouble(settings, path, str(error), report)
        return
    _describe(path, info, report)
    _judge(settings, info, report)


def _tell_trouble(settings: Settings, path: Path, text: str, report: CheckReport) -> None:
    if " does not exist" in text:
        setting = "MODEL_PATH" if settings.startup_command is None else "STARTUP_COMMAND"
        message = f"{text.partition(' does not exist')[0]} does not exist"
        remedy = f"get one (velesio-worker models pull {_FILE}), point {setting} at one, or MODEL_URL={_FILE}"
    else:
        message, remedy = parted(text, "point MODEL_PATH at the file of a GGUF model")
    if settings.startup_command is not None and not is_reachable(settings.startup_command):
        remedy = "see to it that it is there where STARTUP_COMMAND runs, as in its container"
        report.warning(f"the model of STARTUP_COMMAND cannot be seen from here: {message}", remedy, path=str(path))
    else:
        report.error(message, remedy, path=str(path))


def _describe(path: Path, info: GgufInfo, report: CheckReport) -> None:
    trained = f", trained for {info.context_length} tokens" if info.context_length else ""
    use = ", ranks documents" if info.reranks else ", makes embeddings" if info.embeds else ""
    report.ok(
        f"{path}: {info.architecture}, {info.parameters / _BILLION:.2f} B parameters, "
        f"{mebibytes(info.size)}{trained}{use}",
        path=str(path),
        architecture=info.architecture,
        parameters=info.parameters,
        size=info.size,
        layers=info.layers,
        training_context_length=info.context_length,
        chat_template=info.has_chat_template,
    )


def _judge(settings: Settings, info: GgufInfo, report: CheckReport) -> None:
    own = settings.startup_command is None
    if own and info.context_length and settings.context_size > info.context_length:
        report.warning(
            f"CONTEXT_SIZE={settings.context_size} is more than the {info.context_length} tokens that the model was "
            "trained for: beyond them it writes nonsense, or llama-server gives it no more",
            f"CONTEXT_SIZE={info.context_length}",
        )
    given = settings.llama_args if own else settings.startup_command
    if not info.has_chat_template and not info.embeds and not info.reranks and not _TEMPLATE.search(given or ""):
        report.warning(
            "the model has no chat template: chat_completion jobs get llama-server's default one, which may not fit",
            "take an instruct model, or name its template: "
            + ("LLAMA_ARGS='--chat-template chatml'" if own else "--chat-template chatml in STARTUP_COMMAND"),
        )


async def _look_at_download(settings: Settings, path: Path, report: CheckReport) -> None:
    source = parse_model_source(settings.model_url or "")
    free = await aside(lambda: shutil.disk_usage(nearest_folder(path.parent)).free)
    missing = await aside(lambda: _missing(path))
    message = f"{path} is not there: it will be downloaded at the start from MODEL_URL ({source.filename})"
    facts = {"path": str(path), "free": free, "missing": missing}
    if missing is not None and missing > free:
        message = (
            f"{path} is not there, and there is too little room for the {mebibytes(missing)} that are still missing"
        )
        report.error(
            f"{message}: {mebibytes(free)}", f"make room: df -h {path.parent}; or name another MODEL_PATH", **facts
        )
    elif free < LEAST_ROOM:
        report.warning(f"{message}; only {mebibytes(free)} are free", f"make room: df -h {path.parent}", **facts)
    else:
        report.ok(f"{message}; {mebibytes(free)} are free", **facts)


def _missing(path: Path) -> int | None:
    """How much of an interrupted download is still missing, in bytes; None if none was begun, or it has parts."""
    if len(list(part_paths(path))) > 1:
        return None
    part = PartFile(path)
    part.look()
    return part.origin.total - part.size if part.origin is not None and part.origin.total is not None else None


def nearest_folder(folder: Path) -> Path:
    """Return a folder or, where it is yet to be made, the first above it that is there."""
    folder = folder.absolute()
    return next((above for above in (folder, *folder.parents) if above.exists()), Path("/"))
