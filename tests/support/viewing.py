"""Streams as a worker writes them, and viewers of a hub."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio

from tests.support.waiting import until
from velesio_worker.client.fanout import Hub, ViewEnd

DONE = {"finish_reason": "stop", "usage": None, "timings": None}


def token(text: str) -> dict[str, Any]:
    return {"choices": [{"text": text, "index": 0, "finish_reason": None}]}


async def write(
    commands: Any, job_id: str, tokens: Sequence[str] = (), *, first: int = 0, attempt: int = 1, done: bool = False
) -> None:
    """Write entries as a worker does: a ``start`` where the attempt begins, tokens, and the last entry."""
    entries: list[tuple[str, dict[str, Any]]] = [] if first else [("start", {"created": round(time.time(), 3)})]
    entries += [("token", token(text)) for text in tokens]
    entries += [("done", DONE)] if done else []
    async with commands.pipeline(transaction=False) as pipe:
        for sequence, (event, data) in enumerate(entries, first):
            fields = {"event": event, "data": json.dumps(data)}
            pipe.xadd(f"stream:{job_id}", fields, id=f"{attempt}-{sequence}")
        await pipe.execute()


class Frame(NamedTuple):
    """A server-sent event as a reader of the standard has it."""

    id: str
    event: str
    data: Any


def frames(sent: bytes) -> list[Frame]:
    """Read what was sent; comments are passed over."""
    text = "\n".join(line for line in sent.decode().split("\n") if not line.startswith(":"))
    found: list[Frame] = []
    for block in text.split("\n\n"):
        if block:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            found.append(Frame(fields["id"], fields["event"], json.loads(fields["data"])))
    return found


class Screen:
    """A viewer's side of a socket.

    Attributes:
        sent: all that it took.
        pieces: in how many pieces.
        end: how its view ended.
    """

    def __init__(self, *, takes: bool = True) -> None:
        self.sent = b""
        self.pieces = 0
        self.end: ViewEnd | None = None
        self._open = anyio.Event()
        if takes:
            self._open.set()

    def take(self) -> None:
        """Take what comes from now on."""
        self._open.set()

    def take_nothing(self) -> None:
        """Have the next send wait."""
        self._open = anyio.Event()

    async def send(self, data: bytes) -> None:
        if not self._open.is_set():
            await self._open.wait()
        self.sent += data
        self.pieces += 1

    async def look(self, hub: Hub, job_id: str, after: str = "0-0") -> None:
        self.end = await hub.show(job_id, after, self.send)

    @property
    def frames(self) -> list[Frame]:
        return frames(self.sent)

    @property
    def ids(self) -> list[str]:
        return [frame.id for frame in self.frames]

    async def has(self, number: int) -> None:
        """Wait until it took so many frames."""
        await until(lambda: self.sent.count(b"\nevent: ") >= number)


@asynccontextmanager
async def shown(hub: Hub, *jobs: tuple[str, str]) -> AsyncGenerator[list[Screen]]:
    """Have jobs shown, each from after an entry; on leaving wait for their ends."""
    screens = [Screen() for _ in jobs]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for screen, (job_id, after) in zip(screens, jobs, strict=True):
                group.start_soon(screen.look, hub, job_id, after)
            yield screens
