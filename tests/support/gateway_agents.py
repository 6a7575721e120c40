"""The routes of a dialect, without the rest of the gateway: over HTTP, and what they make of a body."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import pytest
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from tests.doubles.fleet import CALLER, JobsDouble
from tests.support.chat_entries import cut_at, entries_of
from tests.support.ports import free_port
from velesio_worker.client import QueueDepths
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import ApiError, invalid
from velesio_worker.gateway.jobs import Fleet, Model
from velesio_worker.wire.events import StreamEvent

FLEET = Fleet((), QueueDepths({}, 0, 0, {}, {}, 0), (Model("tiny", "text", default=True), Model("sd15", "image")))


class Sdk(Protocol):
    """A client that somebody else wrote."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Sdk)


@dataclass(frozen=True)
class Front:
    """What routes need of a gateway: jobs, or a double of them."""

    jobs: Any
    caller: Caller = CALLER

    def caller_of(self, request: Request) -> Caller:
        assert request.url.path
        return self.caller


@contextmanager
def served(routes: Sequence[Route], *used: AbstractAsyncContextManager[Any], limit: float = 30) -> Generator[str]:
    """Serve routes in a thread of their own; yields their address. What they use is ended with them."""

    @asynccontextmanager
    async def alive(_: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for one in used:
                await stack.enter_async_context(one)
            yield

    port = free_port()
    app = Starlette(routes=routes, lifespan=alive)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", loop="asyncio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + limit
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline, "the routes were not served in time"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(limit)


class Place(Generic[C]):
    """The routes, served, the jobs behind them, and a client."""

    def __init__(self, url: str, jobs: JobsDouble, client: C) -> None:
        self.url = url
        self.jobs = jobs
        self.client = client

    def answers(self, *results: dict[str, Any]) -> None:
        """Have the next jobs come to these results, in pieces."""
        for result in results:
            self.jobs.streams.append([entries_of(result, cut_at([1, 3]))])
            self.jobs.results.append(result)

    def says(self, *batches: list[StreamEvent]) -> None:
        """Have the next job's stream be that."""
        self.jobs.streams.append(list(batches))
        self.jobs.results.append({})

    @property
    def last(self) -> dict[str, Any]:
        """The parameters of the last job."""
        return self.jobs.submitted[-1][1]


@contextmanager
def placed(routes: Callable[[Front], Sequence[Route]], client_of: Callable[[str], C]) -> Generator[Place[C]]:
    """Serve the routes of a dialect for the models of ``FLEET``; ``client_of`` makes a client of their address."""
    jobs = JobsDouble(known=FLEET)
    with served(routes(Front(jobs))) as url, closing(client_of(url)) as client:
        yield Place(url, jobs, client)


def refusal(job: Callable[..., object], **body: Any) -> ApiError:
    """Return why no job is made of a body."""
    try:
        job(**body)
    except ApiError as error:
        return error
    except ValidationError as error:
        return invalid(error)
    pytest.fail("it was taken")


def wait_until(condition: Any, what: str, limit: float = 20) -> None:
    """Wait until a condition holds that another thread brings about."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what} took more than {limit} s"
        time.sleep(0.01)
