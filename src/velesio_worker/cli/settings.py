"""``velesio-worker settings``: every setting, its value, where that is from, its default and meaning."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from velesio_worker.cli.base import harmless, print_json
from velesio_worker.core.settings import load_settings
from velesio_worker.core.settings_list import describe, misspelt
from velesio_worker.gateway.settings import GatewaySettings, load_gateway_settings


def command(
    *,
    gateway: Annotated[bool, typer.Option("--gateway", help="Those of the gateway instead of the worker's.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show every setting. Raises SettingsError."""
    rows = describe(load_gateway_settings() if gateway else load_settings(), os.environ)
    if json:
        print_json(rows)
        return
    for row in rows:
        value = "(not set)" if row["value"] is None else row["value"]
        default = "not set" if row["default"] is None else row["default"]
        shown = f"{row['name']}={value}\n    {row['description']}\n    from {row['source']}; default: {default}"
        print(harmless(shown))
    for found, meant in misspelt(os.environ, GatewaySettings):
        print(f"{harmless(found)} is no setting; did you mean {meant}?", file=sys.stderr)
