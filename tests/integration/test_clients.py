"""Connections that break at odd moments are outages, whatever the event loop and redis-py make of them."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from tests.support.redis_side import make_side
from tests.support.servers import RedisServer
from tests.support.topologies import ClusterServers
from velesio_worker.cli.doctor.findings import CheckReport, Status
from velesio_worker.cli.doctor.redis import check_redis as examine_redis
from velesio_worker.core.settings import Settings
from velesio_worker.queue.clients import execute
from velesio_worker.queue.connection import check_redis, connect
from velesio_worker.wire.errors import RedisUnusableError

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


async def test_a_unix_socket_serves_a_worker_as_a_port_does(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with RedisServer(tmp_path / "redis", "--unixsocket", str(path)) as server:
        server.client.config_set("requirepass", "p/ss")
        url = f"unix://:p%2Fss@{path}?db=3"
        async with make_side(url, "w1") as side:
            await check_redis(side.link.redis, url)
            await side.lease.beat()
            await side.link.commands.lpush("llama_queue", b"job")
            assert await side.slots.take("llama_queue", side.slot()) == b"job"
        async with aclosing(connect(f"unix://{path}", name="test")) as stranger:
            with pytest.raises(RedisUnusableError, match="refuses the user or password"):
                await check_redis(stranger, f"unix://{path}")
        report = CheckReport("Redis", Settings(redis_url=url), {})
        await examine_redis(report, slow=5.0)
        assert {finding.status for finding in report.findings} == {Status.OK}


async def test_a_unix_socket_that_is_none_is_an_outage_like_a_port_where_nobody_listens(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.sock"):
        with pytest.raises(RedisConnectionError):
            await connect(f"unix://{path}", name="test").execute_command("PING")  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("/99", "has no database of that number (DB index is out of range): end REDIS_URL with a smaller one"),
        ("no ping", "does not let the user do what the worker needs"),
    ],
)
async def test_what_no_patience_mends_is_told_before_a_worker_begins(
    redis_url: str, commands: Any, change: str, said: str
) -> None:
    url = f"{redis_url}{change}"
    if change == "no ping":
        await commands.execute_command("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all", "-ping")
        url = redis_url.replace("//", "//deaf:pw@")
    async with aclosing(connect(url, name="test")) as client:
        with pytest.raises(RedisUnusableError) as caught:
            await check_redis(client, url)
    assert said in str(caught.value)
    assert "pw" not in str(caught.value)
