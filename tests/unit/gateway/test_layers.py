"""What every request goes through, without a server: routes of several dialects, and what nobody foresaw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.limits import RateLimits
from velesio_worker.gateway.live import dialect
from velesio_worker.gateway.middleware import Bodies, Guard, Identify, error_body
from velesio_worker.gateway.routing import Room, Rooms
from velesio_worker.gateway.tokens import Tokens

pytestmark = pytest.mark.anyio


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def fail(_: Request) -> Response:
    raise ZeroDivisionError("a secret of the inside")


async def fail_late(_: Request) -> Response:
    class Late(Response):
        async def __call__(self, *_: Any) -> None:
            raise ZeroDivisionError("a secret of the inside")

    return Late()


async def stream(_: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b": ping\n"
        yield b"data: 1\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream")


def other_body(error: ApiError) -> dict[str, Any]:
    return {"type": "error", "message": error.message}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    other = [Route("/v1/echo", echo, methods=["POST"]), Route("/v1/fail", fail, methods=["GET"])]
    own = [
        Route("/echo", echo, methods=["POST"]),
        Route("/late", fail_late, methods=["GET"]),
        Route("/stream", stream, methods=["GET"]),
    ]
    rooms = [Room(dialect(other, other_body), other_body, "/v1/"), Room(dialect(own, error_body), error_body)]
    app = Identify(Rooms(rooms), tokens=Tokens(()), limits=RateLimits(None, None))
    guarded = Guard(Bodies(app, most=10, seconds=5), own_names_only=True, ending=asyncio.Event())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://localhost") as client:
        yield client


async def test_each_dialect_tells_in_its_form_of_what_it_has_not(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/nope")).json()["type"] == "error"
    assert (await client.get("/nope")).json()["error"]["code"] == "not_found"
    response = await client.get("/v1/echo")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["type"] == "error"
    response = await client.post("/v1/echo", content=b"x" * 11)
    assert (response.status_code, response.json()["type"]) == (413, "error")
    assert (await client.post("/echo", content=b"x" * 10)).content == b"x" * 10


@pytest.mark.parametrize(("path", "told"), [("/v1/fail", "message"), ("/late", "error")])
async def test_what_nobody_foresaw_is_told_without_what_it_was(client: httpx.AsyncClient, path: str, told: str) -> None:
    response = await client.get(path)
    assert response.status_code == 500
    assert told in response.json()
    assert "secret" not in response.text


async def test_a_live_answer_passes_as_it_is(client: httpx.AsyncClient) -> None:
    response = await client.get("/stream")
    assert response.content == b": ping\ndata: 1\n\n"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_name_that_is_not_the_hosts_own_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.post("/echo", headers={"host": "evil.example"})).status_code == 421
