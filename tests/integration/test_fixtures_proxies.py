"""The tests' own servers and proxies do what tests rely on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as sync_redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.proxies import FaultyProxy, Replies, TLSProxy
from tests.support.servers import RedisServer, free_port
from tests.support.topologies import wait_until

MakeClient = Callable[..., Any]

SAMPLE = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":-12\r\n",
    b"$5\r\nhello\r\n",
    b"$4\r\n\r\n\r\n\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*3\r\n:1\r\n$-1\r\n+\r\n",
    b"*2\r\n*2\r\n$1\r\na\r\n*0\r\n*1\r\n*1\r\n*2\r\n*-1\r\n-E\r\n",
    b"*3\r\n+OK\r\n*2\r\n$4\r\n*1\r\n\r\n:2\r\n-WRONGTYPE of *2\r\n",  # an EXEC's
    b"%2\r\n+a\r\n_\r\n+b\r\n~1\r\n#t\r\n",
    b">2\r\n,1.5\r\n(12345678901234567890\r\n",
    b"*2\r\n=5\r\ntxt:a\r\n!3\r\nERR\r\n",
    b"+" + b"long" * 100 + b"\r\n",
]


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


def array(elements: list[bytes]) -> bytes:
    return b"*%d\r\n%s" % (len(elements), b"".join(elements))


REPLIES = st.recursive(
    st.sampled_from(SAMPLE) | st.binary(max_size=20).map(bulk),
    lambda replies: st.lists(replies, max_size=4).map(array),
    max_leaves=12,
)


class TestReplies:
    def test_are_whole_wherever_the_bytes_are_split(self) -> None:
        stream = b"".join(SAMPLE)
        for position in range(len(stream) + 1):
            replies = Replies()
            assert replies.feed(stream[:position]) + replies.feed(stream[position:]) == SAMPLE

    def test_are_whole_when_each_byte_comes_alone(self) -> None:
        replies = Replies()
        assert [reply for byte in b"".join(SAMPLE) for reply in replies.feed(bytes([byte]))] == SAMPLE

    @given(st.lists(REPLIES, max_size=8), st.integers(1, 50))
    def test_are_those_of_the_top_level(self, expected: list[bytes], size: int) -> None:
        stream, replies = b"".join(expected), Replies()
        chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [reply for chunk in chunks for reply in replies.feed(chunk)] == expected

    def test_come_as_soon_as_they_are_whole(self) -> None:
        replies = Replies()
        assert replies.feed(b"+a\r\n+b\r") == [b"+a\r\n"]
        assert replies.feed(b"\n$2\r\nxx\r") == [b"+b\r\n"]
        assert replies.feed(b"\n") == [b"$2\r\nxx\r\n"]

    @pytest.mark.parametrize(
        "reply", [bulk(bytes(5_000_000)), array([b":0\r\n"] * 50_000), b"+%s\r\n" % bytes(1_000_000)]
    )
    def test_take_no_more_than_a_second_when_they_are_large(self, reply: bytes) -> None:
        replies = Replies()
        began = time.process_time()
        whole = [found for at in range(0, len(reply), 1000) for found in replies.feed(reply[at : at + 1000])]
        assert time.process_time() - began < 1
        assert whole == [reply]

    def test_do_not_come_from_other_protocols(self) -> None:
        with pytest.raises(ValueError, match="not RESP: b'H'"):
            Replies().feed(b"HTTP/1.1 200 OK\r\n")


@pytest.fixture
def proxy(shared_redis: RedisServer, redis_url: str) -> Iterator[FaultyProxy]:
    assert redis_url == shared_redis.url
    with FaultyProxy(shared_redis.port) as proxy:
        yield proxy


@pytest.fixture
def make_client(proxy: FaultyProxy) -> Iterator[MakeClient]:
    """Clients that are connected through the proxy and repeat nothing."""
    made: list[Any] = []

    def make(**options: Any) -> Any:
        options = {"socket_timeout": 30, "decode_responses": True, "retry": Retry(NoBackoff(), 0), **options}
        client: Any = sync_redis.Redis(host="127.0.0.1", port=proxy.port, **options)
        made.append(client)
        client.ping()
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def bare(proxy: FaultyProxy) -> Iterator[socket.socket]:
    """A socket that is connected through the proxy."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as connection:
        assert asked(connection, b"PING\r\n") == b"+PONG\r\n"
        yield connection


def asked(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    return connection.recv(4096)


def assert_silent(connection: socket.socket, seconds: float = 0.1) -> None:
    connection.settimeout(seconds)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(30)


class TestFaultyProxy:
    @pytest.mark.parametrize("protocol", [2, 3])
    def test_without_faults_passes_everything(self, make_client: MakeClient, protocol: int) -> None:
        client = make_client(protocol=protocol)
        client.set("large", "x" * 5_000_000)
        client.hset("hash", mapping={"a": "1"})
        assert client.get("large") == "x" * 5_000_000
        assert client.hgetall("hash") == {"a": "1"}
        assert client.blpop(["nothing"], timeout=0.01) is None

    def test_counts_connections_and_replies(self, proxy: FaultyProxy, make_client: MakeClient) -> None:
        client = make_client()
        before = proxy.passed
        with client.pipeline(transaction=True) as pipeline:
            pipeline.rpush("list", "a", "b").lrange("list", 0, -1)
            assert pipeline.execute() == [2, ["a", "b"]]
        assert proxy.passed - before == len(["OK", "QUEUED", "QUEUED", "EXEC's"])
        make_client()
        assert (proxy.connections, proxy.refused, proxy.dropped) == (2, 0, 0)

    def test_drops_every_nth_reply_of_all_connections(
        self, proxy: FaultyProxy, make_client: MakeClient, plain: Any
    ) -> None:
        one, other = make_client(), make_client()
        proxy.drop_every(3)
        assert (one.incr("count"), other.incr("count")) == (1, 2)
        with pytest.raises(sync_redis.ConnectionError):
            one.incr("count")
        assert plain.get("count") == "3"
        assert (other.incr("count"), other.incr("count"), proxy.dropped) == (4, 5, 1)
        with pytest.raises(sync_redis.ConnectionError):
            other.incr("count")
        proxy.heal()
        assert [one.incr("count") for _ in range(6)] == [7, 8, 9, 10, 11, 12]

    def test_passes_the_replies_before_the_dropped_one(self, proxy: FaultyProxy, bare: socket.socket) -> None:
        proxy.drop_every(3)
        bare.sendall(b"ECHO a\r\nECHO b\r\nECHO c\r\nECHO d\r\n")
        assert b"".join(iter(lambda: bare.recv(4096), b"")) == b"$1\r\na\r\n$1\r\nb\r\n"
        assert proxy.dropped in {1, 2}  # d may have been on its way

    def test_swallows_a_reply_and_all_that_follows_on_its_connection(
        self, proxy: FaultyProxy, make_client: MakeClient, bare: socket.socket, plain: Any
    ) -> None:
        client = make_client()
        proxy.swallow_every(2)
        assert client.incr("count") == 1
        bare.sendall(b"INCR count\r\n")
        assert_silent(bare)
        assert plain.get("count") == "2"
        bare.sendall(b"INCR count\r\n")
        assert_silent(bare)
        assert (client.incr("count"), proxy.dropped) == (3, 1)

    def test_tells_nobody_that_the_other_side_left_a_silent_connection(
        self, proxy: FaultyProxy, make_client: MakeClient, plain: Any
    ) -> None:
        client = make_client(client_name="left", socket_timeout=1.5)
        proxy.swallow_every(1)
        with pytest.raises(sync_redis.TimeoutError):
            client.ping()
        client.close()
        proxy.heal()
        assert make_client().ping()
        assert [one["name"] for one in plain.client_list()].count("left") == 1
        proxy.cut_all()
        wait_until(lambda: "left" not in [one["name"] for one in plain.client_list()], "Redis sees the end")

    def test_cuts_all_connections_and_takes_new_ones(
        self, proxy: FaultyProxy, make_client: MakeClient, bare: socket.socket
    ) -> None:
        client = make_client()
        proxy.cut_all()
        assert bare.recv(1) == b""
        assert client.ping()
        assert proxy.connections == 3

    def test_cuts_a_connection_that_waits(self, proxy: FaultyProxy, bare: socket.socket) -> None:
        bare.sendall(b"BLPOP nothing 0\r\n")
        proxy.freeze()
        proxy.cut_all()
        assert bare.recv(1) == b""

    def test_refuses_new_connections_for_a_while(self, proxy: FaultyProxy, make_client: MakeClient) -> None:
        old = make_client()
        proxy.refuse()
        with pytest.raises(sync_redis.ConnectionError):
            make_client()
        assert old.ping()
        assert (proxy.connections, proxy.refused) == (1, 1)
        proxy.accept()
        assert make_client().ping()

    def test_frozen_keeps_bytes_back_both_ways(self, proxy: FaultyProxy, bare: socket.socket, plain: Any) -> None:
        bare.sendall(b"BLPOP list 0\r\n")
        wait_until(lambda: plain.info("clients")["blocked_clients"] == 1, "it waits")
        proxy.freeze()
        plain.rpush("list", "a")
        bare.sendall(b"SET key value\r\n")
        assert_silent(bare)
        assert not plain.exists("key")
        proxy.thaw()
        expected = b"*2\r\n$4\r\nlist\r\n$1\r\na\r\n+OK\r\n"
        arrived = b""
        while len(arrived) < len(expected):
            arrived += bare.recv(4096)
        assert (arrived, plain.get("key")) == (expected, "value")

    def test_delays_each_reply_and_keeps_their_order(self, proxy: FaultyProxy, bare: socket.socket) -> None:
        proxy.delay(0.5)
        began = time.monotonic()
        arrived = b""
        letters = b"abcdefghijkl"
        for letter in letters:
            bare.sendall(b"ECHO %c\r\n" % letter)
            time.sleep(0.01)
        while len(arrived) < 7 * len(letters):
            arrived += bare.recv(4096)
        assert arrived == b"".join(b"$1\r\n%c\r\n" % letter for letter in letters)
        assert 0.5 <= time.monotonic() - began < 5, "each, not one after the other: that would take 6 s"

    def test_closes_connections_while_redis_is_down(self) -> None:
        with FaultyProxy(free_port()) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
            assert connection.recv(1) == b""
            assert proxy.connections == 0

    def test_leaves_no_thread_behind(self, shared_redis: RedisServer) -> None:
        before = {*threading.enumerate()}
        with FaultyProxy(shared_redis.port) as proxy, sync_redis.Redis(port=proxy.port) as client:
            client.ping()  # pyright: ignore[reportUnknownMemberType]
            proxy.freeze()
        assert {*threading.enumerate()} <= before


class TestTLSProxy:
    def test_speaks_tls_and_has_faults(self, shared_redis: RedisServer, tmp_path: Path) -> None:
        with TLSProxy(shared_redis.port, tmp_path) as proxy:
            client: Any = sync_redis.Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0))  # pyright: ignore[reportUnknownMemberType]
            with client:
                assert client.echo("x" * 500_000) == b"x" * 500_000
                proxy.drop_every(1)
                with pytest.raises(sync_redis.ConnectionError):
                    client.ping()

    def test_is_not_trusted_without_its_authority(self, shared_redis: RedisServer, tmp_path: Path) -> None:
        with TLSProxy(shared_redis.port, tmp_path) as proxy:
            client: Any = sync_redis.Redis(port=proxy.port, ssl=True, retry=Retry(NoBackoff(), 0))
            with client, pytest.raises(sync_redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                client.ping()
