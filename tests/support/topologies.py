"""Redis under a Sentinel and Redis as a Cluster."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import redis as sync_redis
from redis.cluster import ClusterNode
from redis.sentinel import Sentinel

from tests.support.ports import stable_ports
from tests.support.servers import LIMIT, RedisServer, Topology, wait_until

SERVICE: Final = "mymaster"
SLOTS: Final = 16_384

_HASTE: Final = "info-period 300 ping-period 200 ask-period 200 publish-period 250 tilt-period 1000"
"""Sentinel's clockwork in milliseconds: a primary is demoted after four publish-periods, and a Sentinel that was held
up does nothing for a tilt-period (by default 8 s and 30 s). Redis 6.2 cannot be hastened."""


NEVER: Final = 600.0
"""A patience for servers that no test harms: however long a slow machine holds one up, it is not taken for lost."""


class SentinelNode(RedisServer):
    """A Sentinel that watches one primary, and takes it for lost once it was silent for ``patience`` seconds."""

    def __init__(self, folder: Path, port: int, primary: int, patience: float) -> None:
        super().__init__(folder, port=port)
        conf = folder / "sentinel.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile redis.log\nsentinel announce-ip 127.0.0.1\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} {patience * 1000:.0f}\n"
            f"sentinel failover-timeout {SERVICE} 3000\nsentinel parallel-syncs {SERVICE} 1\n"
        )
        self._command = [self._command[0], str(conf), "--sentinel"]

    def start(self) -> None:
        super().start()
        with suppress(sync_redis.ResponseError):  # Redis 6.2
            self.client.execute_command("SENTINEL", "DEBUG", *_HASTE.split())


class SentinelServers(Topology):
    """One primary, one replica, and one Sentinel that exchanges them.

    Args:
        folder: where their data go.
        patience: how long a primary may be silent before the Sentinel exchanges it, in seconds.
    """

    def __init__(self, folder: Path, *, patience: float = 1.5) -> None:
        *ports, sentinel = stable_ports(3)
        self.nodes = [RedisServer(folder / str(port), "--repl-diskless-sync-delay", "0", port=port) for port in ports]
        self._sentinel = SentinelNode(folder / "sentinel", sentinel, ports[0], patience)
        self.url = f"redis+sentinel://127.0.0.1:{sentinel}/{SERVICE}"

    def start(self) -> None:
        primary, replica = self.nodes
        primary.start()
        replica.follow(primary.port)
        replica.start()
        wait_until(lambda: _replicates(primary, replica), "the replica is in sync")
        self._sentinel.start()
        self.wait_in_sync()

    def plain(self) -> Any:
        sentinel: Any = Sentinel([("127.0.0.1", self._sentinel.port)])
        return sentinel.master_for(SERVICE, decode_responses=True)

    def flush(self) -> None:
        self._node(self.primary_port()).client.flushall()

    def primary_port(self) -> int:
        """The port of the current primary, as Sentinel knows it."""
        _, port = self._sentinel.client.sentinel_get_master_addr_by_name(SERVICE)
        return int(port)

    def kill_primary(self) -> int:
        """Kill the current primary; returns its port."""
        port = self.primary_port()
        self._node(port).kill()
        return port

    def failover(self, limit: float = LIMIT) -> int:
        """Have Sentinel exchange primary and replica; returns the new primary's port.

        The old one goes on taking writes, which are lost, until Sentinel makes it a replica about a second later.
        """
        self.wait_in_sync(limit)
        old = self.primary_port()
        self._sentinel.client.sentinel_failover(SERVICE)
        return self.wait_for_new_primary(old, limit)

    def wait_for_new_primary(self, old_port: int, limit: float = LIMIT) -> int:
        """Wait until Sentinel names another primary and that one takes writes; returns its port."""

        def is_there() -> bool:
            port = self.primary_port()
            return port != old_port and self._is_content() and _replication(self._node(port))["role"] == "master"

        wait_until(is_there, f"a primary other than {old_port}", limit)
        return self.primary_port()

    def restart(self, port: int, limit: float = LIMIT) -> None:
        """Start a killed node again, as a replica unless it is still the primary, and wait until all is in sync."""
        primary = self.primary_port()
        node = self._node(port)
        node.follow(primary if primary != port else None)
        node.start()
        self.wait_in_sync(limit)

    def wait_in_sync(self, limit: float = LIMIT) -> None:
        """Wait until one node replicates the other and Sentinel would promote it."""

        def is_in_sync() -> bool:
            port = self.primary_port()
            replica = next(node for node in self.nodes if node.port != port)
            seen = [one for one in self._sentinel.client.sentinel_slaves(SERVICE) if one["port"] == replica.port]
            return (
                self._is_content()
                and [(one["flags"], one["master-link-status"]) for one in seen] == [("slave", "ok")]
                and _replicates(self._node(port), replica)
            )

        wait_until(is_in_sync, "Sentinel sees a primary and a replica in sync", limit)

    def end(self) -> None:
        self._sentinel.kill()
        super().end()

    def _is_content(self) -> bool:
        """Whether Sentinel takes the primary to be up: clients take no other."""
        return self._sentinel.client.sentinel_master(SERVICE)["flags"] == "master"

    def _node(self, port: int) -> RedisServer:
        return next(node for node in self.nodes if node.port == port)


def _replication(node: RedisServer) -> dict[str, Any]:
    return node.client.info("replication")


def _replicates(primary: RedisServer, replica: RedisServer) -> bool:
    """Whether what is written now arrives: a replica that is online may not have begun to listen (Redis 7.0)."""
    state = _replication(replica)
    primary.client.publish("in sync?", "")  # a write to WAIT for that leaves the keys alone
    return state["role"] == "slave" and state["master_port"] == primary.port and primary.client.wait(1, 100) == 1


class ClusterServers(Topology):
    """Three primaries with a third of the slots each, without replicas.

    Args:
        folder: where their data go.
        patience: how long a node may be silent before the others refuse all commands, in seconds.
    """

    def __init__(self, folder: Path, *, patience: float = 2.0) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", f"{patience * 1000:.0f}")
        self.nodes = [RedisServer(folder / str(port), *options, port=port) for port in stable_ports(3)]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        shares = [SLOTS * index // len(self.nodes) for index in range(len(self.nodes) + 1)]
        for index, node in enumerate(self.nodes):
            node.start()
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            node.client.execute_command("CLUSTER", "ADDSLOTS", *range(shares[index], shares[index + 1]))
            for other in self.nodes[:index]:
                node.client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
        self.wait_until_whole()

    def plain(self) -> Any:
        return sync_redis.RedisCluster(
            startup_nodes=[ClusterNode("127.0.0.1", node.port) for node in self.nodes], decode_responses=True
        )

    def flush(self) -> None:
        for node in self.nodes:
            node.client.flushall()

    def kill(self, index: int) -> None:
        """Kill a node; with its slots gone the others refuse all commands after their ``patience``."""
        self.nodes[index].kill()

    def restart(self, index: int, limit: float = LIMIT) -> None:
        """Start a killed node again and wait until the cluster is whole."""
        self.nodes[index].start()
        self.wait_until_whole(limit)

    def wait_until_whole(self, limit: float = LIMIT) -> None:
        """Wait until every node takes commands and knows where each slot is."""
        wait_until(lambda: all(self._sees_all(node) for node in self.nodes), "the cluster is whole", limit)

    def _sees_all(self, node: RedisServer) -> bool:
        info: dict[str, str] = node.client.execute_command("CLUSTER INFO")
        expected = {"cluster_state": "ok", "cluster_slots_ok": str(SLOTS), "cluster_known_nodes": str(len(self.nodes))}
        return expected.items() <= info.items()
