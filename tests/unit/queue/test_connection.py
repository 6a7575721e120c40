from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.support.figures import rise
from velesio_worker.queue import outage
from velesio_worker.queue.connection import connect, wait_for_redis
from velesio_worker.queue.outage import QUIET_SECONDS, Outage
from velesio_worker.queue.remedies import kind_of, passes
from velesio_worker.wire.errors import RedisUnusableError


@pytest.mark.parametrize(
    "error",
    [
        InvalidResponse("Protocol error"),
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
        (InvalidResponse("Protocol error, got H"), "check host and port"),
        (ResponseError("CLUSTERDOWN x"), "CLUSTER INFO"),
        (ClusterDownError("Hash slot not served"), "CLUSTER INFO"),
        (MasterDownError("x"), "start the primary"),
        (BusyLoadingError("x"), "INFO persistence"),
        (ResponseError("BUSY x"), "SCRIPT KILL"),
        (RedisConnectionError("Error 1: certificate verify failed: self-signed certificate"), "ssl_ca_certs"),
        (RedisConnectionError("Error 1: certificate verify failed: Hostname mismatch"), "of another name"),
        (RedisConnectionError("Error 1: [SSL: WRONG_VERSION_NUMBER] wrong version number"), "redis instead of rediss"),
        (RedisConnectionError("Connection closed by server."), "rediss instead of redis"),
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


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged, by the names of the actions."""
    return [record.__dict__["action"] for record in caplog.records]


REFUSED_TO_NEW_CONNECTIONS = [
    (RedisConnectionError("max number of clients reached"), "CONFIG SET maxclients"),
    (AuthenticationError("invalid username-password pair"), "refuses the user or password"),
    (RedisConnectionError("Error 24 connecting to host:6379. Too many open files."), "ulimit -n"),
]


@pytest.mark.parametrize(("error", "remedy"), REFUSED_TO_NEW_CONNECTIONS, ids=str)
def test_what_is_refused_to_new_connections_is_one_line_however_well_the_others_work(
    error: RedisError, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    outage = Outage("redis://host:6379", clock)
    for _ in range(60):
        outage.noticed(error)
        assert remedy in outage.trouble
        outage.over()
        assert not outage.trouble
        clock.now += 1
    assert said(caplog) == ["redis_lost"]
    assert remedy in caplog.records[0].getMessage()
    clock.now += QUIET_SECONDS
    outage.over()
    outage.over()
    assert said(caplog) == ["redis_lost", "redis_back"]
    assert len(outage.past) == 60, "what is told is one thing, what is true of Redis another"


def test_an_outage_that_comes_and_goes_is_told_once_as_such_and_its_end_when_it_stays_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    outage = Outage("redis://host:6379", clock)
    for _ in range(60):
        outage.noticed(RedisConnectionError("Connection lost"))
        clock.now += 0.5
        outage.over()
        clock.now += 0.5
    assert said(caplog) == ["redis_lost", "redis_back", "redis_lost"]
    assert "it comes and goes" in caplog.records[-1].getMessage()
    clock.now += QUIET_SECONDS
    outage.over()
    assert said(caplog)[3:] == ["redis_back"]
    clock.now += QUIET_SECONDS
    outage.noticed(RedisConnectionError("Connection lost"))
    outage.over()
    assert said(caplog)[4:] == ["redis_lost", "redis_back"], "that is another outage"


def test_another_reason_within_an_outage_is_told_once_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    outage = Outage("redis://host:6379", Clock())
    for _ in range(3):
        for error in (RedisConnectionError("refused"), BusyLoadingError("x"), ResponseError("MISCONF x")):
            outage.noticed(error)
    outage.over()
    assert said(caplog) == ["redis_lost"] * 3 + ["redis_back"]
    assert "loading" in caplog.records[1].getMessage()


def test_a_long_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    outage = Outage("redis://host:6379", clock)
    for _ in range(10):
        outage.noticed(RedisConnectionError("refused"))
        clock.now += 2 * QUIET_SECONDS
    outage.over()
    assert said(caplog) == ["redis_lost", "redis_back"]


def test_words_of_trouble_in_what_a_reply_repeats_are_not_taken_for_it() -> None:
    error = ResponseError(
        "Command # 1 (SET a max number of clients WRONGTYPE) of pipeline caused error: ERR no: LOADINGS"
    )
    assert kind_of(error) == ""


class Answers:
    """A Redis that answers one command after the other with these errors."""

    def __init__(self, *errors: RedisError) -> None:
        self._errors = iter(errors)

    async def execute_command(self, *_: object) -> None:
        raise next(self._errors)


@pytest.mark.anyio
@pytest.mark.parametrize(("remind", "lines"), [(0.0, 4), (3600.0, 2)])
async def test_a_worker_that_waits_for_redis_says_so_anew_when_something_else_is_wrong_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, remind: float, lines: int
) -> None:
    def short(_low: float, _high: float) -> float:
        return 0.01

    monkeypatch.setattr(outage.random, "uniform", short)
    gone, loading = RedisConnectionError("gone"), BusyLoadingError("LOADING")
    redis: Any = Answers(gone, gone, gone, loading, AuthenticationError("NOAUTH"))
    with pytest.raises(RedisUnusableError):
        await wait_for_redis(redis, "redis://127.0.0.1:1", remind)
    told = [record for record in caplog.records if record.__dict__["action"] == "redis_absent"]
    assert len(told) == lines
    assert all("trying again" in record.getMessage() for record in told)
