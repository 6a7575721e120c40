"""By keyboard alone, for screen readers, on a phone, in both themes."""

from __future__ import annotations

from typing import Any, Final

import pytest
from axe_playwright_python.sync_playwright import Axe  # pyright: ignore[reportMissingTypeStubs]
from playwright.sync_api import Page, expect

from tests.browser.chatting import Paced, answer, ask, complete, message_field, opened
from tests.support.scripted_worker import ROLE, delta, says
from tests.support.stage import Stage

PHONE: Final[dict[str, Any]] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
WIDE: Final[dict[str, Any]] = {"viewport": {"width": 1200, "height": 800}}
LOOKS: Final = {
    "light": {**WIDE, "color_scheme": "light"},
    "dark": {**WIDE, "color_scheme": "dark"},
    "phone": {**PHONE, "color_scheme": "light"},
    "phone, dark": {**PHONE, "color_scheme": "dark"},
}
RICH: Final = (
    "# Title\n\nText with `code`, [a link](https://example.org) and $x^2$.\n\n"
    "```python\n# why\nx = 'a' + str(1)\n```\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n- item\n"
)

FOCUSED: Final = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"


def findings(page: Page) -> list[str]:
    """What axe finds fault with."""
    axe: Any = Axe()
    found: list[dict[str, Any]] = axe.run(page).response["violations"]
    return [f"{one['id']}: {[node['html'][:160] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize("context_options", LOOKS.values(), ids=LOOKS)
def test_axe_finds_nothing(page: Page, gateway: Stage) -> None:
    opened(page, gateway)
    assert findings(page) == []
    call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": "{}"}}
    rich = [delta({"reasoning_content": "Hm."}), delta({"content": RICH}), delta({"tool_calls": [call]})]
    gateway.plays(says(ROLE, *rich, reason="length"))
    ask(page, "Show all.")
    complete(page)
    expect(answer(page).locator(".katex")).to_have_count(1)
    expect(answer(page).locator(".hljs-comment")).to_have_count(1)
    assert findings(page) == []
    page.get_by_role("button", name="Settings of this chat").click()
    assert findings(page) == []
    page.keyboard.press("Escape")
    gateway.plays(Paced("One").script)
    ask(page, "Once more.")
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    assert findings(page) == []


def test_everything_goes_by_keyboard(page: Page, gateway: Stage) -> None:
    told = Paced("One, ", "two.")
    gateway.plays(told.script)
    opened(page, gateway)
    expect(message_field(page)).to_be_focused()
    page.keyboard.type("First line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    expect(page.locator(".bubble")).to_have_text("First line\nsecond line")
    told.go()
    expect(answer(page)).to_contain_text("One,")
    page.keyboard.press("Escape")
    expect(answer(page)).to_contain_text("Stopped.")
    expect(message_field(page)).to_be_focused()

    def tab_to(name: str, key: str = "Shift+Tab") -> None:
        for _ in range(40):
            page.keyboard.press(key)
            if page.evaluate(FOCUSED) == name:
                return
        pytest.fail(f"{name} is not reached by {key}")

    gateway.plays(says(ROLE, delta({"content": "Otherwise."})))
    tab_to("Another answer")
    page.keyboard.press("Enter")
    expect(complete(page).locator(".text-view")).to_have_text("Otherwise.")
    tab_to("Edit and send again")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.press("Escape")
    tab_to("Settings of this chat")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Settings of this chat")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    tab_to("New chat")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Ask anything")).to_be_visible()
    expect(message_field(page)).to_be_focused()


@pytest.mark.parametrize("context_options", [PHONE], ids=["phone"])
def test_on_a_phone_enter_makes_a_line_and_the_button_sends(page: Page, gateway: Stage) -> None:
    opened(page, gateway)
    message_field(page).click()
    page.keyboard.type("One")
    page.keyboard.press("Enter")
    page.keyboard.type("two")
    expect(message_field(page)).to_have_value("One\ntwo")
    assert gateway.worker.jobs == []
    page.get_by_role("button", name="Send", exact=True).tap()
    complete(page)
    assert gateway.worker.data[0]["messages"][0]["content"] == "One\ntwo"
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("context_options", [PHONE], ids=["phone"])
def test_on_a_phone_the_list_of_chats_slides_in(page: Page, gateway: Stage) -> None:
    opened(page, gateway)
    ask(page, "One?")
    complete(page)
    chats = page.get_by_role("navigation", name="Chats")
    expect(chats).to_be_hidden()
    page.get_by_role("button", name="Chats", exact=True).tap()
    expect(chats).to_be_visible()
    page.get_by_role("button", name="New chat").tap()
    expect(chats).to_be_hidden()
    expect(page.get_by_role("heading", name="Ask anything")).to_be_visible()


def test_what_an_input_method_composes_with_enter_is_not_sent(page: Page, gateway: Stage) -> None:
    opened(page, gateway)
    message_field(page).fill("にほん")
    for composing in ({"isComposing": True}, {"keyCode": 229}):
        page.evaluate(
            """(how) => document.querySelector(".composer textarea").dispatchEvent(
                 new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...how }))""",
            composing,
        )
    expect(message_field(page)).to_have_value("にほん")
    page.keyboard.press("Enter")
    complete(page)
    assert len(gateway.worker.jobs) == 1


def test_screen_readers_hear_of_an_answers_beginning_and_end_and_of_no_token(page: Page, gateway: Stage) -> None:
    told = Paced("One, ", "two.")
    gateway.plays(told.script)
    opened(page, gateway)
    page.evaluate(
        """() => {
          window.heard = [];
          new MutationObserver(() => {
            const { textContent: text } = document.querySelector("[role=status]");
            if (text) window.heard.push(text);
          }).observe(document.querySelector("[role=status]"), { childList: true, characterData: true, subtree: true });
        }"""
    )
    ask(page, "Count.")
    told.go()
    expect(page.get_by_role("status")).to_have_text("Answer begins.")
    told.finish()
    expect(page.get_by_role("status")).to_have_text("Answer complete, 2 words.")
    assert page.evaluate("window.heard") == ["Answer begins.", "Answer complete, 2 words."]
    live = page.locator("[aria-live], [role=status], [role=alert], [role=log]")
    expect(live).to_have_count(1)


def test_who_scrolls_up_stays_there_and_goes_back_by_a_button(page: Page, gateway: Stage) -> None:
    told = Paced(*(f"Line {number}.\n\n" for number in range(80)))
    gateway.plays(told.script)
    opened(page, gateway)
    ask(page, "Many lines.")
    told.go(60)
    expect(answer(page).get_by_text("Line 59.")).to_be_in_viewport()
    page.locator(".scroller").hover()
    page.mouse.wheel(0, -600)
    expect(page.get_by_role("button", name="To the end")).to_be_visible()
    place = page.evaluate("document.querySelector('.scroller').scrollTop")
    told.go(10)
    expect(answer(page)).to_contain_text("Line 69.")
    assert page.evaluate("document.querySelector('.scroller').scrollTop") == place
    page.get_by_role("button", name="To the end").click()
    expect(answer(page).get_by_text("Line 69.")).to_be_in_viewport()
    told.finish()
    expect(answer(page).get_by_text("Line 79.")).to_be_in_viewport()
