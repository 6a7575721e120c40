"""How a connection to an engine is made: whatever a name stands for, within one time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from velesio_worker.engines.http.connection import Connection


async def connect(host: str, port: int, tls: ssl.SSLContext | None, seconds: float) -> Connection:
    """Connect to a server.

    Args:
        host: its name or address; of a name's addresses each gets its share of the time.
        port: its port.
        tls: how its certificate is checked; None for no TLS.
        seconds: how long that may take.

    Raises:
        TimeoutError: it took longer.
        OSError: it cannot be reached, or its certificate is not what it should be.
        UnicodeError: the name is none that a resolver can be asked for.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    async with asyncio.timeout_at(ends_at):
        addresses = await _addresses(host, port)
    name = host if tls else None
    for others in reversed(range(len(addresses))):
        address = addresses[-1 - others]
        try:
            async with asyncio.timeout((ends_at - loop.time()) / (1 + others)):
                _, connection = await loop.create_connection(Connection, address, port, ssl=tls, server_hostname=name)
                return connection
        except OSError:
            if not others:
                raise
    raise OSError(f"{host} has no address")


async def _addresses(host: str, port: int) -> list[str]:
    """Return a host's addresses in the order in which they are to be tried."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)  # asks nobody
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [_written(at) for *_, at in found]


def _written(address: tuple[Any, ...]) -> str:
    """Write an address, with the link that one of IPv6 may belong to; without that it leads nowhere."""
    host, _port, *of_ipv6 = address
    scope = of_ipv6[-1] if of_ipv6 else 0
    return f"{host}%{scope}" if scope else str(host)
