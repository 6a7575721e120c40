"""Which llama-server is started, and with which arguments."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velesio_worker.errors import EngineStartError
from velesio_worker.settings import Settings

HOST: Final = "127.0.0.1"
DEFAULT_SLOTS: Final = 4
CACHE_RAM_MIB: Final = 1024
"""Host memory for llama-server's prompt cache; its own default of 8 GiB is too much to take unasked."""

LOCAL_BINARY: Final = Path("data/binaries/llama-server")
_GGUF_MAGIC: Final = b"GGUF"


@dataclass(frozen=True, slots=True)
class LlamaCommand:
    """How llama-server is started.

    Attributes:
        argv: program and arguments.
        port: the port on 127.0.0.1 that it listens on.
        source: where the program was found, for people.
    """

    argv: Sequence[str]
    port: int
    source: str

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://{HOST}:{self.port}"


def llama_command(settings: Settings) -> LlamaCommand:
    """Find the program and put its arguments together.

    The first of these: ``STARTUP_COMMAND``; ``data/binaries/llama-server``; ``llama-server`` on PATH; the server in
    the xllamacpp wheel.

    Raises:
        EngineStartError: there is none, or the model cannot be used.
    """
    if settings.startup_command is not None:
        argv = shlex.split(settings.startup_command)
        return LlamaCommand(argv, _port_of(argv) or settings.llama_port, "STARTUP_COMMAND")
    check_model(settings.model_path)
    program, source = _program()
    slots = settings.llm_concurrency or DEFAULT_SLOTS
    arguments = [
        *("--model", str(settings.model_path)),
        *("--ctx-size", str(settings.context_size * slots)),
        *("--parallel", str(slots)),
        *("--n-gpu-layers", str(settings.gpu_layers)),
        *("--host", HOST),
        *("--port", str(settings.llama_port)),
        *("--cache-ram", str(CACHE_RAM_MIB)),
        "--metrics",
        "--slots",
    ]
    return LlamaCommand([*program, *arguments], settings.llama_port, source)


def _program() -> tuple[list[str], str]:
    if LOCAL_BINARY.exists():
        if not os.access(LOCAL_BINARY, os.X_OK):
            raise EngineStartError(f"{LOCAL_BINARY} is not executable: chmod +x {LOCAL_BINARY}")
        return [str(LOCAL_BINARY.absolute())], str(LOCAL_BINARY)
    if on_path := shutil.which("llama-server"):
        return [on_path], on_path
    if importlib.util.find_spec("xllamacpp") is not None:
        return [sys.executable, "-m", "velesio_worker.engines.embedded"], "the xllamacpp wheel"
    raise EngineStartError(
        "No llama-server was found. Put one at data/binaries/llama-server or on PATH (llama.cpp's releases have them), "
        "install the one in a wheel (pip install xllamacpp, or make demo), or name yours with STARTUP_COMMAND or "
        "LLAMA_SERVER_URL."
    )


def _port_of(argv: Sequence[str]) -> int | None:
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        value = following if word == "--port" else word.removeprefix("--port=") if word.startswith("--port=") else ""
        if value.isdigit():
            return int(value)
    return None


def check_model(path: Path) -> None:
    """Check that a file looks like a GGUF model that can be read.

    Raises:
        EngineStartError: it does not, and what to change.
    """
    shown = f"MODEL_PATH={path} ({path.absolute()})"
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except FileNotFoundError:
        raise EngineStartError(
            f"{shown} does not exist: put a GGUF model there or point MODEL_PATH at one. "
            "To try the worker without one: make demo"
        ) from None
    except IsADirectoryError:
        raise EngineStartError(f"{shown} is a folder: point MODEL_PATH at the .gguf file in it") from None
    except OSError as error:
        raise EngineStartError(f"{shown} cannot be read ({error.strerror}): check its permissions") from None
    if magic != _GGUF_MAGIC:
        raise EngineStartError(f"{shown} is no GGUF model (it begins with {magic!r}): llama.cpp needs a .gguf file")


def engine_environment(settings: Settings, environ: Mapping[str, str], port: int) -> dict[str, str]:
    """Return llama-server's environment: this process's, the GPUs it may see, and none of its own ``LLAMA_ARG_*``.

    Those would silently change the command line. Host and port stand there as defaults for a ``STARTUP_COMMAND``
    that names none.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith("LLAMA_ARG_")}
    return {
        **kept,
        "CUDA_VISIBLE_DEVICES": settings.cuda_visible_devices,
        "LLAMA_ARG_HOST": HOST,
        "LLAMA_ARG_PORT": str(port),
    }


def check_port(port: int) -> None:
    """Check that nothing listens on the port, so that the server that answers there is the one that was started.

    Raises:
        EngineStartError: something does.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EngineStartError(
                f"Port {port} on {HOST} is taken ({error.strerror}): stop what listens there, set LLAMA_PORT to a free "
                f"port, or set LLAMA_SERVER_URL=http://{HOST}:{port} to use that server"
            ) from None
