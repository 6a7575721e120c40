"""``velesio-worker settings``: every setting, its value, where that is from, its default and meaning."""

from __future__ import annotations

import argparse
import os
import sys

from velesio_worker.cli.base import Commands, harmless, print_json
from velesio_worker.core.settings import load_settings
from velesio_worker.core.settings_list import describe, misspelt
from velesio_worker.gateway.settings import GatewaySettings, load_gateway_settings


def add_parser(commands: Commands) -> None:
    """Add the command to the command line."""
    settings = commands.add_parser("settings", help="show every setting: value, source, default, meaning")
    settings.add_argument("--gateway", action="store_true", help="those of the gateway instead of the worker's")
    settings.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run ``velesio-worker settings``; returns the exit code. Raises SettingsError."""
    rows = describe(load_gateway_settings() if arguments.gateway else load_settings(), os.environ)
    if arguments.json:
        print_json(rows)
        return 0
    for row in rows:
        value = "(not set)" if row["value"] is None else row["value"]
        default = "not set" if row["default"] is None else row["default"]
        shown = f"{row['name']}={value}\n    {row['description']}\n    from {row['source']}; default: {default}"
        print(harmless(shown))
    for found, meant in misspelt(os.environ, GatewaySettings):
        print(f"{harmless(found)} is no setting; did you mean {meant}?", file=sys.stderr)
    return 0
