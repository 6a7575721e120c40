"""What tests of the chat tab share: how it is asked, and answers that wait for the test's word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import anyio
from playwright.sync_api import Locator, Page, expect

from tests.support.scripted_worker import ROLE, USAGE, Desk, Script, delta
from tests.support.stage import Stage
from velesio_worker.wire.transcript import Transcript

ANOTHER: Final = "Another answer"
"""The button that is there once an answer is complete."""


def opened(page: Page, gateway: Stage, path: str = "") -> Page:
    """Open the page; returns it once it can be written in."""
    page.goto(f"{gateway.url}{path}")
    expect(message_field(page)).to_be_visible()
    return page


def message_field(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def ask(page: Page, text: str) -> None:
    """Write a question and send it by the button."""
    message_field(page).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def asked(page: Page, gateway: Stage, question: str, script: Script | None = None) -> None:
    """Open the page and ask a worker that answers by a script; without one as it did before, at first with "Hi."."""
    if script is not None:
        gateway.plays(script)
    opened(page, gateway)
    ask(page, question)


def answer(page: Page) -> Locator:
    """The last answer."""
    return page.get_by_role("article", name="Answer").last


def complete(page: Page) -> Locator:
    """Wait until the last answer is complete; returns it."""
    found = answer(page)
    expect(found.get_by_role("button", name=ANOTHER)).to_be_visible()
    return found


class Paced:
    """A script of an answer that goes on at the test's word: its pieces come one by one, and its end when it is told.

    Args:
        pieces: what is said; a dict is a delta, a str its content.
    """

    def __init__(self, *pieces: str | dict[str, Any]) -> None:
        self._pieces: Sequence[str | dict[str, Any]] = pieces
        self._allowed = 0
        self.said = 0

    def go(self, count: int = 1) -> None:
        """Allow so many more pieces."""
        self._allowed += count

    def finish(self) -> None:
        """Allow all that is left, and the end."""
        self._allowed = len(self._pieces) + 1

    @property
    def script(self) -> Script:
        return self._play

    async def _play(self, desk: Desk) -> None:
        transcript = Transcript()
        await desk.start()
        await desk.write("token", {"choices": [ROLE]})
        async with anyio.create_task_group() as tasks:

            async def stop() -> None:
                await desk.cancelled()
                await desk.end(transcript.result("cancelled", None, None, chat=True))
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop)
            for number, piece in enumerate(self._pieces):
                while self._allowed <= number:
                    await anyio.sleep(0.005)
                choice = delta({"content": piece} if isinstance(piece, str) else piece)
                transcript.add(choice)
                await desk.write("token", {"choices": [choice]})
                self.said = number + 1
            while self._allowed <= len(self._pieces):
                await anyio.sleep(0.005)
            await desk.end(transcript.result("stop", USAGE, None, chat=True))
            tasks.cancel_scope.cancel()


def paced(page: Page, gateway: Stage, question: str, *pieces: str | dict[str, Any]) -> Paced:
    """Open the page and ask what is answered at the test's word."""
    told = Paced(*pieces)
    asked(page, gateway, question, told.script)
    return told
