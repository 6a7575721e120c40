"""Where Redis is: one server, one that Sentinels watch over, or a Cluster, written as a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from velesio_worker.core.redis_options import (
    ENCODE,
    LARGEST_DATABASE,
    SENTINEL_OPTIONS,
    check_certificates,
    read_options,
)

EXAMPLES: Final = (
    "redis://:password@host:6379/0, rediss://… for TLS, unix:///path, redis+sentinel://host:26379,host:26379/service "
    "or redis+cluster://host:6379,host:6379"
)
SENTINEL_PORT: Final = 26379
REDIS_PORT: Final = 6379

_NO_DATABASES: Final = "a URL without a database, since a Redis Cluster has but one"
_DIGITS: Final = 10
_SOCKET_BYTES: Final = 107
"""How long the path of a Unix socket may be."""

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
"""What redis-py takes out of a URL in silence, or cannot send."""

_URL: Final = re.compile(
    r"(?P<scheme>rediss?(\+(?P<topology>sentinel|cluster))?|unix)://"
    r"(?P<netloc>[^/?#]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?"
)


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
    url = url.strip()
    match = _URL.fullmatch(url)
    if match is None or _CONTROLS.search(url):
        raise ValueError(f"a URL such as {EXAMPLES}{_hint(url)}")
    topology = Topology(match["topology"] or Topology.STANDALONE)
    options = read_options(match["scheme"], match["query"] or "")
    auth, at, addresses = match["netloc"].rpartition("@")
    _check_login(auth, options)
    if topology is Topology.STANDALONE:
        _check_single(match["scheme"], url, addresses, options)
        return RedisURL(topology, (), "", _with_options(url, match["query"] or "", options), {})
    port = SENTINEL_PORT if topology is Topology.SENTINEL else REDIS_PORT
    if "@" in auth and "," in auth:
        raise ValueError(f"a URL with one user and password for all addresses; {ENCODE}")
    hosts = tuple(_address(address.strip(), port) for address in addresses.split(","))
    service, database = _path(topology, match["path"] or "", options)
    sentinel_auth = {name.removeprefix("sentinel_"): options.pop(name) for name in SENTINEL_OPTIONS if name in options}
    host = f"[{hosts[0][0]}]" if ":" in hosts[0][0] else hosts[0][0]
    plain = f"{match['scheme'].partition('+')[0]}://{auth}{at}{host}:{hosts[0][1]}/{database or 0}"
    query = f"?{urlencode(options)}" if options else ""
    return RedisURL(topology, hosts, service, plain + query, sentinel_auth)


def check_redis_url(url: str) -> None:
    """Read a ``REDIS_URL``, and the files of certificates that it names. Raises as :func:`parse_redis_url` does."""
    check_certificates(dict(parse_qsl(urlsplit(parse_redis_url(url).plain).query)))


def with_authorities(url: str, file: Path) -> str:
    """Return a URL with the file of the authorities that its TLS trusts, unless it has none or names its own."""
    match = _URL.fullmatch(url.strip())
    if match is None or not match["scheme"].startswith("rediss"):
        return url
    query = match["query"] or ""
    if {"ssl_ca_certs", "ssl_ca_data"} & {name for name, _ in parse_qsl(query)}:
        return url
    return f"{url.strip().rstrip('?')}{'&' if query else '?'}{urlencode({'ssl_ca_certs': str(file)})}"


def _hint(url: str) -> str:
    """What may be the matter with a URL that does not read as one."""
    if url[:1] in {"'", '"'}:
        return ", without quotes around it"
    if _CONTROLS.search(url):
        return "; there is a line break or another control character in it"
    return f"; {ENCODE}" if "#" in url or "@" in url else ""


def _with_options(url: str, query: str, options: dict[str, str]) -> str:
    """Return the URL itself, or where redis-py would read its options in another way, with those that are meant."""
    as_given = parse_qsl(query, keep_blank_values=True) == list(options.items())
    return url if as_given else f"{url.partition('?')[0]}?{urlencode(options)}"


def _check_login(auth: str, options: dict[str, str]) -> None:
    """Refuse a login that is named twice: redis-py would take the one before the ``@`` in silence."""
    user, _, password = auth.partition(":")
    for name, given in (("username", user), ("password", password)):
        if given and name in options:
            raise ValueError(f"a URL with one {name}: before the @, or as an option behind the ?")


def _check_single(scheme: str, url: str, address: str, options: dict[str, str]) -> None:
    """Find out that redis-py would reach for what is meant."""
    parts = _split(url)
    if scheme != "unix":
        if address or not parts.path:  # without a host it is the one that the worker runs on
            _address(address, REDIS_PORT)
        _path(Topology.STANDALONE, parts.path, options)
        return
    path = unquote(parts.path)
    if address or path in {"", "/"}:
        raise ValueError(f"a URL such as unix:///run/redis.sock, with three slashes in front of the path; {ENCODE}")
    if len(path.encode(errors="replace")) > _SOCKET_BYTES or "\0" in path:
        raise ValueError(f"a URL of a Unix socket whose path has {_SOCKET_BYTES} bytes at most")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"a URL such as {EXAMPLES}; {ENCODE}") from None
    return parts


def _address(text: str, default_port: int) -> tuple[str, int]:
    parts = _split(f"//{text}")
    host = parts.hostname
    if not host or "," in text:
        missing = "" if host else "; an address is missing"
        raise ValueError(f"a URL such as {EXAMPLES}{missing}")
    if parts.port == 0:
        raise ValueError("a URL with a port from 1 to 65535")
    _check_host(host)
    return host, parts.port or default_port


def _check_host(host: str) -> None:
    """Refuse what no name server could be asked for: that raises anything but an OSError later."""
    try:
        host.partition("%")[0].encode("idna")
        is_one = " " not in host and ("%" not in host or ":" in host)
    except UnicodeError:
        is_one = False
    if not is_one:
        raise ValueError(f"a URL whose host is a name or an address; {ENCODE}")


def _path(topology: Topology, path: str, options: dict[str, str]) -> tuple[str, int | None]:
    """Return the service and the number of the database, if the path has one."""
    words = [word for word in path.split("/") if word]
    service = words.pop(0) if topology is Topology.SENTINEL and words else ""
    if topology is Topology.SENTINEL and not service:
        raise ValueError(
            "a URL such as redis+sentinel://host:26379,host:26379/service, "
            "service being the name that the Sentinels have for the primary (often mymaster)"
        )
    if len(words) > 1 or (words and not re.fullmatch(r"[0-9]+", words[0])):
        raise ValueError(f"a URL such as {EXAMPLES}, which ends with the number of a database; {ENCODE}")
    if words and (len(words[0]) > _DIGITS or int(words[0]) > LARGEST_DATABASE):
        raise ValueError("a URL whose database has a number that Redis takes: mostly 0 to 15")
    database = int(words[0]) if words else None
    if topology is Topology.CLUSTER and (database or int(options.get("db", 0))):
        raise ValueError(_NO_DATABASES)
    if database is not None and int(options.get("db", database)) != database:
        raise ValueError(f"a URL with one database: /{database} and db={options['db']} are two")
    return service, database
