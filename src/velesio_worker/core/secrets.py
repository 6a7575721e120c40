"""What of the settings' values is shown: no password, no key."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

GATEWAY_SECRETS: Final = frozenset({"api_tokens"})
SECRETS: Final = frozenset({"llama_api_key"}) | GATEWAY_SECRETS
SECRET_URLS: Final = frozenset({"redis_url", "llama_server_url", "sd_server_url", "model_url"})
URLS: Final = SECRET_URLS | {"result_store_url"}
SECRET_FLAGS: Final = re.compile(r"""(--(?:api-key|hf-token|api-auth|gradio-auth)(?:=|\s+))("[^"]*"?|'[^']*'?|\S+)""")
_PASSWORD: Final = re.compile(r"(?<=://)([^:@/?#]*):.*@", re.DOTALL)
_LOGIN: Final = re.compile(r"^(?!https?:)[^:]*://(?=[^@]*[:/?#]).*@", re.DOTALL)
"""One in which it cannot be told where the user ends."""

_USER: Final = re.compile(r"(?<=://)[^/?#]*@")
_QUERY: Final = re.compile(r"\?[^#]*")
_AFTER_SCHEME: Final = re.compile(r"(?<=://).*", re.DOTALL)
_PASSWORD_PARAMETER: Final = re.compile(r"([?&](?:sentinel_)?password=)[^&#]*")
_PARAMETER: Final = re.compile(r"(?<=[?&])([^=&#?]+)(=?)([^&#]*)")
_HARMLESS: Final = re.compile(r"db|(sentinel_)?username|socket_\w+|health_check_interval|ssl_\w+|decode_responses")
"""Parameters of a URL whose values may be shown; of any other one the name may have a slip."""

_SCHEME: Final = re.compile(r"(?:(?:rediss?(?:\+(?:sentinel|cluster))?|unix|https?|s3):(?://)?|hf:)")

_NO_PORT: Final = re.compile(r"(?<=://)([^:@/?#,\[\]]*):(?!([0-9]{1,5}|port|)(?:[,/?#]|$))[^/?#,]*")
"""A login whose host was left out, which then stands where host and port would; a number may be a port."""


def hide_password(url: str) -> str:
    """Return ``url`` with its password, if any, replaced by ``***``, however wrong the URL is."""
    if "://" not in url:
        return f"***{url[url.rindex('@') :]}" if "@" in url else url
    parameter = _PASSWORD_PARAMETER.search(unquote(url))
    if parameter and ("@" in parameter.group() or not _PASSWORD_PARAMETER.search(url)):
        return _AFTER_SCHEME.sub("***", url)  # what belongs to which password cannot be told
    shown = _PASSWORD.sub(r"\1:***@", url, count=1)
    if shown == url and _LOGIN.match(url):
        shown = f"{url.partition('://')[0]}://***{url[url.rindex('@') :]}"
    if "@" not in shown:
        shown = _NO_PORT.sub(r"\1:***", shown)
    return _PARAMETER.sub(_parameter, shown)


def unread(url: str) -> str:
    """Return what may be shown of a URL that could not be read: where its password stands nobody knows.

    Nothing but the scheme, if it is one that is known: another may be a user, or a password by itself.
    """
    scheme = _SCHEME.match(url.strip())
    return f"{scheme.group()}***" if scheme else "***" if url else url


def _parameter(found: re.Match[str]) -> str:
    name, equals, _ = found.groups()
    if _HARMLESS.fullmatch(name):
        return found.group()
    is_rest = "pass" not in name and "password=" in found.string[: found.start()]  # of one with an & in it
    return f"{name}=***" if equals and not is_rest else "***"


_ASSIGNED: Final = re.compile(
    r"((?:(?:(?<![a-z])|(?<=api))(?:key|token)|secret|password|passwd|passphrase)\w{0,40}"
    r"(?: ?= ?|=|[\"']\s?:\s?)[\"']?)(?!\d+(?:\.\d+)?(?![^\s,;\"'}]))[^\s,;\"'}]+",
    re.IGNORECASE,
)
_HINTS: Final = ("://", "key", "token", "secret", "passw", "passphrase", "bearer ", "basic ", "-auth")
_BEARER: Final = re.compile(r"\b(bearer |basic )[\w.~+/=-]{6,}", re.IGNORECASE)
_ANY_LOGIN: Final = re.compile(r"(://[^/\s:@]{0,200}:)[^/\s@]{1,500}@")


def hide_secrets(line: str) -> str:
    """Return a line that another program wrote with ``***`` for what looks like a password, a key or a token.

    Numbers stay: a model's tokens have such.
    """
    lower = line.lower()
    if not any(hint in lower for hint in _HINTS):  # which is quick, and nearly always enough to know
        return line
    line = _ANY_LOGIN.sub(r"\1***@", line)
    line = _BEARER.sub(r"\1***", line)
    return SECRET_FLAGS.sub(r"\1***", _ASSIGNED.sub(r"\1***", line))


def masked(name: str, value: str) -> str:
    """Return a setting's value as it may be shown."""
    if name in SECRETS:
        return "***"
    if name == "model_url":
        value = _QUERY.sub("?***", value)  # signed URLs carry their key there
        value = _USER.sub("***@", value)
    if name in SECRET_URLS:
        return hide_password(value)
    return SECRET_FLAGS.sub(r"\1***", value)
