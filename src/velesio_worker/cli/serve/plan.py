"""The settings of each part: what the user has set holds, the rest makes parts that do not get in each other's way."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velesio_worker.cli.parts import free_port
from velesio_worker.cli.serve.images import Images, startup_command
from velesio_worker.core.model_source import parse_model_source
from velesio_worker.engines.models.wheels import small_model
from velesio_worker.wire.errors import VelesioError

HOST: Final = "127.0.0.1"
PORT: Final = 8080
NEXT_PORTS: Final = 20
"""So many ports are tried beside the default one."""

MODELS: Final = Path("data/models/text")
_MODEL_SETTINGS: Final = ("MODEL_PATH", "MODEL_URL", "LLAMA_SERVER_URL", "STARTUP_COMMAND")
_DEFAULT_MODEL: Final = MODELS / "model.gguf"

LEASE_SECONDS: Final = "5"
"""How long a worker that was killed counts as alive: its sentence goes on after that."""

NEVER_LONGER: Final = "0"
"""``DRAIN_SECONDS`` of parts whose Redis goes with them: nobody would read what they still say."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run.

    Attributes:
        redis_url: where Redis is.
        host: the address that the gateway listens on.
        port: its port.
        workers: how many workers.
        model: settings that say which model the workers serve; empty where the user's own do.
        images: what makes images.
        own_redis: whether Redis ends with everything else.
        environ: the user's environment.
    """

    redis_url: str
    host: str
    port: int
    workers: int
    model: Mapping[str, str]
    images: Images
    own_redis: bool
    environ: Mapping[str, str]

    def worker(self, number: int, port: Callable[[], int] = free_port) -> dict[str, str]:
        """Return the environment of a worker, from 1 on; ports are free ones, unless the one worker has its own."""
        env = {**self._common(), **self.model}
        alone = self.workers == 1
        env["LLAMA_PORT"] = (alone and self.environ.get("LLAMA_PORT")) or str(port())
        if number > 1 or not self.environ.get("HEALTH_PORT"):
            env["HEALTH_PORT"] = "0"
        if number > 1 or not self.images.runs:
            env["RUN_SD"] = "false"
        elif self.images.words:
            env["SD_STARTUP_COMMAND"] = startup_command(self.images, port())
        return env

    def gateway(self) -> dict[str, str]:
        """Return the environment of the gateway."""
        return self._common() | {"GATEWAY_HOST": self.host, "GATEWAY_PORT": str(self.port)}

    def _common(self) -> dict[str, str]:
        env = {name: value for name, value in self.environ.items() if name != "REDIS_URL_FILE"}
        env["REDIS_URL"] = self.redis_url
        if self.own_redis:
            for name, value in (("LEASE_SECONDS", LEASE_SECONDS), ("DRAIN_SECONDS", NEVER_LONGER)):
                env[name] = self.environ.get(name) or value
        return env

    @property
    def address(self) -> str:
        """Where a browser on this host finds the page."""
        host = {"0.0.0.0": HOST, "::": "::1", "": HOST}.get(self.host, self.host)  # noqa: S104 (not bound, but asked)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def model_settings(named: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that say which model is served; empty where the user's own say it.

    Args:
        named: what ``--model`` has: a file, or where one is to be had (a URL, ``hf:owner/repo/file``).
        environ: the user's environment.

    Raises:
        VelesioError: the file is not there, the source is none, or there is no model at all.
    """
    if named is not None:
        return _settings_of(named)
    if any(environ.get(name) for name in _MODEL_SETTINGS) or _DEFAULT_MODEL.is_file():
        return {}
    small = small_model()
    if small is None:
        raise VelesioError("There is no model: name one with --model, or run `make serve`, which brings a small one.")
    return {"MODEL_PATH": str(small), "GPU_LAYERS": environ.get("GPU_LAYERS") or "0"}


def _settings_of(named: str) -> dict[str, str]:
    if named.startswith("hf:") or "://" in named:
        try:
            source = parse_model_source(named)
        except ValueError as error:
            raise VelesioError(f"--model {named}: it must be a file, {error}") from None
        return {"MODEL_URL": named, "MODEL_PATH": str(MODELS / source.filename)}
    path = Path(named)
    if not path.is_file():
        raise VelesioError(f"--model {named}: there is no such file")
    return {"MODEL_PATH": str(path.absolute()), "MODEL_URL": ""}


def choose_port(host: str, wanted: int | None) -> int:
    """Return the port that the gateway gets: the wanted one, else the default or the next that is free.

    Raises:
        VelesioError: it is taken, or nothing can listen there.
    """
    if wanted is not None:
        if why := _in_the_way(host, wanted):
            raise VelesioError(f"port {wanted} on {host} cannot be had ({why}): give another one with --port")
        return wanted
    why = ""
    for port in range(PORT, PORT + NEXT_PORTS):
        why = _in_the_way(host, port)
        if not why:
            return port
    raise VelesioError(f"no port from {PORT} to {PORT + NEXT_PORTS - 1} on {host} can be had ({why}): give --port")


def _in_the_way(host: str, port: int) -> str:
    """Say why nothing can listen there; empty if it can."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            return "it is taken"
        return (error.strerror if isinstance(error, OSError) else None) or "this is no address of this host"
    return ""
