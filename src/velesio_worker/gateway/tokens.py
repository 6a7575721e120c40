"""Who asks: tokens, compared in constant time over their hashes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from velesio_worker.wire.limits import LONGEST_TENANT

_SEPARATOR: Final = re.compile(r"[,\r\n]")
_OPEN_KEY: Final = hashlib.sha256(b"velesio-worker gateway: job ids where no token is set").digest()
"""What binds job ids where everybody is the same caller: they are random all the same."""


class Token(NamedTuple):
    """A token that may be shown.

    Attributes:
        name: what it is called in logs, in job ids and as the tenant of its jobs.
        digest: its SHA-256; the token itself is not kept.
        key: what binds job ids to it.
    """

    name: str
    digest: bytes
    key: bytes


def read_tokens(text: str) -> list[Token]:
    """Return the tokens that a text names, each ``token`` or ``name=token``, with commas or line breaks between them.

    A token without a name is called after the beginning of its hash, so that its name does not depend on the others.

    Raises:
        ValueError: there is none, one is no token, or one is there twice.
    """
    tokens = [_token(entry.strip()) for entry in _SEPARATOR.split(text) if entry.strip()]
    if not tokens:
        raise ValueError("one or more tokens, each token or name=token, with commas or line breaks between them")
    if len({token.digest for token in tokens}) < len(tokens):
        raise ValueError("tokens that differ: one is there twice")
    return tokens


def _token(entry: str) -> Token:
    name, _, secret = entry.partition("=")
    name = name.strip()
    if not secret.strip("="):  # no name, or the padding of base64
        name, secret = "", entry
    secret = secret.strip()
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise ValueError("tokens of printable ASCII characters without spaces: they come in an HTTP header")
    if not name.isprintable() or len(name) > LONGEST_TENANT:
        raise ValueError(f"names of up to {LONGEST_TENANT} printable characters")
    digest = hashlib.sha256(secret.encode()).digest()
    key = hmac.digest(secret.encode(), b"velesio-worker gateway: job ids", "sha256")
    return Token(name or f"token-{digest.hex()[:8]}", digest, key)


class Tokens:
    """The tokens that may be shown; none: nobody is asked.

    Args:
        tokens: those that may be.
    """

    open_key: Final = _OPEN_KEY

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._tokens = tuple(tokens)

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def find(self, shown: str) -> Token | None:
        """Return the token that was shown, None if it is none. Takes as long whichever it is."""
        digest = hashlib.sha256(shown.encode(errors="surrogateescape")).digest()
        found: Token | None = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def token_in_basic(header: str) -> str | None:
    """Return the password of an ``Authorization: Basic`` header, which is the token; whoever it is from is no matter.

    Args:
        header: the header's value.

    Returns:
        The password; None if the header is of another kind, or is none.
    """
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    _, colon, password = text.partition(":")
    return password if colon else None
