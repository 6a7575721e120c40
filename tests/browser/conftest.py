"""Debian's chromium, pages that fail the test on whatever their console complains of, and what they talk to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, expect

from tests.support.chain import Chain, running_chain
from tests.support.gateway import ALICE, BOB
from tests.support.stage import Stage, scripted_stage

MILLISECONDS: Final = 15_000
"""How long anything may take to be seen; a busy machine is no fault."""

_ANSWERED: Final = "Failed to load resource"
"""What Chromium logs for every answer that is no success; which of those are right is the test's own business."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a browser: all that is here."""
    here = f"{Path(__file__).parent}{os.sep}"
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(autouse=True)
def _patience() -> None:  # pyright: ignore[reportUnusedFunction]
    expect.set_options(timeout=MILLISECONDS)


class Complaints(list[str]):
    """What pages complained of: errors in scripts, breaches of the policy, files that were not there."""

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.append(f"{error.name}: {error.message}\n{error.stack}"))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(_ANSWERED):
            self.append(message.text)

    def _response(self, response: Response) -> None:
        if "/static/" in response.url and not (response.ok or response.status == 304):
            self.append(f"{response.status} {response.url}")


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """Fails the test if any page that it watches complains."""
    found = Complaints()
    yield found
    assert not found, "\n".join(found)


@pytest.fixture
def context_options() -> dict[str, Any]:
    """How the browser is; a test may override it with ``parametrize``."""
    return {"viewport": {"width": 1200, "height": 800}}


@pytest.fixture
def context(browser: Browser, complaints: Complaints, context_options: dict[str, Any]) -> Iterator[BrowserContext]:
    """A browser of somebody who has never been here."""
    context = browser.new_context(**context_options)
    context.set_default_timeout(MILLISECONDS)
    context.on("page", complaints.watch)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A tab of it."""
    return context.new_page()


@pytest.fixture
def gateway(redis_url: str, plain: Any) -> Iterator[Stage]:
    """A gateway without tokens, and a worker that answers as the test says."""
    with scripted_stage(redis_url, plain) as stage:
        yield stage


@pytest.fixture
def guarded(redis_url: str, plain: Any) -> Iterator[Stage]:
    """The same with tokens."""
    with scripted_stage(redis_url, plain, api_tokens=f"alice={ALICE},bob={BOB}") as stage:
        yield stage


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Chain]:
    """The whole chain with the real llama.cpp server, without tokens."""
    folder = tmp_path_factory.mktemp("chain")
    with running_chain(folder, model_path, tokens=False, CONTEXT_SIZE="1024", CACHE_MODE="off") as chain:
        yield chain
