"""Several tabs on the same conversations: one leads a run, and another takes over where it is closed."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, Request, Response, expect

from tests.browser.chatting import Paced, answer, ask, asked, complete, opened, paced
from tests.support.gateway import ALICE
from tests.support.stage import Stage

WORDS = [f"w{number} " for number in range(60)]
ALL = "".join(WORDS).strip()


def followers(page: Page) -> list[str]:
    """Streams that a tab asked for from now on."""
    found: list[str] = []

    def note(request: Request) -> None:
        if "/events?" in request.url:
            found.append(request.url)

    page.on("request", note)
    return found


def begun(page: Page, gateway: Stage, question: str = "Many words.", words: int = 10) -> Paced:
    """Open a tab with an answer of which so many words are seen."""
    told = paced(page, gateway, question, *WORDS)
    told.go(words)
    expect(answer(page)).to_contain_text(f"w{words - 1}")
    return told


def test_two_tabs_see_one_answer_grow_over_one_stream(context: BrowserContext, page: Page, gateway: Stage) -> None:
    told = begun(page, gateway)
    other = context.new_page()
    asked = followers(other)
    opened(other, gateway)
    expect(answer(other)).to_contain_text("w9")
    told.go(10)
    expect(answer(other)).to_contain_text("w19")
    expect(answer(page)).to_contain_text("w19")
    told.finish()
    expect(complete(other).locator(".text-view")).to_have_text(ALL)
    expect(complete(page).locator(".text-view")).to_have_text(ALL)
    assert asked == []
    assert len(gateway.worker.jobs) == 1


def test_a_tab_that_is_closed_hands_its_run_to_another(context: BrowserContext, page: Page, gateway: Stage) -> None:
    told = begun(page, gateway)
    other = opened(context.new_page(), gateway)
    expect(answer(other)).to_contain_text("w9")
    page.close()
    told.go(10)
    expect(answer(other)).to_contain_text("w19")
    told.finish()
    expect(complete(other).locator(".text-view")).to_have_text(ALL)
    other.reload()
    expect(complete(other).locator(".text-view")).to_have_text(ALL)


def test_a_stop_in_one_tab_is_seen_in_the_other(context: BrowserContext, page: Page, gateway: Stage) -> None:
    begun(page, gateway, words=3)
    other = opened(context.new_page(), gateway)
    expect(answer(other)).to_contain_text("w2")
    other.get_by_role("button", name="Stop").click()
    expect(answer(page)).to_contain_text("Stopped.")
    expect(answer(other)).to_contain_text("Stopped.")


def test_what_is_asked_or_deleted_in_one_tab_is_so_in_the_other(
    context: BrowserContext, page: Page, gateway: Stage
) -> None:
    asked(page, gateway, "One?")
    complete(page)
    other = opened(context.new_page(), gateway)
    complete(other)
    ask(other, "Two?")
    complete(other)
    expect(page.get_by_role("article", name="You")).to_have_count(2)
    other.get_by_role("button", name="More of One?").click()
    other.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Ask anything")).to_be_visible()


def test_an_answer_goes_on_while_another_conversation_is_looked_at(page: Page, gateway: Stage) -> None:
    told = begun(page, gateway, "First", 3)
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("heading", name="Ask anything")).to_be_visible()
    told.go(20)
    page.get_by_role("button", name="First", exact=True).click()
    expect(answer(page)).to_contain_text("w22")
    told.finish()
    expect(complete(page).locator(".text-view")).to_have_text(ALL)


INSECURE = """
for (const name of ["locks", "clipboard"]) Object.defineProperty(navigator, name, { value: undefined });
crypto.randomUUID = undefined;
"""
"""What browsers leave out where a page comes over plain HTTP from another host."""


def test_without_tls_it_works_as_well(context: BrowserContext, page: Page, gateway: Stage) -> None:
    context.add_init_script(INSECURE)
    told = begun(page, gateway)
    other = opened(context.new_page(), gateway)
    told.go(10)
    expect(answer(other)).to_contain_text("w19")
    page.reload()
    told.finish()
    for tab in (page, other):
        expect(complete(tab).locator(".text-view")).to_have_text(ALL)
    answer(page).get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_role("status")).to_have_text("Copied.")


def test_a_question_that_no_tab_sends_any_more_can_be_asked_again(page: Page, gateway: Stage) -> None:
    opened(page, gateway)
    page.route("**/jobs", lambda _: None)  # the page is closed before this is answered
    ask(page, "One?")
    expect(answer(page)).to_contain_text("Sending")
    page.goto("about:blank")
    page.unroute("**/jobs")
    page.clock.install()
    opened(page, gateway)
    expect(answer(page)).to_contain_text("Sending")
    page.clock.fast_forward(21_000)
    expect(answer(page)).to_contain_text("The question was not sent.")
    answer(page).get_by_role("button", name="Try again").click()
    expect(complete(page)).to_contain_text("Hi.")


def enter(page: Page, token: str) -> None:
    """Give the token that is asked for."""
    dialog = page.get_by_role("dialog", name="A token is needed")
    dialog.get_by_label("Token", exact=True).fill(token)
    dialog.get_by_role("button", name="Use this token").click()


def refused(path: str) -> Callable[[Response], bool]:
    return lambda response: path in response.url and response.status == 401


def locked_out(page: Page, guarded: Stage) -> Paced:
    """Ask, forget the token in mid-answer, and give none."""
    told = Paced(*WORDS)
    guarded.plays(told.script)
    page.goto(guarded.url)
    enter(page, ALICE)
    ask(page, "Many words.")
    told.go(10)
    expect(answer(page)).to_contain_text("w9")
    page.evaluate("sessionStorage.removeItem('velesio.token')")
    with page.expect_response(refused("/events?")), page.expect_response(refused("/queue/status")):
        page.reload()
    expect(page.get_by_role("dialog", name="A token is needed")).to_be_visible()
    page.keyboard.press("Escape")
    expect(answer(page)).to_contain_text("The rest can be read with a token")
    return told


def test_without_a_token_an_answer_goes_on_and_is_read_on_with_one(page: Page, guarded: Stage) -> None:
    told = locked_out(page, guarded)
    told.go(10)
    page.get_by_role("button", name="Enter one").click()
    enter(page, ALICE)
    expect(answer(page)).to_contain_text("w19")
    told.finish()
    expect(complete(page).locator(".text-view")).to_have_text(ALL)
    assert len(guarded.worker.jobs) == 1


def test_a_tab_without_a_token_leaves_the_reading_to_one_that_has_it(
    context: BrowserContext, page: Page, guarded: Stage
) -> None:
    told = locked_out(page, guarded)
    other = context.new_page()
    other.goto(guarded.url)
    enter(other, ALICE)
    told.go(10)
    expect(answer(other)).to_contain_text("w19")
    expect(answer(page)).to_contain_text("w19")
    told.finish()
    for tab in (page, other):
        expect(complete(tab).locator(".text-view")).to_have_text(ALL)
