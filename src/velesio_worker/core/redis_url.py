"""Where Redis is: one server, one that Sentinels watch over, or a Cluster, written as a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

EXAMPLES: Final = (
    "redis://:password@host:6379/0, rediss://… for TLS, unix:///path, redis+sentinel://host:26379,host:26379/service "
    "or redis+cluster://host:6379,host:6379"
)
SENTINEL_PORT: Final = 26379
REDIS_PORT: Final = 6379

_NO_DATABASES: Final = "a URL without a database, since a Redis Cluster has but one"
_ENCODE: Final = "in passwords write / ? # @ as %2F %3F %23 %40"

_NUMBERS: Final = frozenset({"db", "socket_connect_timeout", "health_check_interval"})
_URL: Final = re.compile(
    r"(?P<scheme>rediss?(\+(?P<topology>sentinel|cluster))?|unix)://"
    r"(?P<netloc>[^/?#]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?"
)
OPTIONS: Final = (
    *("db", "username", "password", "socket_connect_timeout", "health_check_interval"),
    *("ssl_ca_certs", "ssl_ca_data", "ssl_certfile", "ssl_keyfile"),
    *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers"),
)
"""What may stand behind the ``?``: redis-py's options, without those that are the worker's own business."""

_SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")


class Topology(StrEnum):
    """How Redis is run."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisURL:
    """A URL that was found right.

    Attributes:
        topology: how Redis is run.
        hosts: the addresses to begin with: Sentinels, or nodes of a Cluster; empty for a single server.
        service: the name under which the Sentinels know the primary.
        plain: the URL in redis-py's own form, with the first of the hosts: user, password, database, TLS, options.
        sentinel_auth: user and password of the Sentinels themselves, where they have any.
    """

    topology: Topology
    hosts: tuple[tuple[str, int], ...]
    service: str
    plain: str
    sentinel_auth: dict[str, str]


def parse_redis_url(url: str) -> RedisURL:
    """Read a ``REDIS_URL``.

    Raises:
        ValueError: it is none; the message says what would be one.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(f"a URL such as {EXAMPLES}")
    topology = Topology(match["topology"] or Topology.STANDALONE)
    options = _options(match["scheme"], match["query"] or "")
    if topology is Topology.STANDALONE:
        parts = _split(url)
        if not (parts.hostname or parts.path):
            raise ValueError(f"a URL such as {EXAMPLES}")
        if match["scheme"] != "unix":
            _path(topology, parts.path)
        return RedisURL(topology, (), "", url, {})
    auth, _, addresses = match["netloc"].rpartition("@")
    port = SENTINEL_PORT if topology is Topology.SENTINEL else REDIS_PORT
    if "@" in auth and "," in auth:
        raise ValueError(f"a URL with one user and password for all addresses; {_ENCODE}")
    hosts = tuple(_address(address, port) for address in addresses.split(","))
    service, database = _path(topology, match["path"] or "")
    sentinel_auth = {name.removeprefix("sentinel_"): options.pop(name) for name in _SENTINEL_OPTIONS if name in options}
    host = f"[{hosts[0][0]}]" if ":" in hosts[0][0] else hosts[0][0]
    plain = f"{match['scheme'].partition('+')[0]}://{auth}{'@' if auth else ''}{host}:{hosts[0][1]}/{database}"
    query = f"?{urlencode(options)}" if options else ""
    return RedisURL(topology, hosts, service, plain + query, sentinel_auth)


def _options(scheme: str, query: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    known = (*OPTIONS, *_SENTINEL_OPTIONS) if scheme.endswith("sentinel") else OPTIONS
    if unknown := sorted(options.keys() - set(known)):
        shown = f" {unknown[0]!r}" if "@" not in query and re.fullmatch("[a-z_]+", unknown[0]) else ""
        raise ValueError(f"a URL without the option{shown}; known options: {', '.join(known)}; {_ENCODE}")
    for name in sorted(_NUMBERS & options.keys()):
        if not re.fullmatch(r"[0-9]+", options[name]):
            raise ValueError(f"a URL whose option {name} is a whole number")
    if scheme.endswith("cluster") and int(options.get("db", 0)):
        raise ValueError(_NO_DATABASES)
    tls = sorted(name for name in options if name.startswith("ssl_"))
    if tls and not scheme.startswith("rediss"):
        raise ValueError(f"a URL that begins with rediss, since {tls[0]} is an option of TLS")
    return options


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"a URL such as {EXAMPLES}; {_ENCODE}") from None
    return parts


def _address(text: str, default_port: int) -> tuple[str, int]:
    parts = _split(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"a URL such as {EXAMPLES}; an address is missing")
    return parts.hostname, parts.port or default_port


def _path(topology: Topology, path: str) -> tuple[str, int]:
    """Return the service and the number of the database."""
    words = [word for word in path.split("/") if word]
    service = words.pop(0) if topology is Topology.SENTINEL and words else ""
    if topology is Topology.SENTINEL and not service:
        raise ValueError(
            "a URL such as redis+sentinel://host:26379,host:26379/service, "
            "service being the name that the Sentinels have for the primary (often mymaster)"
        )
    if not words:
        return service, 0
    if len(words) > 1 or not re.fullmatch(r"[0-9]+", words[0]):
        raise ValueError(f"a URL such as {EXAMPLES}, which ends with the number of a database; {_ENCODE}")
    if topology is Topology.CLUSTER and int(words[0]):
        raise ValueError(_NO_DATABASES)
    return service, int(words[0])
