"""The chat page as it is served: to anybody, from the files that there were at the start, under a strict policy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import unquote

import httpx
import pytest
from starlette.types import Message, Scope

from velesio_worker.gateway.limits import RateLimits
from velesio_worker.gateway.middleware import Guard, Identify, error_body
from velesio_worker.gateway.page.routes import CONTENT_SECURITY_POLICY, assets, routes
from velesio_worker.gateway.routing import Room, Rooms
from velesio_worker.gateway.tokens import Tokens, read_tokens

pytestmark = pytest.mark.anyio


@pytest.fixture
def app() -> Guard:
    """A gateway that has tokens, and admits one request a day."""
    rooms = Rooms([Room(routes(), error_body)])
    app = Identify(rooms, tokens=Tokens(read_tokens("alice=a-long-token")), limits=RateLimits("1/day", 1))
    return Guard(app, own_names_only=False, ending=asyncio.Event())


@pytest.fixture
async def client(app: Guard) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://chat.example.org") as client:
        yield client


async def test_anybody_gets_the_page_and_all_of_its_files_as_often_as_they_like(client: httpx.AsyncClient) -> None:
    headers = {"authorization": "Bearer a-long-token", "accept": "text/html"}
    for path in ("/", *(f"/static/{name}" for name in assets())):
        for _ in range(2):
            response = await client.get(path, headers=headers)
            assert response.status_code == 200, path
            assert len(response.content) == int(response.headers["content-length"]) > 0
    assert "text/html" in (await client.get("/")).headers["content-type"]


async def test_every_answer_has_the_policy(client: httpx.AsyncClient) -> None:
    for path in ("/", "/static/app.css", "/static/js/main.js"):
        headers = (await client.get(path)).headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        tag = headers["etag"]
        again = await client.get(path, headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in CONTENT_SECURITY_POLICY


@pytest.mark.parametrize(
    ("sent", "status"), [('"x", W/{}', 304), ("*", 304), ('"x"', 200), ("", 200), ("{}x", 200)], ids=range(5)
)
async def test_what_a_client_has_is_not_sent_again(client: httpx.AsyncClient, sent: str, status: int) -> None:
    tag = (await client.get("/static/app.css")).headers["etag"]
    response = await client.get("/static/app.css", headers={"if-none-match": sent.format(tag)})
    assert response.status_code == status
    assert response.headers["etag"] == tag


async def test_libraries_are_kept_and_the_page_is_asked_for_anew(client: httpx.AsyncClient) -> None:
    library = next(name for name in assets() if name.startswith("vendor/"))
    assert "immutable" in (await client.get(f"/static/{library}")).headers["cache-control"]
    for path in ("/", "/static/app.css"):
        assert (await client.get(path)).headers["cache-control"] == "no-cache"


async def test_head_tells_the_size_and_sends_nothing(client: httpx.AsyncClient) -> None:
    for path in ("/", "/static/app.css"):
        size = len((await client.get(path)).content)
        response = await client.head(path)
        assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", str(size))
    response = await client.post("/")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static",
        "/static/../routes.py",
        "/static/%2e%2e/routes.py",
        "/static/..%2froutes.py",
        "/static//etc/passwd",
        "/static/%2Fetc%2Fpasswd",
        "/static/js/../app.css",
        "/static/js/./main.js",
        "/static/js\\main.js",
        "/static/app.css%00",
        "/static/app.css/",
        "/static/APP.CSS",
        "/static/index.html/..",
        "/static/vendor/vendor.lock",
        "/index.html",
    ],
)
async def test_no_trick_reaches_another_file(app: Guard, path: str) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    # Not through a client: that would clean the path up before it is sent.
    raw = path.encode()
    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(path),
        "raw_path": raw,
        "query_string": b"",
        "headers": [],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 404
    assert json.loads(sent[1]["body"])["error"]["code"] == "not_found"
