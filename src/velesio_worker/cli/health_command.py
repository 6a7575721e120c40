"""``velesio-worker health`` among the other commands; ``health`` itself is light, and knows nothing of them."""

from __future__ import annotations

from typing import Annotated

import typer

from velesio_worker.cli.health import JSON_HELP, LIVE_HELP, ask


def command(
    *,
    live: Annotated[bool, typer.Option("--live", help=LIVE_HELP)] = False,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> int:
    """Ask the worker of this host how it is."""
    return ask(live=live, json=json)
