"""What goes without the garbage collector, whose passes over thousands of viewers stop all streams."""

from __future__ import annotations

import gc
import socket
import struct

import pytest

from tests.support.gateway_thread import gateway_thread
from tests.support.servers import wait_until
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.connection import Connection
from velesio_worker.gateway.ids import new_job_id
from velesio_worker.gateway.tokens import Tokens


def connections() -> int:
    return sum(isinstance(one, Connection) for one in gc.get_objects())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("path", ["/jobs/{id}/events", "/livez", "/nowhere"])
def test_a_connection_that_is_lost_goes_without_the_collector(redis_url: str, path: str, *, reset: bool) -> None:
    job_id = new_job_id(Caller(None, Tokens.open_key))
    head = f"GET {path.format(id=job_id)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with gateway_thread(redis_url) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        gc.collect()
        gc.disable()
        try:
            before = connections()
            for _ in range(5):
                with socket.create_connection(address) as client:
                    client.sendall(head)
                    assert client.recv(4096).startswith(b"HTTP/1.1 ")
                    assert connections() > before
                    if reset:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wait_until(lambda: connections() <= before, "all are gone", 4)  # a kept one's timer ends after 5 s
        finally:
            gc.enable()
