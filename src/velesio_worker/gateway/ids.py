"""Ids of jobs: nobody can guess one, and any gateway sees without asking anybody whose it is.

``<name>.<token>.<mac>``: the name of the caller's token if that is made of characters of ids, when it was made and 128
random bits, and 128 bits of the HMAC-SHA256 (RFC 2104) of what stands in front, by a key that only who knows the
caller's token can make; bits as base64url.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import time
from typing import Final

from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.seen import note_job

_NAME: Final = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,63}")
_BYTES: Final = 16
_TIME_BYTES: Final = 5
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}\.[A-Za-z0-9_-]{28}\.[A-Za-z0-9_-]{22}")
_NAMELESS: Final = "job"


def new_job_id(caller: Caller) -> str:
    """Make the id of a job of a caller, and have the request's line in the log name it."""
    name = caller.name
    shown = name if name is not None and _NAME.fullmatch(name) else _NAMELESS
    made = int(time.time()).to_bytes(_TIME_BYTES, "big")
    head = f"{shown}.{_text(made + secrets.token_bytes(_BYTES))}"
    job_id = f"{head}.{_mac(head, caller.key)}"
    note_job(job_id)
    return job_id


def is_own(job_id: str, caller: Caller) -> bool:
    """Whether a job's id was made for this caller, whatever text it is. Takes as long whatever is wrong with it."""
    if not _ID.fullmatch(job_id):  # who knows the token, or that there is none, can put a MAC behind anything
        return False
    head, _, mac = job_id.rpartition(".")
    return hmac.compare_digest(_mac(head, caller.key), mac)


def made_at(job_id: str) -> float:
    """Return when an id that :func:`new_job_id` made was made, in Unix time, to the second."""
    token = job_id.rsplit(".", 2)[1]
    return float(int.from_bytes(base64.urlsafe_b64decode(token)[:_TIME_BYTES], "big"))


def _mac(head: str, key: bytes) -> str:
    return _text(hmac.digest(key, head.encode(), "sha256")[:_BYTES])


def _text(bits: bytes) -> str:
    return base64.urlsafe_b64encode(bits).rstrip(b"=").decode()
