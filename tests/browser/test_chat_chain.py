"""The chat tab in front of the whole chain, with the real llama.cpp server: what harms it is seen, and mended."""

from __future__ import annotations

import re
import signal
from typing import Final

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chatting import answer, ask, complete, message_field
from tests.support.chain import Chain
from tests.support.streams import Entries

pytestmark = [pytest.mark.engine, pytest.mark.processes]

LEASE_MILLISECONDS: Final = 60_000
"""After so long a worker that was killed has been missed, whatever else this machine does."""


def said(entries: Entries) -> str:
    """The text of a job's stream, since its last beginning that was none to go on from."""
    text = ""
    for _, event, data in entries:
        if event == "start" and data["mode"] != "continue":
            text = ""
        elif event == "token":
            text += data["choices"][0]["delta"].get("content") or ""
    return text


def begun(page: Page, chain: Chain, question: str, tokens: int) -> str:
    """Ask for an answer of so many tokens; returns its job once some of it is seen."""
    page.goto(chain.gateway.url)
    expect(message_field(page)).to_be_visible()
    page.get_by_role("button", name="Settings of this chat").click()
    page.get_by_label("Longest answer").fill(str(tokens))
    page.get_by_label("Temperature").fill("1.5")
    page.get_by_role("button", name="Done").click()
    before = chain.jobs()
    ask(page, question)
    job_id = chain.new_job(before)
    expect(answer(page).locator(".text-view")).not_to_be_empty()
    return job_id


def shown(page: Page) -> str:
    """The answer as the page keeps it: its text, not its markup."""
    return page.evaluate(
        """() => new Promise((resolve) => {
             const opening = indexedDB.open("velesio-chat");
             opening.onsuccess = () => {
               const all = opening.result.transaction("messages").objectStore("messages").getAll();
               all.onsuccess = () => resolve(all.result.filter((one) => one.role === "assistant").at(-1).content);
             };
           })"""
    )


def test_an_answer_types_itself_and_tells_how_fast(page: Page, chain: Chain) -> None:
    chain.texts(1)
    job_id = begun(page, chain, "Tell me a story.", 60)
    complete(page)
    expect(answer(page).locator(".figures")).to_have_text(re.compile(r"\d+ tokens.*\d tokens/s.*first after"))
    assert shown(page) == said(chain.entries(job_id)) == chain.result(job_id)["text"]


def test_a_stop_frees_the_engine(page: Page, chain: Chain) -> None:
    chain.texts(1)
    job_id = begun(page, chain, "Tell me a long story.", 800)
    page.get_by_role("button", name="Stop").click()
    expect(answer(page)).to_contain_text("Stopped.")
    assert chain.result(job_id)["finish_reason"] == "cancelled"
    assert shown(page) == said(chain.entries(job_id))


def test_an_answer_that_was_cut_off_goes_on_in_mid_sentence(page: Page, chain: Chain) -> None:
    chain.texts(1)
    job_id = begun(page, chain, "Tell me a story.", 12)
    expect(complete(page)).to_contain_text("Cut off")
    first = said(chain.entries(job_id))
    before = chain.jobs()
    answer(page).get_by_role("button", name="Continue").click()
    second = chain.new_job(before)
    chain.result(second)
    complete(page)
    assert shown(page) == first + said(chain.entries(second))


def test_a_gateway_that_is_killed_and_started_again_leaves_no_gap(page: Page, chain: Chain) -> None:
    chain.texts(1)
    job_id = begun(page, chain, "Tell me a long story.", 400)
    process = chain.gateway.process
    assert process is not None
    process.kill()
    process.wait(60)
    expect(page.get_by_text("Connection lost, trying again")).to_be_visible()
    chain.gateway.start()
    complete(page)
    assert shown(page) == said(chain.entries(job_id)) == chain.result(job_id)["text"]


def test_a_worker_that_is_killed_is_a_note_and_the_sentence_goes_on(page: Page, chain: Chain) -> None:
    chain.texts(2)
    job_id = begun(page, chain, "Tell me a long story.", 400)
    chain.owner(job_id).signal(signal.SIGKILL)
    note = answer(page).get_by_text("Worker lost, going on where the text ended")
    expect(note).to_be_visible(timeout=LEASE_MILLISECONDS)
    complete(page)
    starts = [data["mode"] for _, event, data in chain.entries(job_id) if event == "start"]
    assert starts == ["fresh", "continue"]
    assert shown(page) == said(chain.entries(job_id)) == chain.result(job_id)["text"]
