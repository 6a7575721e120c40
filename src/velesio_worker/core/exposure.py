"""What others on the way could read or change: passwords in the clear, and checks of TLS that are switched off."""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from velesio_worker.core.model_source import hub_token, parse_model_source
from velesio_worker.core.redis_url import parse_redis_url
from velesio_worker.core.settings import Settings
from velesio_worker.wire.errors import SettingsError

_HTTPS: Final = "https:// (CA_FILE names an authority of your own)"


class Exposure(NamedTuple):
    """One thing that is in the clear or unchecked: what it is and what to do about it, for people."""

    what: str
    remedy: str


def exposures(settings: Settings) -> list[Exposure]:
    """Return what goes over a network in the clear, or to servers that are not checked, with these settings."""
    found = _of_redis(settings.redis_url)
    key = settings.llama_api_key is not None
    for name, url, keyed in (
        ("LLAMA_SERVER_URL", settings.llama_server_url, key),
        ("SD_SERVER_URL", settings.sd_server_url, False),
    ):
        if url and _is_open(url) and (keyed or "@" in urlsplit(url).netloc):
            what = "LLAMA_API_KEY" if keyed else f"the password in {name}"
            found.append(Exposure(f"{what} goes to {_host(url)} in the clear", f"let {name} begin with {_HTTPS}"))
    if settings.model_url is not None:
        found += _of_model(settings.model_url)
    return found


def is_loopback(host: str) -> bool:
    """Whether what is sent to a host stays on this one."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_own_name(host: str | None) -> bool:
    """Whether a request's ``Host`` is an address or localhost, which no name server can turn elsewhere."""
    if host is None:
        return True  # HTTP/1.0: no browser
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return host.partition(":")[0].rstrip(".").lower() == "localhost"
    return True


def _of_redis(url: str) -> list[Exposure]:
    where = parse_redis_url(url)
    parts = urlsplit(where.plain)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "rediss":
        found: list[Exposure] = []
        if options.get("ssl_cert_reqs", "required") != "required":
            what = f"the certificate of Redis is not checked (ssl_cert_reqs={options['ssl_cert_reqs']} in REDIS_URL)"
            found.append(Exposure(what, "remove ssl_cert_reqs; CA_FILE names an authority of your own"))
        if options.get("ssl_check_hostname") == "false":
            what = "whose certificate Redis has is not checked (ssl_check_hostname=false in REDIS_URL)"
            found.append(Exposure(what, "remove ssl_check_hostname, and use the name that the certificate has"))
        return found
    secret = parts.password or options.get("password") or where.sentinel_auth.get("password")
    if parts.scheme == "unix" or not secret:
        return []
    hosts = [host for host, _ in where.hosts] or [parts.hostname or "localhost"]
    far = [host for host in hosts if not is_loopback(host)]
    if not far:
        return []
    remedy = "let REDIS_URL begin with rediss (TLS), where others can listen in on that network"
    return [Exposure(f"the password in REDIS_URL goes to {', '.join(far)} in the clear", remedy)]


def _of_model(text: str) -> list[Exposure]:
    source = parse_model_source(text)
    if not _is_open(source.url):
        return []
    found: list[Exposure] = []
    remedy = "let it begin with https://"
    if "@" in urlsplit(source.url).netloc:
        found.append(Exposure(f"the password in MODEL_URL goes to {_host(source.url)} in the clear", remedy))
    try:
        token = hub_token() if source.hub else None
    except SettingsError:
        token = None  # which is told elsewhere
    if token is not None:
        found.append(Exposure(f"HF_TOKEN goes to {_host(source.url)} in the clear", f"HF_ENDPOINT: {remedy}"))
    return found


def _is_open(url: str) -> bool:
    return urlsplit(url).scheme == "http" and not is_loopback(_host(url))


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
