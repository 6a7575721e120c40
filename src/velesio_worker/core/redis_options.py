"""The options behind the ``?`` of a Redis URL: what redis-py would stumble over later is told when they are read."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

ENCODE: Final = "in passwords write / ? # @ as %2F %3F %23 %40"
LARGEST_DATABASE: Final = 2**31 - 1
"""Redis reads the number of a database as an int."""

OPTIONS: Final = (
    *("db", "username", "password", "socket_connect_timeout", "health_check_interval"),
    *("ssl_ca_certs", "ssl_ca_data", "ssl_certfile", "ssl_keyfile"),
    *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers"),
)
"""redis-py's options, without those that are the worker's own business."""

SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")

_SECONDS: Final = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})?")
_REQUIREMENTS: Final = re.compile(r"(?:CERT_)?(NONE|OPTIONAL|REQUIRED)", re.IGNORECASE)
_TRUTH: Final[Mapping[str, str]] = {
    **dict.fromkeys(("true", "1", "yes", "on"), "true"),
    **dict.fromkeys(("false", "0", "no", "off"), "false"),
}
_LONGEST: Final = 10**9


def read_options(scheme: str, query: str) -> dict[str, str]:
    """Read the options of a URL; each value is one that redis-py takes.

    Raises:
        ValueError: one of them is none; the message says what would be one, and holds nothing of a password.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    known = (*OPTIONS, *SENTINEL_OPTIONS) if scheme.endswith("sentinel") else OPTIONS
    if unknown := [name for name, _ in pairs if name not in known]:
        raise ValueError(f"a URL without the option{_shown(unknown[0], query)}; {_all(known)}; {ENCODE}")
    twice = sorted(name for name, value in pairs if value != options[name])
    if twice:
        raise ValueError(f"a URL with one value for the option {twice[0]}")
    for name, value in options.items():
        options[name] = _checked(name, value)
    tls = sorted(name for name in options if name.startswith("ssl_"))
    if tls and not scheme.startswith("rediss"):
        raise ValueError(f"a URL that begins with rediss, since {tls[0]} is an option of TLS")
    if tls:
        _check_tls(options)
    return options


def _all(known: tuple[str, ...]) -> str:
    return f"known options: {', '.join(known)}"


def _shown(name: str, query: str) -> str:
    """What may be said of an option's name: nothing where it may be the rest of a password."""
    if "@" in query or "pass" in query.partition(name)[0] or not re.fullmatch("[a-z_]+", name):
        return ""
    return f" {name!r}" if f"{name}=" in query else ""


def _checked(name: str, value: str) -> str:
    """Return an option's value as redis-py takes it."""
    read, allowed = _READERS.get(name, (_text if name.startswith("ssl_") else str, "text"))
    try:
        return read(value)
    except ValueError:
        raise ValueError(f"a URL whose option {name} is {allowed}") from None


def _text(value: str) -> str:
    if not value:
        raise ValueError
    return value


def _number(value: str, largest: int) -> str:
    if not re.fullmatch(r"[0-9]{1,10}", value) or int(value) > largest:
        raise ValueError
    return value


def _database(value: str) -> str:
    return _number(value, LARGEST_DATABASE)


def _whole_seconds(value: str) -> str:
    return _number(value, _LONGEST)


def _seconds(value: str) -> str:
    if not _SECONDS.fullmatch(value) or not 0 < float(value) <= _LONGEST:
        raise ValueError
    return value


def _requirement(value: str) -> str:
    found = _REQUIREMENTS.fullmatch(value)
    return _text(found.group(1).lower() if found else "")


def _truth(value: str) -> str:
    return _text(_TRUTH.get(value.lower(), ""))


_READERS: Final[Mapping[str, tuple[Callable[[str], str], str]]] = {
    "db": (_database, "a whole number: 0, or the number of another database"),
    "health_check_interval": (_whole_seconds, "a whole number of seconds, 0 for never"),
    "socket_connect_timeout": (_seconds, "a number of seconds above 0"),
    "ssl_cert_reqs": (_requirement, "none, optional or required"),
    "ssl_check_hostname": (_truth, "true or false"),
}


def _check_tls(options: Mapping[str, str]) -> None:
    """Refuse options of which one has no effect without another, or beside it."""
    if options.get("ssl_cert_reqs") == "none" and options.get("ssl_check_hostname") == "true":
        raise ValueError("a URL with ssl_cert_reqs=required, without which ssl_check_hostname=true has no effect")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("a URL with ssl_certfile, too, since ssl_keyfile is that certificate's key")


def check_certificates(options: Mapping[str, str]) -> None:
    """Have OpenSSL read what redis-py will give it at each connection, from files too.

    Raises:
        ValueError: it cannot; the message says what would be right.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities := options.get("ssl_ca_certs"):
        _check_file("ssl_ca_certs", authorities)
        why = f"a URL whose ssl_ca_certs names a file of PEM certificates, and {authorities} holds none"
        _try(lambda: context.load_verify_locations(cafile=authorities), why)
    if text := options.get("ssl_ca_data"):
        why = "a URL whose ssl_ca_data holds PEM certificates, every + of them written %2B"
        _try(lambda: context.load_verify_locations(cadata=text), why)
    if ciphers := options.get("ssl_ciphers"):
        why = "a URL whose ssl_ciphers are some that OpenSSL has: openssl ciphers lists them"
        _try(lambda: context.set_ciphers(ciphers), why)
    _check_own_certificate(context, options)


def authorities_file(path: Path) -> Path:
    """Return the file if OpenSSL reads certificates of authorities in it; else a ValueError that says what would be."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        why = "it holds none" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None) or error
        raise ValueError(f"a file of PEM certificates that this user can read ({why})") from None
    return path


def _try(load: Callable[[], None], otherwise: str) -> None:
    try:
        load()
    except (OSError, ValueError):
        raise ValueError(otherwise) from None


def _check_own_certificate(context: ssl.SSLContext, options: Mapping[str, str]) -> None:
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    if certificate is None:
        return
    _check_file("ssl_certfile", certificate)
    if key is not None:
        _check_file("ssl_keyfile", key)
    asked = False

    def passphrase() -> str:  # else OpenSSL asks for it at the terminal
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(certificate, key, password=passphrase)
    except (OSError, ValueError):
        if asked:
            raise ValueError(
                f"a URL whose ssl_keyfile has no passphrase: openssl pkey -in {key or certificate}"
            ) from None
        of = f", and {key} is not that of {certificate}" if key else f", for which {certificate} has to hold both"
        raise ValueError(f"a URL of a PEM certificate (ssl_certfile) and its key (ssl_keyfile){of}") from None


def _check_file(option: str, path: str) -> None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (Path would take a null byte for no file)
            file.read(1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"a URL whose {option} names a file that this user can read ({path!r}: {why})") from None
