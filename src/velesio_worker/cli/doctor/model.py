"""The model's file: whether it is there and whole, and what it says of itself; or whether it can be downloaded."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Final

from velesio_worker.cli.doctor.findings import MEBIBYTE, TEXT_ELSEWHERE, CheckReport, mebibytes, parted
from velesio_worker.cli.doctor.server import split_command
from velesio_worker.core.model_source import parse_model_source
from velesio_worker.engines.llama import command
from velesio_worker.engines.models.gguf import GgufInfo, part_paths
from velesio_worker.engines.models.part_file import PartFile
from velesio_worker.wire.errors import EngineStartError

LEAST_ROOM: Final = 1024 * MEBIBYTE
"""Free space below which hardly a model can be downloaded, where it is not known how large it is."""

_BILLION: Final = 1e9
_TEMPLATE: Final = re.compile(r"--(?:chat-template|chat-template-file)\b")
_FILE: Final = "hf:OWNER/REPO/FILE.gguf"


def check_model(report: CheckReport) -> None:
    """Look at the model that is served by default."""
    settings = report.settings
    path = command.model_of(settings)
    own = settings.startup_command is None
    if not settings.run_llm:
        report.ok(TEXT_ELSEWHERE)
    elif settings.llama_server_url is not None:
        report.ok("none is needed here: the llama-server at LLAMA_SERVER_URL has its own")
    elif path is None:
        report.ok("STARTUP_COMMAND names none (--model): it is not looked at")
    elif own and settings.model_url is not None and not path.exists():
        _look_at_download(settings.model_url, path, report)
    else:
        try:
            info = command.check_model(path, asked=not own)
        except EngineStartError as error:
            _tell_trouble(path, str(error), report)
        else:
            _describe(path, info, report)
            _judge(info, report)


def _tell_trouble(path: Path, text: str, report: CheckReport) -> None:
    startup = report.settings.startup_command
    if " does not exist" in text:
        setting = "MODEL_PATH" if startup is None else "STARTUP_COMMAND"
        message = f"{text.partition(' does not exist')[0]} does not exist"
        remedy = f"get one (velesio-worker models pull {_FILE}), point {setting} at one, or MODEL_URL={_FILE}"
    else:
        message, remedy = parted(text, "point MODEL_PATH at the file of a GGUF model")
    if startup is not None and split_command(shlex.split(startup)) is None:
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


def _judge(info: GgufInfo, report: CheckReport) -> None:
    settings = report.settings
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


def _look_at_download(url: str, path: Path, report: CheckReport) -> None:
    free = shutil.disk_usage(nearest_folder(path.parent)).free
    missing = _missing(path)
    name = parse_model_source(url).filename
    message = f"{path} is not there: it will be downloaded at the start from MODEL_URL ({name})"
    room = f"make room: df -h {path.parent}"
    facts = {"path": str(path), "free": free, "missing": missing}
    if missing is not None and missing > free:
        report.error(
            f"{path} is not there, and there is too little room for the {mebibytes(missing)} that are still missing: "
            f"{mebibytes(free)}",
            f"{room}; or name another MODEL_PATH",
            **facts,
        )
    elif free < LEAST_ROOM:
        report.warning(f"{message}; only {mebibytes(free)} are free", room, **facts)
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
