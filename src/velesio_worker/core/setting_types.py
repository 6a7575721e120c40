"""What settings are made of: the types of their values, and those that worker and gateway have in common."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from velesio_worker.core.model_source import split_http_url
from velesio_worker.core.redis_options import authorities_file
from velesio_worker.core.redis_url import check_redis_url
from velesio_worker.core.secret_files import FILED, read_secrets
from velesio_worker.core.settings_errors import complaint
from velesio_worker.wire.errors import SettingsError

MEBIBYTE: Final = 1024 * 1024
LARGEST: Final = 2**31 - 1  # what engines and Redis read as an int
LONGEST: Final = 10**9  # seconds; Redis refuses much longer lives, and timers overflow


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    CONSOLE = "console"


def words_of(value: str) -> list[str]:
    """Return the words of a command line. Raises ValueError."""
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"a command line with balanced quotes ({error})") from None
    if not words:
        raise ValueError("a command line")
    return words


def read_by(read: Callable[[str], object]) -> AfterValidator:
    """Have a text stay as it is, if whoever needs it can read it."""

    def check(value: str) -> str:
        read(value)
        return value

    return AfterValidator(check)


def _http_url(value: str) -> str:
    if split_http_url(value) is None:
        raise ValueError("a URL such as http://127.0.0.1:8080")
    return value.rstrip("/")


def _queue_name(value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", value):
        raise ValueError("one or more of A-Z a-z 0-9 . _ : -")


def number_of_bytes(value: object) -> object:
    """Read a number of bytes with or without a unit, as 24GiB, 24G or 25769803776."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|b)?", value.strip().lower())
    if found is None:
        raise ValueError("a number of bytes, such as 24GiB or 512MiB, or 0")
    return int(float(found[1]) * 1024 ** (" kmgt".index(found[2]) if found[2] else 0))


def upper(value: object) -> object:
    """Return a text in capitals."""
    return value.upper() if isinstance(value, str) else value


def lower(value: object) -> object:
    """Return a text in small letters."""
    return value.lower() if isinstance(value, str) else value


Command = Annotated[str, read_by(words_of)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False)]
SecondsOrNever = Annotated[float, Field(ge=0, le=LONGEST, allow_inf_nan=False)]
WholeSeconds = Annotated[int, Field(ge=1, le=LONGEST)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Port = Annotated[int, Field(ge=1, le=65535)]

RedisAddress = Annotated[
    str,
    read_by(check_redis_url),
    Field(description="Where Redis is: redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://."),
]
QueueName = Annotated[
    str,
    read_by(_queue_name),
    Field(description="The list that producers push to; every other queue key is named after it."),
]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    BeforeValidator(upper),
    Field(description="The least important lines that are logged: debug, info, warning or error."),
]
LogShape = Annotated[
    LogFormat,
    BeforeValidator(lower),
    Field(description="json (one object a line) or console (for people)."),
]
AuthoritiesFile = Annotated[Path, AfterValidator(authorities_file)]

REDIS_URL: Final = "redis://redis:6379"
QUEUE_NAME: Final = "llama_queue"
"""Where Redis is, and what the queue is called, where nobody says."""


class EnvironmentSettings(BaseSettings):
    """Settings that are read from the environment and nowhere else: looking elsewhere takes half of the time."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", protected_namespaces=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values come from: who makes the settings, then the environment."""
        del settings_cls, dotenv_settings, file_secret_settings
        return init_settings, env_settings


AnySettings = TypeVar("AnySettings", bound=EnvironmentSettings)


def settings_of(model: type[AnySettings], filed: tuple[str, ...] = FILED) -> AnySettings:
    """Read settings from the environment.

    Args:
        model: the settings.
        filed: those whose value may stand in a file that ``<name>_FILE`` names.

    Raises:
        SettingsError: one line per mistake, each with the variable, its value and what is allowed.
    """
    secrets = read_secrets(os.environ, filed)
    try:
        return model(**secrets)  # pyright: ignore[reportArgumentType] (texts, which are read as those of variables)
    except ValidationError as error:
        raise SettingsError("\n".join(map(complaint, error.errors(include_url=False)))) from None
