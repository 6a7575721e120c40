"""Secrets in files, as Docker and Kubernetes hand them over: ``REDIS_URL_FILE`` names the file that holds REDIS_URL."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from velesio_worker.core.secrets import GATEWAY_SECRETS, SECRET_URLS, SECRETS
from velesio_worker.wire.errors import SettingsError

HUB_TOKEN: Final = "HF_TOKEN"  # noqa: S105 (a variable's name)
"""A secret that is no setting of the worker's own: all that fetches from the Hugging Face hub reads it."""

FILED_OF_GATEWAY: Final = tuple(sorted(name.upper() for name in GATEWAY_SECRETS | {"redis_url"}))
FILED: Final = tuple(sorted(name.upper() for name in (SECRETS | SECRET_URLS) - GATEWAY_SECRETS))
"""The settings, of the gateway and of the worker, that may stand in a file of their own.

The file's variable has ``_FILE`` behind the name.
"""

_LARGEST: Final = 64 * 1024


def file_variable(name: str) -> str:
    """Return the variable that names the file of a secret."""
    return f"{name}_FILE"


def read_secret(name: str, environ: Mapping[str, str]) -> str | None:
    """Return a secret from the file that ``<name>_FILE`` names, without the line break at its end; None: none is named.

    Raises:
        SettingsError: the secret is given twice, or the file cannot be read or is empty.
    """
    variable = file_variable(name)
    path = environ.get(variable)
    if not path:
        return None
    if environ.get(name):
        raise SettingsError(f"{variable}={path!r}: {name} is set as well: unset one of {name} and {variable}")
    try:
        secret = _content(Path(path)).rstrip("\r\n")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(f"{variable}={path!r}: must be a file that this user can read ({why})") from None
    if not secret:
        raise SettingsError(f"{variable}={path!r}: the file is empty: write {name} into it, or unset {variable}")
    return secret


def read_secrets(environ: Mapping[str, str], names: Iterable[str] = FILED) -> dict[str, str]:
    """Return the settings that stand in files, by their fields' names. Raises SettingsError, a line a mistake."""
    found: dict[str, str] = {}
    mistakes: list[str] = []
    for name in names:
        try:
            secret = read_secret(name, environ)
        except SettingsError as error:
            mistakes.append(str(error))
        else:
            if secret is not None:
                found[name.lower()] = secret
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return found


def _content(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # no pipe is waited for
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
