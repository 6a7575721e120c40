"""The examples for proxies, in the real ones where this host has them: nothing is held back, nobody is forgotten."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx
import pytest

from tests.docker.proxying import (
    NGINX_OF_COMPOSE,
    NGINX_OF_HOSTS,
    Upstream,
    caddy_of_hosts,
    has,
    nginx_of_compose,
    nginx_of_hosts,
    running,
    upstream,
)

pytestmark = pytest.mark.anyio

PROXIES: Final[dict[str, tuple[str, Callable[..., tuple[list[str | Path], int]]]]] = {
    "nginx of Compose": ("nginx", nginx_of_compose),
    "nginx of a host": ("nginx", nginx_of_hosts),
    "Caddy of a host": ("caddy", caddy_of_hosts),
}
every_proxy = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=name, marks=pytest.mark.skipif(not has(program), reason=f"{program} is not on this host"))
        for name, (program, _) in PROXIES.items()
    ],
)


@asynccontextmanager
async def proxied(name: str, folder: Path) -> AsyncGenerator[tuple[Upstream, httpx.AsyncClient], None]:
    async with upstream() as (gateway, behind):
        command, port = PROXIES[name][1](folder, behind)
        async with (
            running(command, folder, port),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
        ):
            yield gateway, client


@every_proxy
async def test_a_piece_is_with_its_reader_before_the_next_is_made(name: str, tmp_path: Path) -> None:
    async with proxied(name, tmp_path) as (gateway, client):
        with anyio.fail_after(20):
            async with client.stream("GET", "/live") as answer:
                pieces = answer.aiter_text()
                assert await anext(pieces) == "data: first\n\n"
                gateway.goes_on.set()
                assert "".join([piece async for piece in pieces]) == "data: second\n\n"
    assert answer.headers["content-type"].startswith("text/event-stream")


@every_proxy
async def test_the_gateway_is_told_at_once_that_a_reader_has_left(name: str, tmp_path: Path) -> None:
    async with proxied(name, tmp_path) as (gateway, client):
        async with client.stream("GET", "/live") as answer:
            assert await anext(answer.aiter_text()) == "data: first\n\n"
        with anyio.fail_after(1):
            await gateway.left.wait()


@every_proxy
async def test_bodies_up_to_the_gateways_limit_go_through_and_larger_ones_do_not(name: str, tmp_path: Path) -> None:
    limit = 32 * 1024 * 1024
    async with proxied(name, tmp_path) as (gateway, client):
        assert (await client.post("/v1/embeddings", content=b"a" * limit)).status_code == 200
        status: Any = None
        try:
            status = (await client.post("/v1/embeddings", content=b"a" * (limit + 1))).status_code
        except httpx.HTTPError:  # the proxy has answered and closed before all was sent
            status = 413
        assert status in {413, 502}  # Caddy finds out while the body is on its way
        assert max(gateway.bodies) == limit


@every_proxy
async def test_who_asks_and_with_which_token_comes_through(name: str, tmp_path: Path) -> None:
    async with proxied(name, tmp_path) as (gateway, client):
        await client.get("/v1/models", headers={"authorization": "Bearer a", "host": "velesio.example:1"})
    head = gateway.heads[0].lower()
    assert "authorization: bearer a" in head
    assert "host: velesio.example:1" in head
    assert "x-forwarded-for: 127.0.0.1" in head
    assert "x-forwarded-proto: http" in head


@pytest.mark.parametrize("name", ["nginx of a host", "Caddy of a host"])
async def test_a_gateway_that_is_gone_costs_nobody_an_answer(name: str, tmp_path: Path) -> None:
    program, make = PROXIES[name]
    if not has(program):
        pytest.skip(f"{program} is not on this host")
    async with upstream() as (gone, first), upstream() as (here, second):
        command, port = make(tmp_path, first, second)
        async with running(command, tmp_path, port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for _ in range(20):
                assert (await client.get("/v1/models")).status_code == 200
        assert gone.heads
        assert here.heads


@pytest.mark.parametrize("path", [NGINX_OF_COMPOSE, NGINX_OF_HOSTS], ids=["Compose", "a host"])
def test_no_nginx_holds_anything_back(path: Path) -> None:
    text = path.read_text()
    for line in ("proxy_buffering off;", "proxy_ignore_client_abort off;", "proxy_http_version 1.1;"):
        assert line in text
