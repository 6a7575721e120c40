"""What ``velesio-worker doctor`` finds of a real Redis."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import anyio
import pytest

from tests.support.proxies import FaultyProxy
from tests.support.servers import RedisServer
from tests.support.topologies import SentinelServers
from velesio_worker.cli.doctor.command import LIMIT_SECONDS, examine
from velesio_worker.cli.doctor.findings import CheckReport, Finding
from velesio_worker.cli.doctor.redis import check_redis
from velesio_worker.core.settings import Settings
from velesio_worker.queue import risks as health
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.rights import Party, rights_of
from velesio_worker.queue.scripts import Scripts

pytestmark = pytest.mark.anyio
RIGHTS = "~* &* +@all -@admin -@dangerous"


async def look(url: str, slow: float = 5.0) -> list[Finding]:
    """Look at a Redis; that this machine is slow is no finding."""
    report = CheckReport("Redis", Settings(redis_url=url), {})
    await check_redis(report, slow)
    return report.findings


def told(found: list[Finding]) -> list[str]:
    return [finding.status.value for finding in found]


def only(found: list[Finding], status: str) -> tuple[str, str]:
    """Message and remedy of the finding of that status, of which there is one."""
    matching = [(finding.message, finding.remedy or "") for finding in found if finding.status == status]
    assert len(matching) == 1, found
    return matching[0]


@pytest.fixture
def own(own_redis: RedisServer) -> RedisServer:
    own_redis.start()
    return own_redis


@pytest.mark.topologies
async def test_a_redis_in_good_order_is_described_and_left_as_it_was(redis_url: str, plain: Any) -> None:
    found = await look(redis_url)
    assert told(found) == ["ok", "ok"]
    facts = found[0].facts
    assert (
        facts["topology"]
        == ("standalone", "sentinel", "cluster")[("sentinel" in redis_url) + 2 * ("cluster" in redis_url)]
    )
    assert f"{redis_url} answers in " in found[0].message
    assert f"version {facts['version']}" in found[0].message
    assert len(facts["servers"]) == (3 if "cluster" in redis_url else 1)
    for server in facts["servers"]:
        assert server["round_trip_ms"] > 0
        assert abs(server["clock_ahead_seconds"]) < 10
        assert server["used_memory"] > 0
    assert plain.dbsize() == 0


@pytest.mark.topologies
async def test_the_queue_is_described(redis_url: str, plain: Any) -> None:
    plain.lpush("llama_queue", "a", "b")
    plain.lpush("{llama_queue}:text", "c")
    plain.lpush("{llama_queue}:dead", "d")
    client = connect(redis_url, name="test")
    await Scripts(client).beat(Keys("llama_queue"), "gpu1-0a", 60, {"state": "test"})
    await client.aclose()
    plain.zadd("{llama_queue}:workers", {"gone": time.time() - 60})
    found = await look(redis_url)
    assert told(found) == ["ok", "ok"]
    assert found[1].facts == {
        "queue": "llama_queue",
        "workers": ["gpu1-0a"],
        "waiting": {"incoming": 2, "text": 1, "image": 0, "manage": 0, "manage-image": 0},
        "dead_letters": 1,
    }
    assert "workers that live: 1, jobs that wait: 3, dead letters: 1" in found[1].message


async def test_a_wrong_password_is_told_without_it(own: RedisServer) -> None:
    own.client.execute_command("ACL SETUSER worker on >s3cret ~* &* +@all")
    found = await look(own.url.replace("//", "//worker:wr0ng@"))
    assert told(found) == ["error"]
    message, remedy = only(found, "error")
    assert "refuses the user or password" in message
    assert "redis://USER:PASSWORD@HOST:6379" in remedy
    assert "wr0ng" not in message + remedy


async def test_a_user_of_few_rights_will_do(own: RedisServer) -> None:
    own.client.execute_command(f"ACL SETUSER worker on >s3cret {RIGHTS}")
    found = await look(own.url.replace("//", "//worker:s3cret@"))
    assert told(found) == ["ok", "warning", "ok"]
    assert "does not tell appendonly and maxmemory-policy" in found[1].message
    assert found[0].facts["version"] is None


@pytest.mark.parametrize("lacking", ["-@scripting", "-@write", "-@list"])
async def test_a_user_of_too_few_rights_will_not(own: RedisServer, lacking: str) -> None:
    own.client.execute_command(f"ACL SETUSER worker on >s3cret {RIGHTS} {lacking}")
    message, remedy = only(await look(own.url.replace("//", "//worker:s3cret@")), "error")
    assert "refuses" in message
    assert "velesio-worker acl worker prints the rights" in remedy


PRINTED: Final = rights_of(Party.WORKER, "llama_queue").rules()
"""The rights of a worker, as ``velesio-worker acl`` prints them."""


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ("", ""),
        ("+blmove", "blmove llama_queue"),
        ("~stream:*", "exists stream:doctor, expire stream:doctor, xadd stream:doctor and 2 more"),
        ("+hincrby", "hincrby {llama_queue}:doctor, hincrby {result:doctor}:job"),
        ("+rename", "rename {result:doctor}:parts:1"),
    ],
)
async def test_a_right_that_is_missing_is_named(own: RedisServer, without: str, named: str) -> None:
    rights = [rule for rule in PRINTED if rule != without]
    assert (rights == PRINTED) == (not without)
    own.client.execute_command("ACL", "SETUSER", "worker", "on", ">s3cret", *rights)
    found = [finding for finding in await look(own.url.replace("//", "//worker:s3cret@")) if finding.status == "error"]
    assert [f"the user may not run {named}" in finding.message for finding in found] == ([True] if named else [])


async def test_settings_that_lose_jobs_are_warned_of_with_the_command_that_mends_them(own: RedisServer) -> None:
    own.client.config_set("maxmemory-policy", "allkeys-lru")
    own.client.config_set("appendonly", "no")
    found = await look(own.url)
    assert told(found) == ["ok", "warning", "warning", "ok"]
    assert [finding.facts["risk"] for finding in found[1:3]] == ["redis_evicts", "redis_not_persistent"]
    assert (found[1].remedy or "").startswith("redis-cli CONFIG SET maxmemory-policy noeviction")
    assert (found[2].remedy or "").startswith("redis-cli CONFIG SET appendonly yes")


async def test_memory_that_is_nearly_full_is_warned_of_and_full_memory_an_error(own: RedisServer) -> None:
    own.client.setrange("ballast", 8_000_000, "x")  # made by Redis itself: no request buffer that shrinks later
    used: int = own.client.info("memory")["used_memory"]
    own.client.config_set("maxmemory", int(used * 1.05))
    found = await look(own.url)
    assert told(found) == ["ok", "warning", "ok"]
    assert "CONFIG SET maxmemory " in only(found, "warning")[1]
    own.client.config_set("maxmemory", used // 2)
    message, remedy = only(await look(own.url), "error")
    assert "out of memory" in message
    assert "raise its maxmemory" in remedy


async def test_clocks_that_differ_are_warned_of(own: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for shift, word in ((10, "behind"), (-10, "ahead of")):

        def shifted(shift: int = shift) -> float:
            return time.time() + shift

        monkeypatch.setattr(health, "time", SimpleNamespace(time=shifted, perf_counter=time.perf_counter))
        message, remedy = only(await look(own.url), "warning")
        off = re.search(rf"(\d+\.\d) s {word} this machine's", message)
        assert off is not None, message
        assert float(off[1]) == pytest.approx(10, abs=5)  # as well as a machine that is held up can tell
        assert "timedatectl" in remedy


@pytest.fixture
def proxy(redis_url: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(int(redis_url.rpartition(":")[2])) as proxy:
        yield proxy


async def test_a_slow_way_to_redis_is_warned_of(proxy: FaultyProxy) -> None:
    proxy.delay(0.03)
    found = await look(proxy.url, slow=0.02)
    assert told(found) == ["ok", "warning", "ok"]
    assert found[0].facts["round_trip_ms"] >= 30
    assert "answers in " in found[1].message


@pytest.mark.several_redis
async def test_a_replica_is_an_error(tmp_path: Path) -> None:
    with SentinelServers(tmp_path) as servers:
        replica = next(node for node in servers.nodes if node.port != servers.primary_port())
        message, remedy = only(await look(replica.url), "error")
    assert "read-only replica" in message
    assert remedy.startswith("point REDIS_URL at the primary")


@pytest.mark.parametrize(
    ("scheme", "end", "said"),
    [("redis+cluster", "", "that is no Redis Cluster"), ("redis+sentinel", "/mymaster", "that is no Sentinel")],
)
async def test_a_wrong_scheme_is_told_the_right_one(redis_url: str, scheme: str, end: str, said: str) -> None:
    message, remedy = only(await look(f"{scheme}{redis_url.removeprefix('redis')}{end}"), "error")
    assert said in message
    assert remedy == "in REDIS_URL, write redis://host:port"


async def test_a_redis_that_takes_connections_and_never_replies_is_given_up_in_time() -> None:
    seen: dict[str, tuple[str, str]] = {}

    async def look_at(url: str) -> None:
        seen[url] = only(await look(url.format(f"{host}:{port}")), "error")

    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        with anyio.fail_after(LIMIT_SECONDS):
            async with anyio.create_task_group() as group:  # all three wait for as long as a doctor has patience
                for url in ("redis://{}", "redis+cluster://{}", "redis+sentinel://{}/m"):
                    group.start_soon(look_at, url)
    assert len(seen) == 3
    for url, (message, remedy) in seen.items():
        assert "does not answer" in message or "no Sentinel answers" in message, url
        assert "redis-cli" in remedy, url


async def test_a_redis_that_falls_silent_midway_is_given_up_in_time(proxy: FaultyProxy) -> None:
    proxy.swallow_every(8)
    shown: list[Finding] = []
    began = anyio.current_time()
    await examine(Settings(redis_url=proxy.url), {}, shown.append, {"Redis": check_redis})
    assert anyio.current_time() < began + LIMIT_SECONDS + 5
    assert told(shown)[-1] == "error"
