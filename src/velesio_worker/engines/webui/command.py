"""How the WebUI is started."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velesio_worker.core.settings import Settings
from velesio_worker.engines.supervision.environment import engine_variables
from velesio_worker.engines.supervision.ports import HOST
from velesio_worker.engines.supervision.programs import check_programs
from velesio_worker.wire.errors import EngineStartError

FOLDER: Final = Path("data/sd")
"""Where the worker looks for a WebUI."""

LAUNCH: Final = "launch.py"
_PYTHON: Final = Path("venv/bin/python")
_API_PORT: Final = 7861
"""Where AUTOMATIC1111 and Forge listen with ``--nowebui`` if no ``--port`` is given."""


@dataclass(frozen=True, slots=True)
class WebUICommand:
    """How the WebUI is started.

    Attributes:
        argv: program and arguments.
        folder: the folder to run it in; None for the worker's.
        port: the port on 127.0.0.1 that it listens on.
        source: where the program was found, for people.
    """

    argv: Sequence[str]
    folder: Path | None
    port: int
    source: str

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://{HOST}:{self.port}"


def has_webui(settings: Settings) -> bool:
    """Whether there is a WebUI to start or to use."""
    return bool(settings.sd_server_url or settings.sd_startup_command) or (FOLDER / LAUNCH).exists()


def webui_command(settings: Settings) -> WebUICommand:
    """Put the command together: ``SD_STARTUP_COMMAND``, or ``launch.py`` in ``data/sd``.

    Raises:
        EngineStartError: there is neither, or the latter was not installed.
    """
    home = FOLDER.absolute() if (FOLDER / LAUNCH).exists() else None
    if settings.sd_startup_command is not None:
        argv = shlex.split(settings.sd_startup_command)
        return WebUICommand(argv, _folder_for(argv[0], home), _port_of(argv) or settings.sd_port, "SD_STARTUP_COMMAND")
    if home is None:
        raise EngineStartError(
            f"There is no Stable Diffusion WebUI: put one into {FOLDER} (so that {FOLDER / LAUNCH} is there), name "
            "yours with SD_STARTUP_COMMAND or SD_SERVER_URL, or set RUN_SD=false.",
            final=True,
        )
    python = home / _PYTHON
    if not python.exists():
        raise EngineStartError(
            f"{FOLDER} has no {_PYTHON}: make it there (python3.10 -m venv venv), or name the program with "
            "SD_STARTUP_COMMAND.",
            final=True,
        )
    check_programs(home, home / LAUNCH, python.parent, python)
    argv = [
        *(str(python), LAUNCH),
        *("--api", "--nowebui"),
        *("--server-name", HOST),
        *("--port", str(settings.sd_port)),
        *("--ckpt-dir", str(settings.sd_model_path.absolute())),
        *shlex.split(settings.sd_args or ""),
    ]
    return WebUICommand(argv, home, _port_of(argv) or settings.sd_port, str(FOLDER))  # SD_ARGS may name another


def _folder_for(program: str, home: Path | None) -> Path | None:
    """The WebUI's folder, unless the program is found from the worker's own only."""
    if home is not None and "/" in program and shutil.which(program) is not None and not (home / program).exists():
        return None
    return home


def _values_of(argv: Sequence[str], *flags: str) -> Iterator[str]:
    """Yield what a command gives these flags, as ``--flag value`` or ``--flag=value``."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag in flags:
            yield value if equals else following


def _port_of(argv: Sequence[str]) -> int | None:
    """The port that a command names; None if it names none."""
    ports = [int(value) for value in _values_of(argv, "--port", "--listen-port") if value.isdecimal()]
    return ports[-1] if ports else _API_PORT if "--nowebui" in argv else None


def webui_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the WebUI's environment: what engines see of this process's, and that its output comes at once."""
    return {"PYTHONUNBUFFERED": "1", **engine_variables(settings, environ)}


def credentials_of(argv: Sequence[str]) -> str | None:
    """Return the user and password that a command asks callers for (``--api-auth``); the first pair of several."""
    return next((pairs.partition(",")[0] for pairs in _values_of(argv, "--api-auth") if ":" in pairs), None)
