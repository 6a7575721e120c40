"""The token in the one form of authorisation that the WebUI's clients have."""

from __future__ import annotations

import base64
import binascii


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
