"""How dead letters are written (wire protocol, section 2)."""

from __future__ import annotations

import base64
import time
from typing import Any, Final

import orjson

_CONTROL: Final = bytes(range(32))
_ESCAPED: Final = 6
"""How many bytes JSON makes of a control character."""


def letter_of(worker: str, payload: bytes, reason: str, *, size: int) -> bytes:
    """Write a dead letter, ``size`` being the whole job's bytes; what is no text is kept as base64."""
    letter: dict[str, Any] = {"reason": reason, "at": round(time.time(), 3), "worker": worker, "bytes": size}
    escaped = len(payload) - len(payload.translate(None, _CONTROL))
    try:
        if (_ESCAPED - 1) * escaped > len(payload):
            raise UnicodeError  # noqa: TRY301 (as text it would be many times as large)
        return orjson.dumps(letter | {"payload": payload.decode()})
    except UnicodeError:
        return orjson.dumps(letter | {"payload_base64": base64.b64encode(payload).decode()})
