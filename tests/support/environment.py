"""The environment of processes under test."""

from __future__ import annotations

import os

from velesio_worker.core.settings import Settings


def base_environment() -> dict[str, str]:
    """This process's environment without anything that a worker would read as a setting."""
    names = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in names}
