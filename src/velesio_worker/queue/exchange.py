"""An exchange with one server: commands go out, their replies come back, with little in between.

redis-py wraps each command in a retry, in events, in records for a collector of its own, in a task for the writing and
in a lock for the pool: several times the cost of the command itself. None of that is wanted here, where nothing is
repeated by itself. Connecting, authentication, TLS, Sentinels and the parsing of replies stay redis-py's.
"""

# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001 (redis-py has no other names for a connection's two ends and for what its pool holds)

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

Words = Sequence[str | bytes | int | float]

pack: Final[Callable[[tuple[str | bytes | int | float, ...]], bytes]] = cast("Any", hiredis).pack_command
"""Write a command as the Redis protocol has it."""

_ROOM: Final = 64 * 1024
"""What the operating system has not taken yet of a command before its taking is waited for, in bytes."""


async def exchange(pool: Any, commands: Sequence[Words]) -> list[Any]:  # noqa: ANN401 (any pool of redis-py's)
    """Send commands over one of a pool's connections, in one go; returns their replies, ``ResponseError`` among them.

    A reply that does not come within the connection's ``socket_timeout``, and whoever is cancelled meanwhile, costs the
    connection: what comes late belongs to nobody else.

    Raises:
        redis.exceptions.ConnectionError: there is no connection, or it was lost.
        redis.exceptions.TimeoutError: no reply came in time.
    """
    connection = _idle(pool) or await pool.get_connection()
    sound = False
    try:
        await _send(connection, commands)
        replies = await _receive(connection, len(commands))
        sound = not any(isinstance(reply, ReadOnlyError) for reply in replies)  # else the primary is another one now
    except TimeoutError:
        raise RedisTimeoutError(f"no reply in {connection.socket_timeout:g} s") from None
    except OSError as error:
        raise RedisConnectionError(f"the connection was lost ({error})") from error
    finally:
        if not sound:
            await connection.disconnect(nowait=True)
        await _put_back(pool, connection)
    return replies


def _idle(pool: Any) -> Any:  # noqa: ANN401 (redis-py's)
    """Take a connection of the pool's that can be used as it is; None if there is none."""
    while pool._available_connections:
        connection = pool._available_connections[-1]
        reader, writer = connection._reader, connection._writer
        if reader is None or reader.at_eof() or reader._buffer or writer.transport.is_closing():
            return None  # redis-py looks after it
        pool._available_connections.pop()
        pool._in_use_connections.add(connection)
        return connection
    return None


async def _put_back(pool: Any, connection: Any) -> None:  # noqa: ANN401 (redis-py's)
    """Give a connection back, at once if nothing is to be done for that."""
    if connection.should_reconnect():
        await pool.release(connection)
    elif connection in pool._in_use_connections:
        pool._in_use_connections.remove(connection)
        pool._available_connections.append(connection)


async def _send(connection: Any, commands: Sequence[Words]) -> None:  # noqa: ANN401 (redis-py's)
    writer = connection._writer
    writer.write(b"".join([pack(tuple(words)) for words in commands]))
    if writer.transport.get_write_buffer_size() > _ROOM:
        async with asyncio.timeout(connection.socket_timeout):
            await writer.drain()


async def _receive(connection: Any, count: int) -> list[Any]:  # noqa: ANN401 (redis-py's)
    parser, replies = connection._parser, list[Any]()
    async with asyncio.timeout(connection.socket_timeout):
        for _ in range(count):
            replies.append(await parser.read_response())
    return replies


def raised(reply: Any) -> Any:  # noqa: ANN401 (as Redis answers)
    """Return a reply, or raise it if it is an error."""
    if isinstance(reply, ResponseError):
        raise reply
    return reply
