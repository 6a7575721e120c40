"""The settings, listed for people and programs; and names in the environment that look like a setting's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_settings import BaseSettings

from velesio_worker.core.secret_files import FILED, FILED_OF_GATEWAY, HUB_TOKEN, file_variable
from velesio_worker.core.secrets import masked
from velesio_worker.core.settings import Settings


def misspelt(environ: Iterable[str], *others: type[BaseSettings]) -> list[tuple[str, str]]:
    """Find variables that look like a setting's name with a slip, as pairs (found, meant).

    Args:
        environ: the names of the variables that there are.
        others: models of settings that are known beside the worker's.
    """
    filed = [file_variable(name) for name in (*FILED, *FILED_OF_GATEWAY, HUB_TOKEN)]
    known = [*(name.upper() for model in (Settings, *others) for name in model.model_fields), *filed]
    pairs: list[tuple[str, str]] = []
    for name in sorted(set(environ) - set(known)):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.88)
        if close:
            pairs.append((name, close[0]))
    return pairs


def describe(settings: BaseSettings, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """List every setting as read from ``environ``, where it comes from, default and meaning; secrets are hidden.

    Returns:
        one ``{"name", "value", "source", "default", "description"}`` per setting, ``source`` being ``environment``,
        ``file`` (``<name>_FILE``) or ``default``; values are strings, or None where there is none.
    """
    rows: list[dict[str, Any]] = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        rows.append(
            {
                "name": name.upper(),
                "value": None if value is None else masked(name, _shown(value)),
                "source": _source(name.upper(), environ),
                "default": None if field.default is None else _shown(field.default),
                "description": field.description,
            }
        )
    return rows


def _source(name: str, environ: Mapping[str, str]) -> str:
    if environ.get(name):
        return "environment"
    return "file" if name in {*FILED, *FILED_OF_GATEWAY} and environ.get(file_variable(name)) else "default"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value)
