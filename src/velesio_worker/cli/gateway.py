"""``velesio-worker gateway``: HTTP in front of the queue."""

from __future__ import annotations

import argparse
import os

from velesio_worker.cli.base import Commands
from velesio_worker.core.logs import configure_logging, get_logger
from velesio_worker.core.settings_list import misspelt
from velesio_worker.wire.errors import VelesioError

_EXTRA = frozenset({"httptools", "limits", "starlette", "uvicorn", "uvloop"})
_HELP = "serve HTTP in front of the queue: OpenAI's, Anthropic's, the WebUI's and its own routes"

log = get_logger(__name__)


def add_parser(commands: Commands) -> None:
    """Add the command to the command line."""
    gateway = commands.add_parser("gateway", help=_HELP, description=_HELP)
    gateway.add_argument(
        "--processes", type=_count, default=1, metavar="N", help="so many processes on one port (default: %(default)s)"
    )


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 256:  # noqa: PLR2004 (more than any host has cores for)
        raise argparse.ArgumentTypeError("must be from 1 to 256")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the gateway until it is stopped; returns the exit code. Raises SettingsError."""
    try:
        from velesio_worker.gateway.processes import Processes  # noqa: PLC0415 (an extra)
        from velesio_worker.gateway.server import listen, serve  # noqa: PLC0415
        from velesio_worker.gateway.settings import GatewaySettings, load_gateway_settings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise VelesioError(
            f"the gateway needs {error.name}, which is not installed: pip install 'velesio-worker[gateway]'"
        ) from None
    settings = load_gateway_settings()
    configure_logging(settings.log_level, settings.log_format)
    for found, meant in misspelt(os.environ, GatewaySettings):
        log.warning(f"{found} is no setting; did you mean {meant}?", action="unknown_setting")
    with listen(settings.gateway_host, settings.gateway_port) as listener:
        if settings.api_tokens is None:
            log.warning(
                "no API_TOKENS: whoever is on this host may run jobs, and nobody else can connect", action="no_tokens"
            )
        if arguments.processes > 1:
            return Processes(arguments.processes, listener, settings.drain_seconds).run()
        serve(settings, listener)
    return 0
