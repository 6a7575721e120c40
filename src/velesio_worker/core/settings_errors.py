"""A mistake in a setting, in words for people."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from pydantic_core import ErrorDetails

from velesio_worker.core.secrets import URLS, masked, unread

_HINTS: Final[Mapping[str, str]] = {"gpu_layers": ": 0 for none, 999 for all"}  # -1 is what llama.cpp has for all
_UNITS: Final[Mapping[str, str]] = {
    "_seconds": " of seconds",
    "_ttl": " of seconds",
    "_timeout": " of seconds",
    "_bytes": " of bytes",
}


def complaint(mistake: ErrorDetails) -> str:
    """Say one mistake: the variable, its value and what is allowed."""
    name = str(mistake["loc"][0])
    value = os.environ.get(name.upper(), str(mistake["input"]))
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    plain = {
        "bool_parsing": "true or false",
        "float_parsing": f"a number{unit}",
        "int_parsing": f"a whole number{unit}",
    }
    said = mistake["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    kind = mistake["type"].replace("int_parsing_size", "int_parsing")
    shown = unread(value) if name in URLS else masked(name, value)
    return f"{name.upper()}={shown!r}: must be {plain.get(kind, said)}{_HINTS.get(name, '')}"
