"""What both tabs of the page have around them: tabs, theme, keys, the token, and what is said of the gateway."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.chatting import ask, complete, opened
from tests.support.gateway import ALICE
from tests.support.paintings import Painter
from tests.support.stage import Stage

BACKGROUND = "getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(251, 250, 248)", "rgb(20, 21, 23)"


def test_the_page_opens_and_says_who_works(page: Page, gateway: Stage) -> None:
    page.goto(gateway.url)
    expect(page.get_by_role("link", name="Chat", exact=True)).to_have_attribute("aria-current", "page")
    expect(page.get_by_text("1 worker")).to_be_visible()
    page.get_by_role("link", name="Images").click()
    expect(page).to_have_title("Images · Velesio")
    page.go_back()
    expect(page).to_have_title("Chat · Velesio")


def test_that_nobody_works_is_said(page: Page, gateway: Stage) -> None:
    gateway.lives("")
    page.goto(gateway.url)
    expect(page.get_by_text("No worker", exact=True)).to_be_visible()


def test_nothing_comes_from_another_host(page: Page, gateway: Stage) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{gateway.url}/#images")
    expect(page.get_by_text("1 worker")).to_be_visible()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((gateway.url, "data:", "blob:"))] == []


def test_it_works_under_a_path_of_a_proxy(page: Page, gateway: Stage) -> None:
    beside: list[str] = []

    def proxy(route: Route) -> None:
        """Take the path away, as a proxy does; what is asked for beside it reaches nobody."""
        url = route.request.url
        if url.startswith(f"{gateway.url}/llm/"):
            route.continue_(url=url.replace("/llm/", "/", 1))
        else:
            beside.append(url)
            route.abort()

    page.route(f"{gateway.url}/**", proxy)
    opened(page, gateway, "/llm/")
    expect(page.get_by_text("1 worker")).to_be_visible()
    ask(page, "One?")
    expect(complete(page)).to_contain_text("Hi.")
    painter = Painter(gateway.redis)
    gateway.plays(painter)
    page.get_by_role("link", name="Images").click()
    page.get_by_label("Prompt", exact=True).fill("A lighthouse")
    page.get_by_role("button", name="Make image").click()
    painter.go(5)
    expect(page.get_by_role("button", name="Open: A lighthouse")).to_be_visible()
    assert beside == []


def test_neither_a_script_nor_a_style_nor_markup_gets_in_past_the_policy(page: Page, gateway: Stage) -> None:
    page.goto(gateway.url)
    blocked: Any = page.evaluate(
        """() => {
          const found = [];
          document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
          const script = document.createElement("script");
          const refused = [];
          for (const act of [
            () => { script.textContent = "window.ran = true"; },
            () => { document.body.innerHTML = "<b>x</b>"; },
          ]) {
            try { act(); } catch (error) { refused.push(error.name); }
          }
          document.body.append(Object.assign(document.createElement("a"), {id: "styled"}));
          document.getElementById("styled").setAttribute("style", "color: red");
          const image = new Image();
          image.src = "http://127.0.0.1:9/x.png";
          document.body.append(image);
          return new Promise((resolve) => setTimeout(() => resolve({found, refused, ran: window.ran}), 300));
        }"""
    )
    assert blocked["refused"] == ["TypeError", "TypeError"]
    assert {"style-src-attr", "img-src"} <= set(blocked["found"])
    assert blocked["ran"] is None


@pytest.fixture
def complaints(request: pytest.FixtureRequest) -> Any:
    """Breaches of the policy are the point of one test."""
    from tests.browser.conftest import Complaints  # noqa: PLC0415 (the fixture of this name is overridden here)

    found = Complaints()
    yield found
    if "policy" not in request.node.name:
        assert not found, "\n".join(found)


def test_the_theme_is_the_systems_until_one_is_chosen_and_stays(page: Page, gateway: Stage) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(gateway.url)
    assert page.evaluate(BACKGROUND) == DARK
    page.get_by_role("button", name="Theme: as the system").click()
    assert page.evaluate(BACKGROUND) == LIGHT
    page.reload()
    assert page.evaluate(BACKGROUND) == LIGHT
    page.get_by_role("button", name="Theme: light").click()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(BACKGROUND) == DARK
    page.get_by_role("button", name="Theme: dark").click()
    assert page.evaluate(BACKGROUND) == LIGHT


def test_keys_change_tabs_and_list_themselves(page: Page, gateway: Stage) -> None:
    page.goto(gateway.url)
    page.keyboard.press("Alt+2")
    expect(page).to_have_title("Images · Velesio")
    page.get_by_label("Prompt", exact=True).fill("")
    page.get_by_label("Prompt", exact=True).press("?")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("?")
    page.get_by_role("link", name="Images").focus()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("link", name="Images")).to_be_focused()


def test_a_token_is_asked_for_when_one_is_needed_and_kept_for_the_session(
    browser: Browser, page: Page, guarded: Stage
) -> None:
    painter = Painter(guarded.redis)
    guarded.plays(painter)
    page.goto(f"{guarded.url}/#images")
    dialog = page.get_by_role("dialog", name="A token is needed")
    expect(dialog.get_by_label("Token", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Without a token the gateway answers nothing.")).to_be_visible()
    page.get_by_role("button", name="Enter one").click()
    dialog.get_by_label("Token", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_text("is not one of the gateway's")).to_be_visible()
    dialog.get_by_label("Token", exact=True).fill(ALICE)
    dialog.get_by_role("button", name="Use this token").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("1 worker")).to_be_visible()

    page.get_by_label("Prompt", exact=True).fill("A lighthouse")
    page.get_by_role("button", name="Make image").click()
    painter.go(2)
    expect(page.get_by_role("img", name="The image so far")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Step 2 of 4")).to_be_visible()
    expect(dialog).to_have_count(0)
    assert page.evaluate(f"JSON.stringify(localStorage).includes('{ALICE}')") is False
    assert page.context.cookies() == []
    painter.go(3)
    expect(page.get_by_role("button", name="Open: A lighthouse")).to_be_visible()

    with browser.new_context() as stranger:
        other = stranger.new_page()
        other.goto(guarded.url)
        expect(other.get_by_role("dialog", name="A token is needed")).to_be_visible()
