"""The tests' own Sentinel and Cluster do what tests rely on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis as sync_redis
from redis.exceptions import ClusterDownError

from tests.support.servers import wait_until
from tests.support.topologies import ClusterServers, SentinelServers

pytestmark = pytest.mark.several_redis


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelServers]:
    with SentinelServers(tmp_path_factory.mktemp("sentinel")) as servers:
        yield servers


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    with ClusterServers(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


class TestSentinelServers:
    def test_fail_over_when_the_primary_is_killed_again_and_again(self, sentinel: SentinelServers) -> None:
        with sentinel.plain() as plain:
            for number in range(2):
                plain.set("key", number)
                plain.wait(1, 5000)
                old = sentinel.kill_primary()
                new = sentinel.wait_for_new_primary(old)
                assert new != old
                assert plain.get("key") == str(number)
                sentinel.restart(old)
                assert sentinel.primary_port() == new

    def test_fail_over_when_asked_again_and_again(self, sentinel: SentinelServers) -> None:
        with sentinel.plain() as plain:
            for number in range(2):
                plain.set("key", number)
                old = sentinel.primary_port()
                assert sentinel.failover() != old
                sentinel.wait_in_sync()
                assert plain.get("key") == str(number)

    def test_keep_what_was_written_when_the_primary_comes_back_at_once(self, sentinel: SentinelServers) -> None:
        with sentinel.plain() as plain:
            plain.set("key", "kept")
            sentinel.restart(sentinel.kill_primary())
            assert plain.get("key") == "kept"

    def test_are_flushed(self, sentinel: SentinelServers) -> None:
        with sentinel.plain() as plain:
            plain.set("key", "value")
            sentinel.flush()
            assert plain.dbsize() == 0

    def test_leave_no_process_behind(self, tmp_path: Path) -> None:
        before = psutil.Process().children()
        with SentinelServers(tmp_path):
            assert len(psutil.Process().children()) == len(before) + 3
        assert psutil.Process().children() == before


class TestClusterServers:
    def test_take_writes_to_all_nodes(self, cluster: ClusterServers) -> None:
        with cluster.plain() as plain:
            for number in range(100):
                plain.set(f"key-{number}", number)
            assert [plain.get(f"key-{number}") for number in range(100)] == [str(number) for number in range(100)]
        assert all(node.client.dbsize() > 10 for node in cluster.nodes)
        cluster.flush()
        assert not any(node.client.dbsize() for node in cluster.nodes)

    def test_are_whole_again_after_a_quick_restart(self, cluster: ClusterServers) -> None:
        with cluster.plain() as plain:
            for number in range(30):
                plain.set(f"key-{number}", "kept")
            cluster.kill(0)
            with pytest.raises(sync_redis.ConnectionError):
                cluster.nodes[0].client.ping()
            cluster.restart(0)
            assert {plain.get(f"key-{number}") for number in range(30)} == {"kept"}

    def test_refuse_commands_while_a_node_is_missed(self, cluster: ClusterServers) -> None:
        client = cluster.nodes[0].client
        cluster.kill(1)
        wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "fail", "the others miss it")
        with pytest.raises(ClusterDownError):
            client.get("3")
        cluster.restart(1)
        assert client.get("3") is None
