"""Every environment variable of the gateway, in one model."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from velesio_worker.core.exposure import is_loopback
from velesio_worker.core.redis_url import with_authorities
from velesio_worker.core.secret_files import FILED_OF_GATEWAY
from velesio_worker.core.setting_types import (
    MEBIBYTE,
    QUEUE_NAME,
    REDIS_URL,
    AuthoritiesFile,
    Count,
    EnvironmentSettings,
    LogFormat,
    LogLevel,
    LogShape,
    Port,
    QueueName,
    RedisAddress,
    Seconds,
    SecondsOrNever,
    number_of_bytes,
    read_by,
    settings_of,
)
from velesio_worker.gateway.tokens import read_tokens
from velesio_worker.wire.errors import SettingsError

_RATE: Final = re.compile(r"\s*[1-9][0-9]{0,8}\s*(?:/|per)\s*(?:[1-9][0-9]{0,4}\s*)?(?:second|minute|hour|day)s?\s*")
_ALL: Final = "*"


def origins_of(value: str) -> list[str]:
    """Return the origins that a text names, with commas between them. Raises ValueError: one of them is none."""
    origins = [origin.strip().rstrip("/") for origin in value.split(",") if origin.strip()]
    for origin in origins:
        if origin != _ALL and not _is_origin(origin):
            raise ValueError("origins such as https://chat.example.org with commas between them, or *")
    return origins


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    shown = f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")
    return bool(parts.scheme and parts.hostname) and shown == text.lower().replace("[", "").replace("]", "")


def _rate(value: str) -> None:
    if not all(_RATE.fullmatch(part) for part in value.split(";")):
        raise ValueError("requests per time, such as 60/minute, 5/second;1000/day or 100/15minutes")


class GatewaySettings(EnvironmentSettings):
    """The gateway's settings; each field is an environment variable of the same name in capitals."""

    redis_url: RedisAddress = REDIS_URL
    queue_name: QueueName = QUEUE_NAME
    gateway_host: str = Field(
        default="127.0.0.1",
        description="The address that the gateway listens on; 0.0.0.0 for all networks, which takes API_TOKENS.",
    )
    gateway_port: Port = Field(default=8080, description="The port that the gateway listens on.")
    api_tokens: Annotated[str, read_by(read_tokens)] | None = Field(
        default=None,
        description="The tokens that clients may show, each token or name=token, with commas or line breaks between "
        "them. Default: none is asked for, and only this host can connect.",
    )
    cors_origins: Annotated[str, read_by(origins_of)] = Field(
        default="",
        description="The origins of web pages that may use the gateway from a browser, with commas between them; "
        "* for any.",
    )
    max_body_bytes: Annotated[Count, BeforeValidator(number_of_bytes)] = Field(
        default=32 * MEBIBYTE, description="The largest body of a request, in bytes, or as 64MiB."
    )
    body_seconds: Seconds = Field(
        default=30,
        description="How long the head of a request may take, and then its body, in seconds; a connection on which "
        "nothing is asked is closed after as long.",
    )
    max_queue: Count = Field(
        default=1000, description="So many jobs may wait for workers; while they do, further ones get 429."
    )
    rate_limit: Annotated[str, read_by(_rate)] | None = Field(
        default=None,
        description="Requests per token and gateway process, such as 60/minute or 5/second;1000/day. Default: any.",
    )
    concurrency_limit: Count | None = Field(
        default=None, description="Requests at a time per token and gateway process. Default: any number."
    )
    drain_seconds: SecondsOrNever = Field(
        default=30, description="How long running requests may go on after SIGTERM, in seconds."
    )
    ca_file: AuthoritiesFile | None = Field(
        default=None,
        description="A file of PEM certificates of authorities of your own for rediss://; "
        "ssl_ca_certs in REDIS_URL goes before it.",
    )
    log_level: LogLevel = "INFO"
    log_format: LogShape = LogFormat.CONSOLE


def load_gateway_settings() -> GatewaySettings:
    """Read the settings from the environment.

    Raises:
        SettingsError: one line per mistake, each with the variable, its value and what is allowed.
    """
    settings = settings_of(GatewaySettings, FILED_OF_GATEWAY)
    if settings.api_tokens is None and not is_loopback(settings.gateway_host):
        raise SettingsError(
            f"GATEWAY_HOST={settings.gateway_host!r}: without API_TOKENS anybody who reaches that address could run "
            "jobs: set API_TOKENS (or API_TOKENS_FILE), or let GATEWAY_HOST be 127.0.0.1"
        )
    if settings.ca_file is None:
        return settings
    return settings.model_copy(update={"redis_url": with_authorities(settings.redis_url, settings.ca_file)})
