"""``velesio-worker gateway``: HTTP in front of the queue."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from velesio_worker.core.logs import configure_logging, get_logger
from velesio_worker.core.settings_list import misspelt
from velesio_worker.wire.errors import VelesioError

_EXTRA = frozenset({"httptools", "limits", "starlette", "uvicorn", "uvloop"})
_MOST_PROCESSES = 256  # more than any host has cores for

log = get_logger(__name__)


def command(
    processes: Annotated[
        int, typer.Option(min=1, max=_MOST_PROCESSES, metavar="N", help="So many processes on one port.")
    ] = 1,
) -> int:
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
        if processes > 1:
            return Processes(processes, listener, settings.drain_seconds).run()
        serve(settings, listener)
    return 0
