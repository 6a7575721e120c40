"""The scripts: read and hashed once for a whole process."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import pytest

from velesio_worker.queue.connection import connect
from velesio_worker.queue.scripts import Scripts

pytestmark = pytest.mark.anyio


class Listener:
    """Hears what files the process opens while it listens."""

    def __init__(self) -> None:
        self.listens = False
        self.opened: list[str] = []
        sys.addaudithook(self._hear)  # which is for good

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.listens and event == "open":
            self.opened.append(str(arguments[0]))


async def test_whoever_needs_the_scripts_reads_and_hashes_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []
    real = hashlib.sha1

    def sha1(data: bytes = b"", **_: Any) -> Any:
        hashed.append(data)
        return real(data)

    monkeypatch.setattr(hashlib, "sha1", sha1)
    listener = Listener()
    redis = connect("redis://127.0.0.1:1", name="test")
    listener.listens = True
    Scripts(redis)
    listener.listens = False
    await redis.aclose()
    assert (listener.opened, hashed) == ([], [])
