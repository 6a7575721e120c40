"""Where a model comes from: a URL, or ``hf:owner/repo/file``, with its checksum behind ``#sha256=``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from velesio_worker.core.secret_files import HUB_TOKEN, read_secret
from velesio_worker.wire.errors import SettingsError

_HUB: Final = "https://huggingface.co"
_SHA256: Final = re.compile(r"sha256=([0-9a-fA-F]{64})")
_HF_PARTS: Final = 3
_PAGE: Final = re.compile(r"(/[^/]+/[^/]+)/blob/")
"""A file's page on the hub is /owner/repo/blob/main/model.gguf; the file itself has ``resolve`` there."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        url: where it is downloaded from.
        filename: its file's name.
        sha256: its checksum, 64 hexadecimal digits; None if none was given.
        hub: whether it lies on the Hugging Face hub, which may want a token (``HF_TOKEN``).
    """

    url: str
    filename: str
    sha256: str | None = None
    hub: bool = False


def parse_model_source(text: str) -> ModelSource:
    """Read where a model comes from.

    Args:
        text: ``https://host/path/model.gguf`` or ``hf:owner/repo/path/model.gguf``; ``hf:owner/repo@revision/…``
            names a branch, tag or commit; ``#sha256=<64 hex digits>`` may follow. ``HF_ENDPOINT`` names another hub.

    Raises:
        ValueError: it is neither; the message says what is expected.
    """
    location, _, fragment = text.partition("#")
    checksum = _SHA256.fullmatch(fragment)
    if fragment and checksum is None:
        raise ValueError("a URL or hf:owner/repo/file, and behind it #sha256= with 64 hexadecimal digits")
    endpoint = os.environ.get("HF_ENDPOINT") or _HUB
    hub = split_http_url(endpoint)
    if location.startswith("hf:"):
        if hub is None:
            raise ValueError(f"a URL, or HF_ENDPOINT one such as {_HUB}")
        location = _hub_url(endpoint.rstrip("/"), location.removeprefix("hf:"))
    parts = split_http_url(location)
    filename = PurePosixPath(unquote(parts.path)).name if parts else ""
    if parts is None or not filename.endswith(".gguf") or not filename.isprintable():
        raise ValueError("a URL such as https://host/model.gguf, or hf:owner/repo/model.gguf")
    on_hub = hub is not None and (parts.scheme, parts.netloc) == (hub.scheme, hub.netloc)
    page = _PAGE.match(parts.path) if on_hub else None
    if page:
        location = parts._replace(path=f"{page.group(1)}/resolve/{parts.path[page.end() :]}").geturl()
    return ModelSource(location, filename, checksum.group(1).lower() if checksum else None, on_hub)


def hub_token() -> str | None:
    """Return the user's token on the Hugging Face hub (``HF_TOKEN``, or the file ``HF_TOKEN_FILE``), or None.

    Raises:
        SettingsError: it cannot be one, or its file cannot be read.
    """
    token = (read_secret(HUB_TOKEN, os.environ) or os.environ.get(HUB_TOKEN, "")).strip()
    if not (token.isascii() and token.isprintable()):
        raise SettingsError("HF_TOKEN holds characters that no token has: copy it again")
    return token or None


def split_http_url(url: str) -> SplitResult | None:
    """Split a URL; None if it is none that HTTP could reach."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if usable else None


def _hub_url(endpoint: str, path: str) -> str:
    owner, repo, file = ([*path.split("/", _HF_PARTS - 1), "", ""])[:_HF_PARTS]
    repo, _, revision = repo.partition("@")
    if not (owner and repo and file):
        return ""
    return f"{endpoint}/{owner}/{repo}/resolve/{quote(revision or 'main', safe='')}/{quote(file)}"
