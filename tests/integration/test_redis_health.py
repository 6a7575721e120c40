"""Settings of Redis by which jobs may be lost are pointed out, with what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.topologies import ClusterServers
from velesio_worker.queue.connection import connect
from velesio_worker.queue.risks import warn_of_risks

pytestmark = pytest.mark.anyio

SETTINGS = ("maxmemory-policy", "appendonly", "save")


@pytest.fixture
async def settings(commands: Any) -> AsyncIterator[Any]:
    """Sets one of Redis's settings; all are put back afterwards."""
    before = [await commands.config_get(name) for name in SETTINGS]
    yield commands.config_set
    for values in before:
        for name, value in values.items():
            await commands.config_set(name, value)


@pytest.fixture
async def restricted(redis_url: str, commands: Any) -> AsyncIterator[Any]:
    """Makes a client of a user who may not call the commands given."""
    clients: list[Any] = []

    async def user(*forbidden: str) -> Any:
        words = ("on", ">secret", "~*", "&*", "+@all", *(f"-{name}" for name in forbidden))
        await commands.execute_command("ACL SETUSER", "operator", *words)
        clients.append(connect(redis_url.replace("//", "//operator:secret@"), name="test"))
        return clients[-1]

    yield user
    for client in clients:
        await client.aclose()
    await commands.execute_command("ACL DELUSER", "operator")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged."""
    caplog.set_level("INFO", "velesio_worker")
    return caplog


def actions(told: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.__dict__["action"]) for record in told.records]


async def test_nothing_is_said_of_a_redis_that_keeps_its_data(
    commands: Any, redis_url: str, told: pytest.LogCaptureFixture
) -> None:
    await warn_of_risks(commands, redis_url)
    assert actions(told) == []


@pytest.mark.parametrize(
    ("policy", "victims"), [("allkeys-lru", "jobs and results"), ("volatile-ttl", "results and streams")]
)
async def test_a_redis_that_deletes_when_it_is_full_is_pointed_out(
    commands: Any, redis_url: str, settings: Any, told: pytest.LogCaptureFixture, policy: str, victims: str
) -> None:
    await settings("maxmemory-policy", policy)
    await warn_of_risks(commands, redis_url.replace("//", "//:secret@"))
    assert actions(told) == [("WARNING", "redis_evicts")]
    message = told.messages[0]
    assert f"maxmemory-policy {policy}: it will delete {victims}" in message
    assert "redis-cli CONFIG SET maxmemory-policy noeviction" in message
    assert "redis.conf" in message
    assert "secret" not in message


async def test_a_redis_without_persistence_is_pointed_out(
    commands: Any, redis_url: str, settings: Any, told: pytest.LogCaptureFixture
) -> None:
    await settings("appendonly", "no")
    await warn_of_risks(commands, redis_url)
    assert actions(told) == [("WARNING", "redis_not_persistent")]
    assert "redis-cli CONFIG SET appendonly yes" in told.messages[0]


async def test_snapshots_are_persistence_enough(
    commands: Any, redis_url: str, settings: Any, told: pytest.LogCaptureFixture
) -> None:
    await settings("appendonly", "no")
    await settings("save", "3600 1")
    await warn_of_risks(commands, redis_url)
    assert actions(told) == []


async def test_where_config_is_forbidden_info_tells(
    restricted: Any, redis_url: str, settings: Any, told: pytest.LogCaptureFixture
) -> None:
    client = await restricted("config")
    await warn_of_risks(client, redis_url)
    assert actions(told) == []
    await settings("maxmemory-policy", "allkeys-random")
    await warn_of_risks(client, redis_url)
    assert actions(told) == [("WARNING", "redis_evicts")]


async def test_without_config_nobody_knows_whether_snapshots_are_taken(
    restricted: Any, redis_url: str, settings: Any, told: pytest.LogCaptureFixture
) -> None:
    await settings("appendonly", "no")
    await warn_of_risks(await restricted("config"), redis_url)
    assert actions(told) == [("INFO", "redis_settings_unknown")]
    assert "does not tell appendonly:" in told.messages[0]


async def test_a_redis_that_tells_nothing_is_mentioned_once(
    restricted: Any, redis_url: str, settings: Any, told: pytest.LogCaptureFixture
) -> None:
    await settings("maxmemory-policy", "allkeys-lru")
    await warn_of_risks(await restricted("config", "info"), redis_url)
    assert actions(told) == [("INFO", "redis_settings_unknown")]
    assert "does not tell appendonly and maxmemory-policy:" in told.messages[0]


class Answering:
    """A Redis that answers each command with the same error."""

    def __init__(self, error: RedisError) -> None:
        self._error = error

    async def config_get(self, _: str) -> Any:
        raise self._error

    info = config_get


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), BusyLoadingError("loading"), ReadOnlyError("replica")])
async def test_a_redis_that_does_not_answer_is_the_callers_business(error: RedisError) -> None:
    with pytest.raises(type(error)):
        await warn_of_risks(Answering(error), "redis://host")  # pyright: ignore[reportArgumentType]


async def test_a_service_that_has_no_such_commands_is_no_error(told: pytest.LogCaptureFixture) -> None:
    error = ResponseError("unknown command 'CONFIG', with args beginning with: 'GET' 'save'")
    await warn_of_risks(Answering(error), "redis://host")  # pyright: ignore[reportArgumentType]
    assert actions(told) == [("INFO", "redis_settings_unknown")]


@pytest.mark.several_redis
async def test_every_primary_of_a_cluster_is_asked_and_named(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    with ClusterServers(tmp_path) as servers:
        first, second, _ = servers.nodes
        first.client.config_set("maxmemory-policy", "allkeys-lru")
        second.client.config_set("appendonly", "no")
        client: Any = connect(servers.url, name="test")
        await warn_of_risks(client, servers.url)
        await client.aclose()
    assert sorted(actions(told)) == [("WARNING", "redis_evicts"), ("WARNING", "redis_not_persistent")]
    for setting, node in (("maxmemory-policy noeviction", first), ("appendonly yes", second)):
        (message,) = [message for message in told.messages if setting in message]
        assert message.startswith(f"the Redis node 127.0.0.1:{node.port} ")
        assert f"redis-cli -h 127.0.0.1 -p {node.port} CONFIG SET {setting}" in message
