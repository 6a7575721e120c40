"""What unit tests share: a scripted engine, reached over each HTTP transport, and patience with a slow machine."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.doubles.engine import EngineDouble, healthy
from tests.support.servers import free_port
from tests.support.tls import TLS
from velesio_worker.engines import http as http_module
from velesio_worker.engines.http import EngineHTTP


@pytest.fixture(params=["httpx", "aiohttp"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The HTTP transport under test: httpx's own, or httpx-aiohttp's."""

    def own(limits: httpx.Limits, *, verify: ssl.SSLContext | bool) -> httpx.AsyncBaseTransport:
        assert not verify
        return httpx.AsyncHTTPTransport(limits=limits, trust_env=False, verify=TLS)

    def shared_tls(**_: object) -> ssl.SSLContext:
        return TLS

    monkeypatch.setattr(httpx, "create_ssl_context", shared_tls)  # reading all certificates takes longer than a test
    if request.param == "httpx":
        monkeypatch.setattr(http_module, "_transport", own)
    else:
        pytest.importorskip("httpx_aiohttp")
    return request.param


@pytest.fixture
async def double() -> AsyncIterator[EngineDouble]:
    """A scripted engine that is ready."""
    async with EngineDouble(healthy()).serving() as serving:
        yield serving


@pytest.fixture
async def http(transport: str, double: EngineDouble) -> AsyncIterator[EngineHTTP]:
    """A client of the double, once over each transport."""
    assert transport
    async with EngineHTTP(double.url) as client:
        yield client


@pytest.fixture
def free_url() -> str:
    """An address where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"
