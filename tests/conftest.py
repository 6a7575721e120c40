"""What many tests share: a real Redis of the tests' own, alone, under a Sentinel or as a Cluster; the small model."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, settings

from tests.support.forks import close_fork_server
from tests.support.servers import RedisServer, Topology
from tests.support.topologies import NEVER, ClusterServers, SentinelServers
from velesio_worker.core.logs import ENGINES
from velesio_worker.core.settings import Settings
from velesio_worker.engines.models.wheels import small_model
from velesio_worker.queue.connection import connect

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LONGEST: Final = (
    *("e2e/test_serve.py", "integration/test_top.py", "e2e/test_prompt_cache.py"),
    *("e2e/test_outages.py", "e2e/test_engines.py", "e2e/test_demo.py", "e2e/test_models.py", "e2e/test_images.py"),
    *("e2e/test_life.py", "docker/test_entry.py", "e2e/test_metrics.py", "e2e/test_health.py", "e2e/test_crashes.py"),
    *("e2e/test_openai_routes.py", "e2e/test_text_types.py", "e2e/test_gateway_agents.py", "docs/test_blocks.py"),
    *("e2e/test_doctor.py", "e2e/test_embedding_models.py", "e2e/test_embedded_server.py", "e2e/test_poison.py"),
    *("e2e/test_foreign_exchange.py", "e2e/test_turns.py", "integration/test_foreign_keys.py"),
)
"""The files that take longest, in this order."""

settings.register_profile(
    "patient",  # a machine that is slow, or held up, is no fault
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.register_profile("quick", settings.get_profile("patient"), max_examples=10)
settings.load_profile("patient")

gc.set_threshold(20_000, 20, 50)
"""What was imported and collected stays: looked at less often, and frozen below, it takes less of a processor."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background like that, and the processes under test would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """Once for all: what a test sets itself is put back after it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in Settings.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One redis-server for all tests that do not harm it."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelServers]:
    """The same under a Sentinel."""
    with SentinelServers(tmp_path_factory.mktemp("sentinel"), patience=NEVER) as servers:
        yield servers


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    """The same as a Cluster."""
    with ClusterServers(tmp_path_factory.mktemp("cluster"), patience=NEVER) as servers:
        yield servers


@pytest.fixture
def topology(request: pytest.FixtureRequest) -> Topology:
    """The shared Redis; tests marked ``topologies`` run once on each kind, all others on a single server."""
    return request.getfixturevalue(getattr(request, "param", "shared_redis"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is left for the end, where a core would idle.

    The last are those that need several Redis servers: these take their time even while nobody asks them anything.
    """
    last = {item.path for item in items if item.get_closest_marker("topologies")}

    def rank(item: pytest.Item) -> tuple[int, bool]:
        name = f"{item.path.parent.name}/{item.path.name}"
        if name in LONGEST:
            return LONGEST.index(name), False
        return len(LONGEST) + (item.path in last), item.path.parent.name != "e2e"

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave modules and tests out of every later search for garbage: there are a million of them, and they stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Leave no process behind."""
    close_fork_server()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests marked ``topologies`` on each."""
    if metafunc.definition.get_closest_marker("topologies"):
        metafunc.parametrize(
            "topology",
            [
                pytest.param("shared_redis", id="standalone"),
                pytest.param("shared_sentinel", id="sentinel", marks=pytest.mark.several_redis),
                pytest.param("shared_cluster", id="cluster", marks=pytest.mark.several_redis),
            ],
            indirect=True,
        )


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may kill; not started yet."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.kill()


@pytest.fixture
def redis_url(topology: Topology) -> str:
    """The shared Redis, emptied."""
    topology.flush()
    return topology.url


@pytest.fixture
def plain(topology: Topology, redis_url: str) -> Iterator[Any]:
    """A plain redis-py client, as a producer would use: strings in, strings out."""
    assert redis_url
    with topology.plain() as client:
        yield client


@pytest.fixture
async def commands(redis_url: str) -> AsyncIterator[Any]:
    client = connect(redis_url, name="test")
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def small_model_path() -> Path:
    """The model of the demo: what it writes makes sense, at a pace at which a text can be struck in the middle."""
    path = small_model()
    assert path is not None, "the small model is not installed: `make test` installs it"
    return path


@pytest.fixture(scope="session")
def model_path(small_model_path: Path) -> Path:
    """The same, unless a module asks for a tiny one (``tests.support.tiny``)."""
    return small_model_path


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Debian's chromium is."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium on PATH: Debian's and Ubuntu's package has one")
    return path


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """One for all, since Playwright runs once in a process."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (few tests need it)

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _root_logger_is_put_back() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, ENGINES)]
    handlers, levels = root.handlers, [logger.level for logger in loggers]
    yield
    root.handlers = handlers
    for logger, level in zip(loggers, levels, strict=True):
        if logger.level != level:
            logger.setLevel(level)  # which also has all loggers forget what they know of their levels
