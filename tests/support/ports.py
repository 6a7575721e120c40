"""Ports that nobody else takes between the moment they are chosen and the moment a server listens there.

A port is reserved for as long as this process lives, by a lock on one byte of a file: the byte of that number. The
kernel undoes it however the process ends, so test processes that run side by side never choose the same. All ports lie
below those that a system gives to outgoing connections, so no connection takes one either.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

BUS: Final = 10_000
"""How far above a node's port its Cluster bus is; Redis 6.2 knows no other."""

_SERVERS: Final = range(BUS, BUS + 5000)
"""Servers that are killed and started again, with the ports of their buses :data:`BUS` above them."""

_OTHERS: Final = range(2 * BUS + 5000, 32_768)


class _Ports:
    """Reserves ports for this process."""

    def __init__(self) -> None:
        file = Path(tempfile.gettempdir()) / f"velesio-test-ports-{os.getuid()}"
        self._locks: Final = file.open("ab")  # when this module is imported, before a test moves the temporary folder
        atexit.register(self._locks.close)  # else it is complained of where warnings are on to the very end
        self._taken: set[int] = set()

    def reserve(self, among: range, *offsets: int) -> int:
        """Reserve a port at random, and those that lie ``offsets`` above it."""
        dice = random.SystemRandom()
        for _ in range(20 * len(among)):
            port = dice.choice(among)
            if all(self._reserve(port + offset) for offset in (0, *offsets)):
                return port
        raise AssertionError(f"no free port among {among.start} to {among.stop}")

    def _reserve(self, port: int) -> bool:
        if port in self._taken or not _is_free(port):
            return False
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        self._taken.add(port)
        return True


_PORTS: Final = _Ports()


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        return True
    return False


def free_port() -> int:
    """A port where nobody listens, this process's alone from now on."""
    return _PORTS.reserve(_OTHERS)


def stable_ports(count: int) -> list[int]:
    """The same for servers that are killed and started again, each with a free one for the Cluster bus."""
    return sorted(_PORTS.reserve(_SERVERS, BUS) for _ in range(count))
