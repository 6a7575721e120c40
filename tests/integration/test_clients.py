"""Connections that break at odd moments are outages, whatever the event loop and redis-py make of them."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import RedisError

from tests.support.topologies import ClusterServers
from velesio_worker.queue.clients import execute
from velesio_worker.queue.connection import connect

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that a worker runs on."""
    pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def resetting_port() -> Iterator[int]:
    """A port that accepts connections and resets them at once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def reset() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()

    threading.Thread(target=reset, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


async def _be_busy() -> None:
    while True:
        time.sleep(0.002)  # noqa: ASYNC251 (a loop that is busy, as a worker's is)
        await anyio.lowlevel.checkpoint()


async def test_a_connection_that_is_reset_at_once_is_an_error_of_redis(resetting_port: int) -> None:
    client = connect(f"redis://127.0.0.1:{resetting_port}", name="test")
    async with anyio.create_task_group() as group:
        group.start_soon(_be_busy)
        for _ in range(200):
            with pytest.raises(RedisError):
                await client.execute_command("PING")  # pyright: ignore[reportUnknownMemberType]
            with pytest.raises(RedisError):
                await execute(client.pipeline(transaction=False).ping())  # pyright: ignore[reportUnknownMemberType]
        group.cancel_scope.cancel()
    await client.aclose()


@pytest.mark.several_redis
async def test_a_client_of_a_cluster_that_was_cancelled_while_it_began_leaves_no_connection_open(
    shared_cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = connect(shared_cluster.url, name="test")
    nodes = list(client.nodes_manager.startup_nodes.values())
    asked = ClusterNode.execute_command
    with anyio.CancelScope() as scope:

        async def ask_and_be_cancelled(node: ClusterNode, *arguments: Any, **options: Any) -> Any:
            await asked(node, *arguments, **options)
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        monkeypatch.setattr(ClusterNode, "execute_command", ask_and_be_cancelled)
        await client.execute_command("GET", "a")
    monkeypatch.undo()
    assert scope.cancelled_caught
    connections: list[Any] = [connection for node in nodes for connection in node._connections]
    assert connections
    await client.aclose()
    assert [connection for connection in connections if connection.is_connected] == []
