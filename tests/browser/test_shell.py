from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.support.stage import Stage


def test_the_page_opens_and_says_who_works(page: Page, gateway: Stage) -> None:
    page.goto(gateway.url)
    expect(page.get_by_role("link", name="Chat", exact=True)).to_have_attribute("aria-current", "page")
    expect(page.get_by_text("1 worker")).to_be_visible()
    page.get_by_role("link", name="Images").click()
    expect(page).to_have_title("Images · Velesio")
