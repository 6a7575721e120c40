"""The shell and the image tab for everybody: by keyboard alone, in dark, on a phone, with a screen reader."""

from __future__ import annotations

from typing import Any, Final

import pytest
from axe_playwright_python.sync_playwright import Axe  # pyright: ignore[reportMissingTypeStubs]
from playwright.sync_api import Page, expect

from tests.support.paintings import Painter
from tests.support.stage import Stage

PHONE: Final = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
LOOKS: Final = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"color_scheme": "light", **PHONE},
    "narrow-dark": {"color_scheme": "dark", **PHONE},
}


@pytest.fixture
def context_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"viewport": {"width": 1200, "height": 800}, **LOOKS[getattr(request, "param", "light")]}


def check(page: Page, where: str) -> None:
    """axe-core finds nothing, and nothing is wider than the screen."""
    axe: Any = Axe()
    results = axe.run(page)
    assert results.violations_count == 0, f"{where}: {results.generate_report()}"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), where


@pytest.mark.parametrize("context_options", LOOKS, indirect=True, ids=LOOKS)
def test_axe_finds_nothing_in_any_state_of_the_image_tab(page: Page, gateway: Stage) -> None:
    painter = Painter(gateway.redis, warnings=["The size is another one."])
    gateway.plays(painter)
    page.goto(f"{gateway.url}/#images")
    expect(page.get_by_text("1 worker")).to_be_visible()
    check(page, "empty")
    page.get_by_role("button", name="Make image").click()
    page.get_by_text("Steps, guidance, sampler").click()
    check(page, "a field is wrong")
    page.get_by_label("Prompt", exact=True).fill("A lighthouse")
    page.get_by_role("button", name="Make image").click()
    painter.go(2)
    expect(page.get_by_text("Step 2 of 4")).to_be_visible()
    check(page, "an image grows")
    painter.go(3)
    page.get_by_role("button", name="Open: A lighthouse").click()
    expect(page.get_by_role("dialog", name="Image")).to_be_visible()
    check(page, "an image is open")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Start from this image").click()
    expect(page.get_by_role("img", name="The start image")).to_be_visible()
    check(page, "a gallery, a start image")
    gateway.lives("")
    page.reload()
    expect(page.get_by_text("No worker makes images")).to_be_visible()
    check(page, "no worker")


@pytest.mark.parametrize("context_options", LOOKS, indirect=True, ids=LOOKS)
def test_axe_finds_nothing_in_the_dialogues_of_the_shell(page: Page, guarded: Stage) -> None:
    page.goto(f"{guarded.url}/#images")
    expect(page.get_by_role("dialog", name="A token is needed")).to_be_visible()
    check(page, "the token")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Without a token")).to_be_visible()
    check(page, "without a token")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    check(page, "the keys")


def focused(page: Page) -> str:
    """What the focus is on, by its role and name."""
    found: str = page.evaluate(
        """() => {
          const element = document.activeElement;
          const label = element.labels?.[0] ?? element.closest("label");
          return `${element.tagName} ${element.getAttribute("aria-label") ?? label?.innerText ?? element.innerText}`;
        }"""
    )
    return found.strip()


def test_an_image_is_made_opened_and_thrown_away_by_keyboard_alone(page: Page, gateway: Stage) -> None:
    painter = Painter(gateway.redis)
    gateway.plays(painter)
    page.goto(f"{gateway.url}/#images")
    expect(page.get_by_text("1 worker")).to_be_visible()

    def tab_to(name: str) -> None:
        seen: list[str] = []
        for _ in range(40):
            page.keyboard.press("Tab")
            seen.append(focused(page))
            if seen[-1].split(" ", 1)[-1] == name:
                outline: str = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline == "solid", f"the focus on {name} is not to be seen"
                return
        pytest.fail(f"{name} is not reached: {seen}")

    tab_to("Prompt")
    page.keyboard.type("A lighthouse")
    tab_to("Portrait")
    page.keyboard.press("Space")
    tab_to("Draw a seed")
    page.keyboard.press("Enter")
    tab_to("How many")
    page.keyboard.press("Control+Enter")
    painter.go(5)
    expect(page.get_by_role("button", name="Open: A lighthouse")).to_be_visible()
    tab_to("Open: A lighthouse")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Image")).to_be_visible()
    tab_to("Use this seed")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Image")).to_have_count(0)
    expect(page.get_by_role("button", name="Open: A lighthouse")).to_be_focused()
    assert len(painter.desks) == 1
    assert painter.desks[0].data["height"] == 768
    tab_to("Delete")
    page.keyboard.press("Enter")
    expect(page.get_by_text("What you make stands here")).to_be_visible()


def test_a_finger_finds_every_target(page: Page, gateway: Stage) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    painter = Painter(gateway.redis)
    gateway.plays(painter)
    page.goto(f"{gateway.url}/#images")
    page.get_by_label("Prompt", exact=True).fill("A lighthouse")
    page.get_by_role("button", name="Make image").click()
    painter.go(5)
    expect(page.get_by_role("button", name="Open: A lighthouse")).to_be_visible()
    small: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input:not(.sr-only), select, textarea, summary")]
          .filter((one) => one.offsetParent)
          .filter((one) => { const box = one.getBoundingClientRect(); return box.width < 24 || box.height < 24; })
          .map((one) => one.outerHTML)"""
    )
    assert small == []
