"""What tests of connections to an engine share: both event loops, TLS, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import anyio
import pytest
import trustme

TLSPair = tuple[ssl.SSLContext, ssl.SSLContext] | tuple[None, None]
"""The server's side of TLS and the client's; None where there is none."""

LIMIT: Final = 10.0


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    loop, complaints = asyncio.get_running_loop(), list[Any]()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield
    gc.collect(1)  # what a test made is young; to look through all is slow
    for _ in range(10):
        await asyncio.sleep(0)
    loop.set_exception_handler(handler)
    left = [task for task in asyncio.all_tasks() if "TestRunner" not in repr(task.get_coro())]
    assert (complaints, left) == ([], [])


def tls_pair(name: str = "127.0.0.1") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Both sides of TLS, with a certificate for this name."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert(name).configure_cert(server)  # pyright: ignore[reportUnknownMemberType]
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType]
    return server, client


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> TLSPair:
    return (None, None) if request.param == "plain" else tls_pair()


async def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Wait until a condition holds."""
    with anyio.fail_after(limit):
        while not condition():
            await anyio.sleep(0.002)
