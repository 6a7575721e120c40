"""A Redis that says whatever a test wants, once a client of redis-py's is content with it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

import hiredis

from tests.support.peer import Guest, Peer, peer

_GREETING: Final = frozenset({b"CLIENT", b"HELLO", b"AUTH", b"SELECT"})

Say = Callable[[Guest, list[bytes]], Awaitable[None]]


@contextlib.asynccontextmanager
async def fake_redis(say: Say) -> AsyncGenerator[Peer]:
    """Serve commands by ``say``, which gets each but those of the greeting."""

    async def serve(guest: Guest) -> None:
        commands: Any = hiredis.Reader()
        while data := await guest.reader.read(65536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                if command[0].upper() in _GREETING:
                    await guest.say(b"+OK\r\n")
                else:
                    guest.requests.append(command[0])
                    await say(guest, command)
        guest.ended.set()

    async with peer(serve) as server:
        yield server
