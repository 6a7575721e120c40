"""The page with EventSource: it types while the worker writes, and goes on by itself where it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.examples.conftest import EXAMPLES, ChatWorker, program
from tests.support.gateway import GatewayProcess
from tests.support.servers import RedisServer, free_port
from velesio_worker.wire.errors import OutOfMemoryError

pytestmark = [pytest.mark.browser, pytest.mark.processes]
PATIENCE_MS: Final = 30_000
"""EventSource waits some seconds before it connects again."""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The page, served as its head says."""
    port = free_port()
    with program([sys.executable, "-m", "http.server", str(port), "-b", "127.0.0.1", "-d", EXAMPLES / "browser"]):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisServer, origin: str
) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), shared_redis.url, CORS_ORIGINS=origin) as process:
        yield process


@pytest.fixture
def page(browser: Browser, gateway: GatewayProcess, origin: str, worker: ChatWorker) -> Iterator[Page]:
    assert worker
    expect.set_options(timeout=PATIENCE_MS)
    with browser.new_page() as page:
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if _is_fault(message) else None)
        page.goto(f"{origin}/?{urlencode({'gateway': gateway.url})}")
        yield page
        assert wrong == []


def _is_fault(message: ConsoleMessage) -> bool:
    """Whether the console tells a mistake of the page's; that a gateway was away for a while is none."""
    return message.type == "error" and "net::ERR_" not in message.text


def ask(page: Page, worker: ChatWorker, question: str = "Say hello.") -> str:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask").click()
    job = worker.take()
    assert job["data"]["messages"] == [{"role": "user", "content": question}]
    return job["id"]


def test_an_answer_is_typed_as_it_is_made_and_stays_text(page: Page, worker: ChatWorker) -> None:
    job_id = ask(page, worker)
    worker.start(job_id)
    expect(page.get_by_role("status")).to_have_text("w1 answers…")
    worker.token(job_id, "1-1", "<b>Hel")
    expect(page.get_by_label("Answer")).to_have_text("<b>Hel")
    worker.token(job_id, "1-2", "lo</b>")
    worker.done(job_id, "1-3", "<b>Hello</b>")
    expect(page.get_by_role("status")).to_have_text("Done: 2 tokens.")
    expect(page.get_by_label("Answer")).to_have_text("<b>Hello</b>")


def test_it_goes_on_by_itself_when_the_gateway_was_lost(
    page: Page, worker: ChatWorker, gateway: GatewayProcess
) -> None:
    job_id = ask(page, worker)
    worker.start(job_id)
    worker.token(job_id, "1-1", "One,")
    expect(page.get_by_label("Answer")).to_have_text("One,")
    gateway.end()
    expect(page.get_by_role("status")).to_have_text("The gateway is lost; trying again…")
    worker.token(job_id, "1-2", " two,")
    gateway.start()
    expect(page.get_by_label("Answer")).to_have_text("One, two,")
    worker.token(job_id, "1-3", " three.")
    worker.done(job_id, "1-4", "One, two, three.")
    expect(page.get_by_role("status")).to_have_text("Done: 2 tokens.")
    expect(page.get_by_label("Answer")).to_have_text("One, two, three.")


def test_a_reload_shows_the_answer_again_and_goes_on(page: Page, worker: ChatWorker) -> None:
    job_id = ask(page, worker)
    worker.start(job_id)
    worker.token(job_id, "1-1", "One,")
    expect(page.get_by_label("Answer")).to_have_text("One,")
    page.reload()
    expect(page.get_by_label("Answer")).to_have_text("One,")
    worker.token(job_id, "1-2", " two.")
    worker.done(job_id, "1-3", "One, two.")
    expect(page.get_by_label("Answer")).to_have_text("One, two.")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def test_a_lost_worker_makes_the_answer_begin_anew_or_go_on(page: Page, worker: ChatWorker) -> None:
    job_id = ask(page, worker)
    worker.start(job_id)
    worker.token(job_id, "1-1", "Wrong")
    expect(page.get_by_label("Answer")).to_have_text("Wrong")
    worker.start(job_id, "restart", 2)
    worker.token(job_id, "2-1", "Right")
    expect(page.get_by_label("Answer")).to_have_text("Right")
    worker.start(job_id, "continue", 3)
    expect(page.get_by_role("status")).to_have_text("The worker was lost; w3 goes on…")
    worker.token(job_id, "3-1", " on")
    worker.done(job_id, "3-2", "Right on")
    expect(page.get_by_label("Answer")).to_have_text("Right on")


def test_stop_cancels_the_job_and_an_error_is_told(page: Page, worker: ChatWorker) -> None:
    job_id = ask(page, worker)
    worker.start(job_id)
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        page.get_by_role("button", name="Stop").click()
    assert worker.cancelled(job_id)
    worker.done(job_id, "1-1", "", "cancelled")
    expect(page.get_by_role("status")).to_have_text("Stopped.")

    job_id = ask(page, worker, "And now?")
    error = OutOfMemoryError("There is no room.")
    worker.store(job_id, error.result())
    worker.write(job_id, "1-0", "error", error.entry(partial=False))
    expect(page.get_by_role("status")).to_have_text("There is no room.")
