"""What is the matter when a command fails, whether it passes, and what to do about it, in words for people."""

from __future__ import annotations

import re
from typing import Final

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    ExecAbortError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from velesio_worker.core.secrets import hide_password

_PASSING: Final = (RedisConnectionError, RedisTimeoutError, ClusterError, ExecAbortError, NoScriptError, TryAgainError)
_PASSING_REPLY: Final = re.compile(
    r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNBLOCKED)\b"
)
_REPLY: Final = re.compile(rf"{_PASSING_REPLY.pattern}|\b(NOAUTH|NOPERM|WRONGPASS|WRONGTYPE)\b")
_WORDS: Final[dict[type[Exception], str]] = {
    AuthenticationError: "NOAUTH",
    AuthorizationError: "NOAUTH",
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
    InvalidResponse: "PROTOCOL",
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    MasterNotFoundError: "NOMASTER",
}
"""redis-py cuts the first word off some replies and makes a class of it."""

_SAID: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), word)
    for pattern, word in (
        ("(ERR )?ACL failure in script|(ERR )?The user executing the script can't run this", "NOPERM"),
        ("max number of clients", "MAXCLIENTS"),
        ("DB index is out of range|invalid DB index", "NODB"),
        ("hostname mismatch|certificate is not valid for", "HOSTNAME"),
        ("certificate verify failed|self.signed certificate", "CERTIFICATE"),
        ("certificate required|bad certificate|unknown ca\\b|certificate unknown", "OWNCERTIFICATE"),
        ("wrong version number|record layer failure|packet length too long", "NOTLS"),
        ("slots are not covered", "CLUSTERDOWN"),
        ("too many open files", "FILES"),
        ("protocol error", "PROTOCOL"),
    )
)
"""What tells the kind of trouble where there is neither word nor class for it."""

_PIPELINE_PREFIX: Final = "caused error: "

FOREIGN: Final = "WRONGTYPE"
"""The kind of trouble where somebody else's key has a name of the worker's."""

NO_RIGHT: Final = "NOPERM"
"""The kind of trouble where a user may not do what was asked."""

RIGHTS: Final = "velesio-worker acl worker"
"""The command that prints what a Redis user of the worker's has to be allowed."""

_REMEDIES: Final = {
    "BUSY": "is busy with a script that does not end: redis-cli SCRIPT KILL",
    "CERTIFICATE": "has a certificate that is not trusted here ({said}): name its authority in REDIS_URL, "
    "?ssl_ca_certs=/path/ca.pem",
    "CLUSTERDOWN": "is a Cluster that is down, or lacks some of its slots ({said}): redis-cli CLUSTER INFO on one of "
    "its nodes, and start those that fail",
    "FILES": "cannot be reached since this process may open no more files: ulimit -n 65536 (in a service LimitNOFILE)",
    "HOSTNAME": "has a certificate of another name ({said}): write that name into REDIS_URL, or have a certificate "
    "issued for this one",
    "LOADING": "is loading its data: wait; redis-cli INFO persistence shows how far it is",
    "MASTERDOWN": "is a replica that lost its primary: start the primary, or point REDIS_URL at the one that there is",
    "MAXCLIENTS": "takes no more connections, since its maxclients are reached: redis-cli CONFIG SET maxclients 10000 "
    "(and in redis.conf), or end some of those that redis-cli CLIENT LIST shows",
    "MISCONF": "cannot save its data and takes no writes: look at its log, and at its disk (df)",
    "NOAUTH": "refuses the user or password ({said}): check REDIS_URL",
    "NODB": "has no database of that number ({said}): end REDIS_URL with a smaller one, mostly 0 to 15",
    "NOMASTER": "has no primary now, or no Sentinel answers: check the addresses and the service in REDIS_URL",
    "NOPERM": f"does not let the user do what the worker needs ({{said}}): {RIGHTS} prints the rights",
    "NOREPLICAS": "has too few replicas to take writes: check min-replicas-to-write",
    "NOTLS": "speaks no TLS there ({said}): write redis instead of rediss in REDIS_URL, or the port that has TLS",
    "OOM": "is out of memory: raise its maxmemory or remove keys",
    "OWNCERTIFICATE": "wants another certificate of the worker ({said}): name it in REDIS_URL, "
    "?ssl_certfile=/path/crt.pem&ssl_keyfile=/path/key.pem",
    "PROTOCOL": "does not speak Redis's protocol, as another program might ({said}): check host and port in REDIS_URL",
    "READONLY": "is a read-only replica: point REDIS_URL at the primary",
    "UNBLOCKED": "has just become a replica: wait for the failover, or point REDIS_URL at the primary",
    FOREIGN: "has a key of another type under one of the worker's names ({said}): rename or delete it, or set "
    "QUEUE_NAME to one that is free",
}


def passes(error: RedisError) -> bool:
    """Whether an error passes by itself, or once an operator mends Redis: then wait and repeat."""
    if isinstance(error, (*_PASSING, InvalidResponse, OutOfMemoryError, ReadOnlyError)):
        return True
    return isinstance(error, ResponseError) and _PASSING_REPLY.search(words(error)) is not None


def words(error: BaseException) -> str:
    """Redis's own words; redis-py puts the command in front, and that may hold anything."""
    return str(error).rpartition(_PIPELINE_PREFIX)[2]


def kind_of(error: BaseException) -> str:
    """Return the word for a kind of trouble, by which one is told from another; empty: Redis does not answer."""
    said = words(error)
    for pattern, word in _SAID:
        if pattern.match(said) or (not isinstance(error, ResponseError) and pattern.search(said)):
            return word  # a reply may repeat anything further on
    for known, word in _WORDS.items():
        if isinstance(error, known):
            return word
    found = _REPLY.search(said) if isinstance(error, ResponseError) else None
    if found is None and isinstance(error.__cause__, RedisError):  # redis-py wraps what a Unix socket's server replies
        return kind_of(error.__cause__)
    return found.group() if found else ""


def known_remedy(error: BaseException) -> str:
    """Say what Redis does or is, and what to do about it; empty where only its own words are known."""
    return _REMEDIES.get(kind_of(error), "").format(said=words(error).strip())


def remedy(error: Exception, url: str) -> str:
    """Say what is the matter with Redis, and what to do about it."""
    where, said = f"Redis at {hide_password(url)}", words(error).strip()
    if known := known_remedy(error):
        return f"{where} {known}"
    if isinstance(error, ResponseError):
        return f"{where} takes no commands now ({said})"
    return f"{where} does not answer ({error}): check REDIS_URL and that Redis runs{_hint(said, url)}"


def _hint(said: str, url: str) -> str:
    """Say what else it may be where one side of a connection speaks TLS and the other does not."""
    if url.startswith("rediss"):
        return ", with TLS there" if "connecting" in said else ""
    return " (rediss instead of redis if it wants TLS)" if "closed by server" in said else ""
