from __future__ import annotations

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ExecAbortError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.support.figures import rise
from velesio_worker.queue.connection import connect
from velesio_worker.queue.outage import Outage, passes


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("gone"),
        RedisTimeoutError("slow"),
        BusyLoadingError("loading"),
        ReadOnlyError("replica"),
        OutOfMemoryError("full"),
        ExecAbortError("discarded"),
        ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("UNBLOCKED force unblock from blocking operation"),
        ResponseError("ERR Error running script: @user_script: 1: -OOM command not allowed"),
        ResponseError("Command # 1 (XADD a) of pipeline caused error: MISCONF disk"),
    ],
    ids=str,
)
def test_what_an_operator_or_time_mends_is_waited_for(error: RedisError) -> None:
    assert passes(error)


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        NoPermissionError("this user has no permissions"),
        ResponseError("Command # 1 (XADD a data MISCONF OOM) of pipeline caused error: WRONGTYPE no"),
        ResponseError("BUSYGROUP Consumer Group name already exists"),
    ],
    ids=str,
)
def test_what_stays_wrong_is_not_waited_for(error: RedisError) -> None:
    assert not passes(error)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OutOfMemoryError("x"), "maxmemory"),
        (ReadOnlyError("x"), "primary"),
        (ResponseError("MISCONF x"), "disk"),
        (ResponseError("NOREPLICAS x"), "min-replicas-to-write"),
        (RedisConnectionError("refused"), "check REDIS_URL"),
        (AuthenticationError("x"), "check REDIS_URL"),
    ],
    ids=str,
)
def test_an_outage_is_said_once_with_its_remedy(
    error: RedisError, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage("redis://:secret@host:6379")
    caplog.set_level("INFO")
    with rise("velesio_redis_reconnects_total") as reconnects:
        for _ in range(3):
            outage.noticed(error)
        assert reconnects.by == 0
        outage.over()
        outage.over()
    assert reconnects.by == isinstance(error, RedisConnectionError), "others came over a connection that stands"
    lost, back = caplog.records
    assert remedy in lost.getMessage()
    assert "secret" not in lost.getMessage()
    assert back.__dict__["action"] == "redis_back"


def test_connections_are_not_limited_to_redis_pys_hundred() -> None:
    assert connect("redis://host", name="x").connection_pool.max_connections > 10_000
    assert connect("redis://host", name="x", max_connections=7).connection_pool.max_connections == 7
