"""REDIS_URL: one server, Sentinels or a Cluster; what is wrong is told with what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from redis.asyncio.connection import SSLConnection, parse_url

from velesio_worker.core.redis_url import RedisURL, Topology, parse_redis_url
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings import load_settings
from velesio_worker.queue.clients import is_cluster
from velesio_worker.queue.connection import connect
from velesio_worker.wire.errors import SettingsError

SECRET = "hunter2"
SENTINEL, CLUSTER = "redis+sentinel", "redis+cluster"


def read(url: str) -> dict[str, Any]:
    """What redis-py reads out of the URL in its own form."""
    return dict(parse_url(parse_redis_url(url).plain))


@pytest.mark.parametrize(
    ("scheme", "path", "topology"),
    [
        ("redis", "", Topology.STANDALONE),
        ("rediss", "", Topology.STANDALONE),
        (SENTINEL, "/mymaster", Topology.SENTINEL),
        ("rediss+sentinel", "/mymaster", Topology.SENTINEL),
        (CLUSTER, "", Topology.CLUSTER),
        ("rediss+cluster", "", Topology.CLUSTER),
    ],
)
def test_the_scheme_says_how_redis_is_run_and_whether_with_tls(scheme: str, path: str, topology: Topology) -> None:
    url = parse_redis_url(f"{scheme}://host{path}")
    assert url.topology is topology
    assert (read(f"{scheme}://host{path}").get("connection_class") is SSLConnection) is scheme.startswith("rediss")


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://host:6380/2",
        "redis://:p%40ss@host/0?health_check_interval=7",
        "rediss://me:secret@[::1]:6380",
        "unix:///run/redis.sock",
        "unix://:secret@/run/redis.sock?db=3",
    ],
)
def test_the_url_of_one_server_is_left_to_redis_py_as_it_is(url: str) -> None:
    assert parse_redis_url(url) == RedisURL(Topology.STANDALONE, (), "", url, {})


@pytest.mark.parametrize(("scheme", "path", "port"), [(SENTINEL, "/mymaster", 26379), (CLUSTER, "", 6379)])
@pytest.mark.parametrize(
    ("addresses", "hosts"),
    [
        ("a", [("a", None)]),
        ("a:1", [("a", 1)]),
        ("a:1,b,c.example.org:3", [("a", 1), ("b", None), ("c.example.org", 3)]),
        ("10.0.0.1:1,10.0.0.2", [("10.0.0.1", 1), ("10.0.0.2", None)]),
        ("[::1]", [("::1", None)]),
        ("[::1]:1,[fe80::2],a:3", [("::1", 1), ("fe80::2", None), ("a", 3)]),
        ("a:65535", [("a", 65535)]),
    ],
)
def test_every_host_has_its_port_or_the_usual_one(
    scheme: str, path: str, port: int, addresses: str, hosts: list[tuple[str, int | None]]
) -> None:
    url = parse_redis_url(f"{scheme}://{addresses}{path}")
    assert url.hosts == tuple((host, own or port) for host, own in hosts)
    first = dict(parse_url(url.plain))
    assert (first["host"], first["port"]) == url.hosts[0]


@pytest.mark.parametrize(
    ("path", "service", "database"),
    [
        ("/mymaster", "mymaster", 0),
        ("/mymaster/", "mymaster", 0),
        ("/my-redis.1/0", "my-redis.1", 0),
        ("/s/12", "s", 12),
    ],
)
def test_the_path_of_sentinels_is_the_service_and_the_database(path: str, service: str, database: int) -> None:
    url = f"{SENTINEL}://a,b{path}"
    assert parse_redis_url(url).service == service
    assert read(url)["db"] == database


@pytest.mark.parametrize("path", ["", "/", "/0"])
def test_a_cluster_has_neither_service_nor_database(path: str) -> None:
    url = f"{CLUSTER}://a,b{path}"
    assert parse_redis_url(url).service == ""
    assert read(url)["db"] == 0


@pytest.mark.parametrize(("scheme", "path"), [("redis", ""), (SENTINEL, "/mymaster"), (CLUSTER, "")])
@pytest.mark.parametrize(
    ("auth", "user", "password"),
    [
        (f":{SECRET}", None, SECRET),
        (f"me:{SECRET}", "me", SECRET),
        ("me", "me", None),
        ("m%40e:p%40ss", "m@e", "p@ss"),
        (":p%2Fa%3Ft%23h%25", None, "p/a?t#h%"),
        (":a:b", None, "a:b"),
        (":a@b", None, "a@b"),
        (":a,b=c&d+e", None, "a,b=c&d+e"),
        (":%E7%8C%AB%F0%9F%8E%89", None, "猫🎉"),
    ],
)
def test_user_and_password_are_redis_pys_whatever_their_characters(
    scheme: str, path: str, auth: str, user: str | None, password: str | None
) -> None:
    url = f"{scheme}://{auth}@a:1{',b:2' if path else ''}{path}"
    found = read(url)
    assert (found["host"], found["port"]) == ("a", 1)
    assert (found.get("username"), found.get("password")) == (user, password)
    assert len(parse_redis_url(url).hosts) == {"redis": 0, SENTINEL: 2, CLUSTER: 1}[scheme]


@pytest.mark.parametrize(
    ("query", "auth"),
    [
        ("", {}),
        (f"?sentinel_password={SECRET}", {"password": SECRET}),
        (f"?sentinel_username=s&sentinel_password={SECRET}", {"username": "s", "password": SECRET}),
        ("?sentinel_password=p%40%26%3D%2B%25&db=3", {"password": "p@&=+%"}),
    ],
)
def test_the_sentinels_have_a_user_and_password_of_their_own(query: str, auth: dict[str, str]) -> None:
    url = parse_redis_url(f"{SENTINEL}://me:theirs@a/mymaster{query}")
    assert url.sentinel_auth == auth
    assert "sentinel_" not in url.plain
    found = dict(parse_url(url.plain))
    assert (found["username"], found["password"]) == ("me", "theirs")


@pytest.mark.parametrize("scheme", [SENTINEL, "rediss+sentinel", CLUSTER, "rediss+cluster"])
def test_redis_pys_options_are_kept(scheme: str) -> None:
    path = "/mymaster/2" if "sentinel" in scheme else ""
    found = read(f"{scheme}://a,b{path}?health_check_interval=7&username=m%26e&password=a%20b%2B%25")
    assert (found["health_check_interval"], found["username"], found["password"]) == (7, "m&e", "a b+%")


def test_the_options_of_tls_hold_for_sentinels_and_primary() -> None:
    client: Any = connect("rediss+sentinel://a,b/mymaster?ssl_cert_reqs=none&ssl_ca_certs=%2Fca.pem", name="w")
    for one in (client, *client.watchers):
        found = one.connection_pool.connection_kwargs
        assert (found["ssl_cert_reqs"], found["ssl_ca_certs"]) == ("none", "/ca.pem")
        assert issubclass(one.connection_pool.connection_class, SSLConnection)


def test_the_options_of_tls_hold_for_the_nodes_of_a_cluster() -> None:
    client: Any = connect("rediss+cluster://a?ssl_cert_reqs=none&ssl_ca_certs=%2Fca.pem", name="w")
    found = client.connection_kwargs
    assert (found["ssl_cert_reqs"], found["ssl_ca_certs"]) == ("none", "/ca.pem")
    assert found["connection_class"] is SSLConnection


def test_a_client_of_a_primary_asks_each_of_the_sentinels() -> None:
    client: Any = connect(f"{SENTINEL}://me:{SECRET}@a:1,[::1]/mymaster/4?sentinel_password=theirs", name="w")
    assert not is_cluster(client)
    pool = client.connection_pool
    assert pool.service_name == "mymaster"
    assert {name: pool.connection_kwargs[name] for name in ("username", "password", "db", "client_name")} == {
        "username": "me",
        "password": SECRET,
        "db": 4,
        "client_name": "w",
    }
    asked = [watcher.connection_pool.connection_kwargs for watcher in client.watchers]
    assert [(one["host"], one["port"]) for one in asked] == [("a", 1), ("::1", 26379)]
    assert {(one["username"], one["password"], one["db"]) for one in asked} == {(None, "theirs", 0)}


def test_a_client_of_a_cluster_begins_with_each_of_the_nodes() -> None:
    client: Any = connect(f"{CLUSTER}://me:{SECRET}@a:1,[::1]?health_check_interval=7", name="w")
    assert is_cluster(client)
    assert set(client.nodes_manager.startup_nodes) == {"a:1", "::1:6379"}
    wanted = {"username": "me", "password": SECRET, "client_name": "w", "health_check_interval": 7}
    assert {name: client.connection_kwargs[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("", "redis://:password@host:6379/0"),
        ("redis", "redis://:password@host:6379/0"),
        ("host:6379", "redis://:password@host:6379/0"),
        ("redis:host", "redis://:password@host:6379/0"),
        ("redis://", "redis://:password@host:6379/0"),
        ("redis://:6379", "redis://:password@host:6379/0"),
        ("redis://host:port", "redis://:password@host:6379/0"),
        ("redis://host:99999", "a URL such as"),
        ("redis://[::1", "redis://:password@host:6379/0"),
        ("redis://a:1,b:2", "redis+cluster://host:6379,host:6379"),
        ("redis://host#x", "redis://:password@host:6379/0"),
        ("http://host", "redis+sentinel://host:26379,host:26379/service"),
        ("sentinel://host/mymaster", "redis+sentinel://host:26379,host:26379/service"),
        ("cluster+redis://host", "redis+cluster://host:6379,host:6379"),
        ("redis+cluster+tls://host", "redis+cluster://host:6379,host:6379"),
        (f"{SENTINEL}://", "an address is missing"),
        (f"{SENTINEL}:///mymaster", "an address is missing"),
        (f"{SENTINEL}://:26379/mymaster", "an address is missing"),
        (f"{SENTINEL}://a,/mymaster", "an address is missing"),
        (f"{CLUSTER}://a,,b", "an address is missing"),
        (f"{CLUSTER}://me:{SECRET}@", "an address is missing"),
        (f"{CLUSTER}://a:port", "redis+cluster://host:6379,host:6379"),
        (f"{CLUSTER}://a,b:99999", "a URL such as"),
        (f"{CLUSTER}://::1", "redis+cluster://host:6379,host:6379"),
        (f"{CLUSTER}://[::1", "redis+cluster://host:6379,host:6379"),
        (f"{SENTINEL}://a", "often mymaster"),
        (f"{SENTINEL}://a,b/", "often mymaster"),
        (f"{SENTINEL}://a?sentinel_password={SECRET}", "often mymaster"),
        (f"{SENTINEL}://a/mymaster/x", "ends with the number of a database"),
        (f"{SENTINEL}://a/mymaster/-1", "ends with the number of a database"),
        (f"{SENTINEL}://a/mymaster/0/1", "ends with the number of a database"),
        (f"{SENTINEL}://a/mymaster#x", "redis+sentinel://host:26379,host:26379/service"),
        (f"{CLUSTER}://a/x", "ends with the number of a database"),
        (f"{CLUSTER}://a/2", "without a database"),
        ("redis://a?banana=1", "without the option 'banana'; known options: db, "),
        (f"{CLUSTER}://a?decode_responses=", "without the option 'decode_responses'"),
        (f"{SENTINEL}://a/mymaster?sentinel_pasword={SECRET}", "sentinel_username, sentinel_password"),
        (f"{CLUSTER}://a?sentinel_password={SECRET}", "without the option 'sentinel_password'"),
        ("rediss://a?socket_timeout=3", "without the option 'socket_timeout'"),
        (f"{SENTINEL}://a/mymaster?max_connections=3", "without the option 'max_connections'"),
        ("redis://a?ssl_ca_certs=/ca.pem", "begins with rediss, since ssl_ca_certs"),
        (f"{SENTINEL}://a/mymaster?ssl_cert_reqs=none", "begins with rediss, since ssl_cert_reqs"),
    ],
)
def test_a_mistake_is_told_with_what_to_write(url: str, remedy: str) -> None:
    with pytest.raises(ValueError, match="a URL") as caught:
        parse_redis_url(url)
    assert type(caught.value) is ValueError
    assert remedy in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"{SENTINEL}://:{SECRET}@a,b/mymaster", f"{SENTINEL}://:***@a,b/mymaster"),
        (f"rediss+sentinel://me:{SECRET}@a:1,b:2/mymaster/3", "rediss+sentinel://me:***@a:1,b:2/mymaster/3"),
        (f"{SENTINEL}://a:1/s?sentinel_password={SECRET}", f"{SENTINEL}://a:1/s?sentinel_password=***"),
        (
            f"{SENTINEL}://a/s?db=1&sentinel_password={SECRET}&sentinel_username=me",
            f"{SENTINEL}://a/s?db=1&sentinel_password=***&sentinel_username=me",
        ),
        (f"{SENTINEL}://:{SECRET}@a/s?sentinel_password={SECRET}", f"{SENTINEL}://:***@a/s?sentinel_password=***"),
        (f"{CLUSTER}://me:p@{SECRET}@[::1]:1,b", f"{CLUSTER}://me:***@[::1]:1,b"),
        (f"rediss+cluster://:{SECRET}:{SECRET}@a", "rediss+cluster://:***@a"),
        (f"unix://:{SECRET}@/run/redis.sock", "unix://:***@/run/redis.sock"),
    ],
)
def test_passwords_of_every_kind_of_url_are_hidden(url: str, shown: str) -> None:
    parse_redis_url(url)
    assert hide_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [f"{SENTINEL}://a:1,b:2/mymaster", f"{SENTINEL}://a/s?sentinel_username=me", f"{CLUSTER}://me@a:1,[::1]:2/0?db=0"],
)
def test_a_url_without_password_is_shown_as_it_is(url: str) -> None:
    assert hide_password(url) == url


@pytest.mark.parametrize(
    "url",
    [
        f"redis+sentinel://:pw@a/mymaster?sentinel_password=x@{SECRET}",
        f"redis+sentinel://a:1/mymaster?sentinel_password=x@{SECRET}",
        f"redis://:pw@a?password=x@{SECRET}",
    ],
)
def test_an_at_sign_in_a_parameter(url: str) -> None:
    assert SECRET not in hide_password(url)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/x@redis",
        f"redis+sentinel://:{SECRET}/x@redis/s",
        f"redis+cluster://me:12/{SECRET}@redis",
        f"redis://:x?{SECRET}@redis",
        f"redis://:{SECRET}#x@redis",
        f"redis://me/{SECRET}@redis",
        f"redis:///:{SECRET}@redis",
        f"redis://:a://{SECRET}@redis",
        f"redis:/:{SECRET}@redis",
        f":{SECRET}@redis:6379",
        f"redis://:{SECRET}",
        f"redis://me:{SECRET}/0",
        f"redis://a?pasword={SECRET}",
        f"redis://a?password=x&{SECRET}",
        f"redis://a?password=x&{SECRET.rstrip('2')}=y",
        f"redis+sentinel://a/s?sentinel_pass={SECRET}",
        f"redis://:{SECRET}@a?password={SECRET}",
        f"rediss://:{SECRET}@a?ssl_cert_reqs=never",
        f"redis://:{SECRET}@a/1?db=2",
    ],
)
def test_complaints_hide_passwords(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert SECRET.rstrip("2") not in str(caught.value)


@pytest.mark.parametrize("character", "/?#@")
def test_what_a_password_is_to_be_written_with_is_told_whichever_character_it_has(character: str) -> None:
    url = f"redis://:p{character}ss@127.0.0.1:x"
    with pytest.raises(ValueError, match="in passwords write / \\? # @ as %2F %3F %23 %40"):
        parse_redis_url(url)


WRONG_OPTIONS = [
    ("redis://a?health_check_interval=x", "health_check_interval is a whole number of seconds"),
    ("redis://a?health_check_interval=", "health_check_interval is a whole number of seconds"),
    ("redis://a?socket_connect_timeout=0", "socket_connect_timeout is a number of seconds above 0"),
    ("redis://a?socket_connect_timeout=nan", "socket_connect_timeout is a number of seconds above 0"),
    ("redis://a?db=-1", "db is a whole number"),
    (f"redis://a?db={'9' * 5000}", "db is a whole number"),
    (f"redis://a/{'9' * 5000}", "a number that Redis takes: mostly 0 to 15"),
    ("redis://a/2147483648", "a number that Redis takes: mostly 0 to 15"),
    ("redis://a/1?db=2", "/1 and db=2 are two"),
    (f"{SENTINEL}://a/s/1?db=2", "/1 and db=2 are two"),
    (f"{CLUSTER}://a?db=1", "without a database"),
    ("redis://a?db=1&db=2", "one value for the option db"),
    ("redis://:x@a?password=y", "one password: before the @, or as an option"),
    (f"{SENTINEL}://me@a/s?username=y", "one username: before the @, or as an option"),
    ("rediss://a?ssl_cert_reqs=never", "none, optional or required"),
    ("rediss://a?ssl_cert_reqs=", "none, optional or required"),
    (f"{SENTINEL.replace('redis', 'rediss')}://a/s?ssl_cert_reqs=CERT", "none, optional or required"),
    ("rediss://a?ssl_check_hostname=maybe", "ssl_check_hostname is true or false"),
    ("rediss://a?ssl_cert_reqs=none&ssl_check_hostname=true", "ssl_cert_reqs=required"),
    ("rediss://a?ssl_keyfile=/key.pem", "with ssl_certfile, too"),
    ("redis://a:0", "a port from 1 to 65535"),
    (f"{CLUSTER}://a:1,b:0", "a port from 1 to 65535"),
    ("redis://a..b", "a name or an address"),
    ("redis://a b", "a name or an address"),
    (f"redis://{'a' * 64}.org", "a name or an address"),
    ("redis://%zz", "a name or an address"),
    ("redis://a\nb", "a line break or another control character"),
    ("'redis://a'", "without quotes around it"),
    ("unix://run/redis.sock", "three slashes"),
    ("unix:///", "three slashes"),
    (f"unix:///{'x' * 120}", "107 bytes at most"),
]


@pytest.mark.parametrize(("url", "remedy"), WRONG_OPTIONS)
def test_a_wrong_value_of_an_option_is_told_with_what_is_allowed(url: str, remedy: str) -> None:
    with pytest.raises(ValueError, match="a URL") as caught:
        parse_redis_url(url)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("topology", ["rediss://a", "rediss+sentinel://a/s", "rediss+cluster://a"])
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("CERT_NONE", "none"),
        ("cert_optional", "optional"),
        ("CERT_REQUIRED", "required"),
        ("None", "none"),
        ("required", "required"),
    ],
)
def test_the_requirements_of_a_certificate_are_understood_in_pythons_words_too(
    topology: str, written: str, meant: str
) -> None:
    assert read(f"{topology}?ssl_cert_reqs={written}")["ssl_cert_reqs"] == meant


@pytest.mark.parametrize(("written", "meant"), [("no", False), ("False", False), ("on", True), ("1", True)])
def test_whether_the_host_name_is_checked_may_be_said_in_several_words(written: str, meant: bool) -> None:  # noqa: FBT001 (parametrised)
    assert read(f"rediss://a?ssl_check_hostname={written}")["ssl_check_hostname"] is meant


def test_a_password_stands_as_it_is_where_an_option_is_put_right() -> None:
    found = read("rediss://me:p%40s%2Fs@a:1/2?ssl_cert_reqs=CERT_NONE&health_check_interval=7")
    assert (found["username"], found["password"], found["db"]) == ("me", "p@s/s", 2)
    assert (found["host"], found["port"], found["health_check_interval"]) == ("a", 1, 7)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a certificate and its key, another's key, a key with a passphrase and no PEM."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name in ("mine", "other"):
        issued = authority.issue_cert(f"{name}.example.org")
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    key = load_pem_private_key((folder / "mine.key").read_bytes(), password=None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "locked.key").write_bytes(locked)
    (folder / "text").write_text("no certificate")
    return folder


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ("ssl_ca_certs={0}/none.pem", "ssl_ca_certs names a file that this user can read"),
        ("ssl_ca_certs={0}", "Is a directory"),
        ("ssl_ca_certs=%00", "ssl_ca_certs names a file that this user can read"),
        ("ssl_ca_certs={0}/text", "PEM certificates"),
        ("ssl_ca_data=text", "ssl_ca_data holds PEM certificates"),
        ("ssl_ciphers=bogus", "openssl ciphers"),
        ("ssl_certfile={0}/none.crt", "ssl_certfile names a file that this user can read"),
        ("ssl_certfile={0}/mine.crt", "has to hold both"),
        ("ssl_certfile={0}/mine.crt&ssl_keyfile={0}/none.key", "ssl_keyfile names a file that this user can read"),
        ("ssl_certfile={0}/mine.crt&ssl_keyfile={0}/other.key", "other.key is not that of"),
        ("ssl_certfile={0}/mine.crt&ssl_keyfile={0}/locked.key", "has no passphrase: openssl pkey"),
    ],
)
@pytest.mark.parametrize("server", ["rediss://a", "rediss+sentinel://a/s", "rediss+cluster://a"])
def test_what_openssl_could_not_read_is_told_as_a_setting(
    monkeypatch: pytest.MonkeyPatch, certificates: Path, server: str, options: str, remedy: str
) -> None:
    monkeypatch.setenv("REDIS_URL", f"{server}?{options.format(certificates)}")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert remedy in str(caught.value)


def test_certificates_that_openssl_reads_are_taken(monkeypatch: pytest.MonkeyPatch, certificates: Path) -> None:
    own = f"ssl_certfile={certificates}/mine.crt&ssl_keyfile={certificates}/mine.key"
    url = f"rediss://a?ssl_ca_certs={certificates}/ca.pem&{own}&ssl_ciphers=HIGH"
    monkeypatch.setenv("REDIS_URL", url)
    assert load_settings().redis_url == url
