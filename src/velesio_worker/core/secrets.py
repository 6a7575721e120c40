"""What of the settings' values is shown: no password, no key."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

SECRETS: Final = frozenset({"llama_api_key"})
SECRET_URLS: Final = frozenset({"redis_url", "llama_server_url", "sd_server_url", "model_url"})
SECRET_FLAGS: Final = re.compile(r"""(--(?:api-key|hf-token|api-auth|gradio-auth)(?:=|\s+))("[^"]*"?|'[^']*'?|\S+)""")
_PASSWORD: Final = re.compile(r"(?<=://)([^:@/?#]*):.*@", re.DOTALL)
_USER: Final = re.compile(r"(?<=://)[^/?#]*@")
_QUERY: Final = re.compile(r"\?[^#]*")
_AFTER_SCHEME: Final = re.compile(r"(?<=://).*", re.DOTALL)
_PASSWORD_PARAMETER: Final = re.compile(r"([?&](?:sentinel_)?password=)[^&#]*")


def hide_password(url: str) -> str:
    """Return ``url`` with its password, if any, replaced by ``***``."""
    parameter = _PASSWORD_PARAMETER.search(unquote(url))
    if parameter and ("@" in parameter.group() or not _PASSWORD_PARAMETER.search(url)):
        return _AFTER_SCHEME.sub("***", url)  # what belongs to which password cannot be told
    return _PASSWORD_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))


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
