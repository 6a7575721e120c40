"""How the values of llama-server's flags are read; no wheel is needed for that."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

Read = Callable[[str], Any]
"""Reads a flag's text; raises ValueError or OSError."""

ON: Final = frozenset({"on", "enabled", "true", "1"})
OFF: Final = frozenset({"off", "disabled", "false", "0"})
AUTO: Final = frozenset({"auto", "-1"})
LAYERS: Final = MappingProxyType({"auto": -1, "all": -2})
_INT32: Final = 2**31


@dataclass(frozen=True, slots=True)
class Member:
    """The name of a member of one of the wheel's enumerations.

    Attributes:
        enumeration: the enumeration's name.
        name: the member's name.
    """

    enumeration: str
    name: str


def whole(text: str) -> int:
    """Read a whole number of 32 bits."""
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if not -_INT32 <= value < _INT32:
        raise ValueError(f"{text} is out of range")
    return value


def within(low: int, high: int = _INT32) -> Read:
    """Return a reader of whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        if not low <= (value := whole(text)) <= high:
            raise ValueError(f"{value} is out of range")
        return value

    return read


def slots(text: str) -> int:
    """Read a number of slots; a negative one means auto."""
    if not (value := whole(text)):
        raise ValueError("invalid value for n_parallel")
    return value


def number(text: str) -> float:
    """Read a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def positive(text: str) -> float:
    """Read a number above zero."""
    if (value := number(text)) <= 0:
        raise ValueError(f"{text} is not greater than 0")
    return value


def temperature(text: str) -> float:
    """Read a temperature; one below zero is zero."""
    return max(number(text), 0.0)


def seed(text: str) -> int:
    """Read a seed of 32 bits; -1 means a random one."""
    try:
        return int(text) % 2**32
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def layers(text: str) -> int:
    """Read a number of layers, ``auto`` or ``all``."""
    return LAYERS[text] if text in LAYERS else whole(text)


def threads(text: str) -> int:
    """Read a number of threads; zero or less means every core."""
    value = whole(text)
    return value if value > 0 else os.cpu_count() or 1


def on_off(text: str) -> bool:
    """Read on or off."""
    if text not in ON | OFF:
        raise ValueError(f"unknown value: {text!r}")
    return text in ON


def on_off_auto(text: str) -> bool | None:
    """Read on, off or auto (None)."""
    return None if text in AUTO else on_off(text)


def flash_attention(text: str) -> Member:
    """Read what ``--flash-attn`` takes."""
    name = {True: "ENABLED", False: "DISABLED", None: "AUTO"}[on_off_auto(text)]
    return Member("llama_flash_attn_type", f"LLAMA_FLASH_ATTN_TYPE_{name}")


def one_of(enumeration: str, words: str, others: Mapping[str, str] = MappingProxyType({})) -> Read:
    """Return a reader of an enumeration's members.

    Args:
        enumeration: its name; in the extension the members' names begin with it, in capitals.
        words: the words that are taken, divided by spaces.
        others: what those words mean that are not the members' names.
    """

    def read(text: str) -> Member:
        if text not in words.split():
            raise ValueError(f"{text!r} is not one of: {', '.join(words.split())}")
        name = others.get(text, text).upper().replace("-", "_")
        return Member(enumeration, f"{enumeration.upper()}_{name}")

    return read


def some_of(enumeration: str, words: str) -> Read:
    """Return a reader of several members of an enumeration, divided by commas."""
    read = one_of(enumeration, words)
    return lambda text: [read(item) for item in text.split(",")]


def listed(text: str) -> list[str]:
    """Read a list divided by commas, in which quotes hold a comma together; the spaces around each item go."""
    return [item.strip() for row in csv.reader([text]) for item in row if item.strip()]


def hosts(text: str) -> list[str]:
    """Read the addresses to listen on."""
    if not (found := listed(text)):
        raise ValueError("--host requires at least one address")
    return found


def content(text: str) -> str:
    """Read the file of this name."""
    return Path(text).read_text(encoding="utf-8")


def keys_in(text: str) -> list[str]:
    """Read the keys in the file of this name, one a line; lines that begin with # are comments."""
    return [line for line in content(text).splitlines() if line and not line.startswith("#")]


def folder(text: str) -> str:
    """Read the name of a folder; llama.cpp wants the slash at its end."""
    if not Path(text).is_dir():
        raise ValueError(f"not a directory: {text}")
    return f"{text.rstrip('/')}/"


def parts(text: str) -> list[float]:
    """Read numbers divided by commas or slashes."""
    return [number(item) for item in re.split("[,/]+", text)]


def adapters(text: str) -> list[tuple[str, float]]:
    """Read ``FNAME,...``: paths, each with the scale 1."""
    return [(path, 1.0) for path in listed(text)]


def scaled_adapters(text: str) -> list[tuple[str, float]]:
    """Read ``FNAME:SCALE,...``: paths, each with its scale."""
    pairs = [item.partition(":") for item in listed(text)]
    if not all(colon and ":" not in scale for _, colon, scale in pairs):
        raise ValueError("lora-scaled format: FNAME:SCALE")
    return [(path, number(scale)) for path, _, scale in pairs]


def template_values(text: str) -> dict[str, str]:
    """Read a JSON object; its values stay JSON."""
    found: Any = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 (the text is wrong)
    items: dict[str, Any] = dict(found)  # pyright: ignore[reportUnknownArgumentType] (JSON's names are strings)
    return {name: json.dumps(value) for name, value in items.items()}
