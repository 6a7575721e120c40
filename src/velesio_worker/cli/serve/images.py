"""The image engine of ``serve``: what the settings name, else an ``sd-server`` and a model that are found."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from velesio_worker.engines.supervision.programs import check_programs
from velesio_worker.engines.webui.command import FOLDER, LAUNCH
from velesio_worker.wire.errors import VelesioError

BINARIES: Final = Path("data/binaries")
PROGRAM: Final = "sd-server"
_MODELS: Final = (".safetensors", ".gguf", ".ckpt")
_DEFAULT_MODELS: Final = "data/models/image/"
_NAMED: Final = ("SD_STARTUP_COMMAND", "SD_SERVER_URL")
_OFF: Final = frozenset({"0", "false", "no", "off", "f", "n"})


class Images(NamedTuple):
    """What makes images.

    Attributes:
        words: the command of an ``sd-server`` that was found, without its port; empty: the worker's own settings say.
        runs: whether there is an image engine at all.
        said: a sentence for people: what it is, or what to do to have one.
    """

    words: tuple[str, ...]
    runs: bool
    said: str


def find_images(program: Path | None, model: Path | None, environ: Mapping[str, str]) -> Images:
    """Find what is to make images.

    Args:
        program: the ``sd-server`` that somebody named.
        model: the model that somebody named, a file or a folder with one.
        environ: the environment, with the settings.

    Raises:
        VelesioError: what somebody named is not there, or cannot be run.
    """
    if environ.get("RUN_SD", "").strip().lower() in _OFF:
        return Images((), runs=False, said="no images (RUN_SD=false)")
    named = next((name for name in _NAMED if environ.get(name)), None)
    if program is None and (named or (FOLDER / LAUNCH).exists()):
        return Images((), runs=True, said=f"images come from {named or FOLDER}")
    server = _server(program)
    if server is None:
        if model is not None:
            raise VelesioError(f"--sd-model needs {PROGRAM}: put it on PATH or into {BINARIES}, or name it with --sd")
        return Images((), runs=False, said=f"chat only: for images put {PROGRAM} on PATH or into {BINARIES}")
    where = model or Path(environ.get("SD_MODEL_PATH") or _DEFAULT_MODELS)
    found = _model(where)
    if found is None:
        if model is not None or program is not None:
            raise VelesioError(f"{where} has no image model: name a {', '.join(_MODELS)} file with --sd-model")
        return Images((), runs=False, said=f"chat only: {server.name} is here, but no model for it: --sd-model FILE")
    words = (str(server), "--model", str(found))
    return Images(words, runs=True, said=f"images come from {server.name}, with {found.name}")


def startup_command(images: Images, port: int) -> str:
    """Return ``SD_STARTUP_COMMAND`` of an ``sd-server`` that was found."""
    return shlex.join([*images.words, "--listen-port", str(port)])


def _server(named: Path | None) -> Path | None:
    """Return the program: the one that is named, else one on PATH, else one in ``data/binaries``."""
    if named is not None:
        if not os.access(named, os.X_OK) or not named.is_file():
            raise VelesioError(f"--sd {named}: there is no program")
        return named.absolute()
    if on_path := shutil.which(PROGRAM):
        return Path(on_path)
    local = BINARIES / PROGRAM
    if not os.access(local, os.X_OK):
        return None
    check_programs(local.parent, local)
    return local.absolute()


def _model(where: Path) -> Path | None:
    """Return a model: the file itself, or the first in a folder."""
    if where.is_file():
        return where.absolute()
    try:
        files = sorted(path for path in where.iterdir() if path.suffix in _MODELS and path.is_file())
    except OSError:
        return None
    return files[0].absolute() if files else None
