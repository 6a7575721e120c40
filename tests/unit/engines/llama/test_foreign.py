"""A server that somebody else runs is asked what it is: little while it stays the same, and in full once it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.doubles.engine import LOADING, PROPS, EngineDouble, document, healthy
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import properties_in
from velesio_worker.engines.llama.foreign import ForeignServer, weights_of

pytestmark = pytest.mark.anyio

MODELS = {"data": [{"id": "tiny", "meta": {"n_params": 7, "size": 9}}]}


def marked(process: str, **props: Any) -> dict[str, Any]:
    return PROPS | {"media_marker": f"<__media_{process}__>"} | props


class Watched:
    """A server that was looked at once, and what it is asked from then on."""

    def __init__(self, double: EngineDouble, http: EngineHTTP) -> None:
        self.double = double
        self.http = http
        self.file: str | None = None
        double.answers |= healthy()
        self.is_now(marked("one"))

    def is_now(self, props: dict[str, Any], models: Any = MODELS, status: int = 200) -> None:
        self.double.answers["/props"] = [document(props, status)]
        self.double.answers["/v1/models"] = [document(models)]

    async def begin(self) -> ForeignServer:
        """Return the server as it is when it becomes ready."""
        answer = self.double.answers["/props"][0].document
        assert answer is not None
        status, props = await self.http.get("/props", timeout=5)
        seen = properties_in(status, props)
        assert seen is not None
        server = ForeignServer(self.http, seen, await weights_of(self.http, seen, self.content_of), self.content_of)
        self.double.requests.clear()
        return server

    def content_of(self, _: Path) -> str | None:
        return self.file

    def asked(self) -> list[str]:
        """What it was asked since this was last asked."""
        paths = [request.path for request in self.double.requests]
        self.double.requests.clear()
        return paths


@pytest.fixture
def watched(double: EngineDouble, http: EngineHTTP) -> Watched:
    return Watched(double, http)


async def test_one_that_runs_on_is_asked_once(watched: Watched) -> None:
    server = await watched.begin()
    assert await server.look(0) == ""
    assert watched.asked() == ["/props"]
    assert await server.look(60) == ""
    assert watched.asked() == [], "it has just said so"


async def test_those_who_want_to_know_at_the_same_time_ask_together(watched: Watched) -> None:
    server = await watched.begin()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(server.look, 0.0)
    assert 1 <= len(watched.asked()) <= 2


async def test_one_that_was_only_started_again_is_the_same(watched: Watched) -> None:
    server = await watched.begin()
    identity = server.identity
    watched.is_now(marked("two"))
    assert await server.look(0) == ""
    assert watched.asked() == ["/props", "/v1/models"]
    assert await server.look(0) == ""
    assert watched.asked() == ["/props"], "this run of it is known by now"
    assert (await watched.begin()).identity == identity


@pytest.mark.parametrize(
    "other",
    [
        {"model_path": "/models/other.gguf"},
        {"model_path": "/elsewhere/tiny.Q4_1.gguf"},
        {"total_slots": 1},
        {"default_generation_settings": {"n_ctx": 1024, "params": {}}},
        {"default_generation_settings": {"n_ctx": 2048, "params": {"temperature": 0.1}}},
        {"chat_template": "{{ messages }}"},
    ],
    ids=["name", "folder", "slots", "context", "defaults", "template"],
)
@pytest.mark.parametrize("process", ["one", "two"])
async def test_another_one_is_told_from_it(watched: Watched, other: dict[str, Any], process: str) -> None:
    server = await watched.begin()
    watched.is_now(marked(process, **other))
    found = await server.look(0)
    assert found is not None
    assert found.startswith("was exchanged: it is ")
    assert (await watched.begin()).identity != server.identity


async def test_another_model_under_the_same_name_is_told_by_its_sizes(watched: Watched) -> None:
    server = await watched.begin()
    watched.is_now(marked("two"), {"data": [{"id": "tiny", "meta": {"n_params": 7, "size": 10}}]})
    assert await server.look(0)
    assert (await watched.begin()).identity != server.identity


async def test_another_model_under_the_same_name_is_told_by_its_file_where_that_is_here(watched: Watched) -> None:
    watched.file = "one"
    server = await watched.begin()
    watched.file = "other"
    assert await server.look(0) == "", "the server that runs has the file as it was"
    watched.is_now(marked("two"))
    assert await server.look(0)
    assert (await watched.begin()).identity != server.identity


async def test_a_build_that_draws_no_marker_is_asked_for_its_model_each_time(watched: Watched) -> None:
    watched.is_now(PROPS)
    server = await watched.begin()
    assert await server.look(0) == ""
    assert watched.asked() == ["/props", "/v1/models"]
    watched.is_now(PROPS, {"data": [{"id": "tiny", "meta": {"n_params": 8, "size": 9}}]})
    assert await server.look(0)


async def test_one_that_loads_does_not_say_and_is_gone(watched: Watched) -> None:
    server = await watched.begin()
    watched.is_now(LOADING, status=503)
    assert await server.look(0) is None
    with anyio.fail_after(10):
        assert await server.gone() == "loads its model again"


async def test_what_is_no_llama_server_any_more_is_gone(watched: Watched) -> None:
    server = await watched.begin()
    watched.is_now({"hello": "world"})
    assert await server.look(0) is None
    with anyio.fail_after(10):
        assert await server.gone() == "does not answer any more"


async def test_one_that_cannot_be_reached_does_not_say() -> None:
    double = EngineDouble()
    async with EngineHTTP("http://127.0.0.1:9") as nowhere:
        watched = Watched(double, nowhere)
        async with double.serving(), EngineHTTP(double.url) as http:
            watched.http = http
            known = (await watched.begin()).properties
        assert await ForeignServer(nowhere, known, "", watched.content_of).look(0) is None
