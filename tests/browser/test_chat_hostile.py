"""Whatever stands in a question or an answer stays text, and half-written Markdown is shown as it is meant."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.chatting import Paced, answer, ask, complete, opened
from tests.support.scripted_worker import ROLE, delta, says
from tests.support.stage import Stage

HOSTILE = (
    "<script>window.caught = 1</script>",
    "<img src=x onerror='window.caught = 2'>",
    "<svg/onload=window.caught=3>",
    '<a href="javascript:window.caught=4">here</a>',
    "<iframe srcdoc='<script>parent.caught = 5</script>'></iframe>",
    "<style>* { display: none }</style>",
    "<form action='https://evil.example'><button>Send</button></form>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.caught=6></style></mglyph></table></mtext></math>",
)


MORE = ("thon\nx = ", "1\n```\n")


@pytest.fixture
def strangers(page: Page) -> list[str]:
    """Hosts beside the gateway's that the page wanted something of."""
    found: list[str] = []

    def note(request: Request) -> None:
        if not re.match(r"(?:http://127\.0\.0\.1:|blob:|data:|about:)", request.url):
            found.append(request.url)

    page.on("request", note)
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_html_in_questions_and_answers_stays_text(page: Page, gateway: Stage, strangers: list[str], text: str) -> None:
    gateway.plays(says(ROLE, delta({"content": f"Before {text} behind"}), delta({"content": f"\n\n{text}\n"})))
    opened(page, gateway)
    ask(page, text)
    expect(page.locator(".bubble")).to_have_text(text)
    expect(complete(page).locator(".text-view p").first).to_have_text(f"Before {text} behind")
    expect(answer(page).locator("script, img, iframe, style, form, svg:not(.icon), math")).to_have_count(0)
    page.reload()
    expect(complete(page).locator(".text-view p").first).to_have_text(f"Before {text} behind")
    assert page.evaluate("window.caught") is None
    assert strangers == []


def test_markdown_that_would_lead_elsewhere_leads_nowhere(page: Page, gateway: Stage, strangers: list[str]) -> None:
    text = (
        "[a](javascript:window.caught=1) [b](data:text/html,x) [c](vbscript:x) [d](//evil.example) [e](/jobs)\n\n"
        "![pixel](https://evil.example/pixel.png) ![local](/static/icon.svg) ![inline](data:image/png;base64,AAAA)\n\n"
        '[good](https://example.org/a?b=1&c=2 "A title") <https://example.net> mail@example.org\n\n'
        "[x](https://a.example/\"onmouseover=window.caught=2) [y](<https://b.example/' x>)\n\n"
        "``` <b onclick=window.caught=3>\ncode\n```\n\n$\\href{javascript:window.caught=4}{x}$ and $$\\url{x}$$\n"
    )
    gateway.plays(says(ROLE, delta({"content": text})))
    opened(page, gateway)
    ask(page, "Links?")
    complete(page)
    links = answer(page).locator(".text-view a")
    told = links.evaluate_all("all => all.map((one) => [one.textContent, one.href, one.rel, one.target])")
    assert {(rel, target) for _, _, rel, target in told} == {("noopener noreferrer", "_blank")}
    assert [(name, href) for name, href, _, _ in told][:4] == [
        ("pixel", "https://evil.example/pixel.png"),
        ("good", "https://example.org/a?b=1&c=2"),
        ("https://example.net", "https://example.net/"),
        ("mail@example.org", "mailto:mail@example.org"),
    ]
    assert all(href.startswith(("https://", "mailto:")) for _, href, _, _ in told)
    for element in answer(page).locator(".text-view *").element_handles():
        names = element.evaluate("one => one.getAttributeNames()")
        assert not [name for name in names if name.startswith("on")], names
    assert page.evaluate("window.caught") is None
    assert strangers == []


def test_tools_errors_reasoning_and_titles_are_text_as_well(page: Page, gateway: Stage) -> None:
    text = "<img src=x onerror='window.caught = 1'>"
    call = {"index": 0, "id": "c", "function": {"name": text, "arguments": text}}
    gateway.plays(says(ROLE, delta({"reasoning_content": text}), delta({"tool_calls": [call]}), warnings=[text]))
    opened(page, gateway)
    ask(page, text)
    complete(page).locator("summary").click()
    expect(answer(page).locator(".reasoning .text-view")).to_have_text(text)
    expect(answer(page).locator(".tool-name")).to_have_text(text)
    expect(answer(page).locator(".note-warning")).to_have_text(text)
    expect(page.get_by_role("navigation", name="Chats")).to_contain_text(text)
    expect(page.get_by_role("article").locator("img")).to_have_count(0)
    assert page.evaluate("window.caught") is None


def test_markdown_is_shown_as_it_is_meant_while_it_is_half_written(page: Page, gateway: Stage) -> None:
    told = Paced("Some **bo", "ld** text, `co", "de` and [a li", "nk](https://example.org).\n\n```py", *MORE)
    gateway.plays(told.script)
    opened(page, gateway)
    ask(page, "Write.")
    view = answer(page).locator(".text-view")
    told.go()
    expect(view.locator("strong")).to_have_text("bo")
    told.go()
    expect(view.locator("strong")).to_have_text("bold")
    expect(view.locator("p > code")).to_have_text("co")
    told.go()
    expect(view).to_contain_text("a li")
    expect(view.locator("a")).to_have_count(0)
    told.go()
    expect(view.locator("a")).to_have_attribute("href", "https://example.org")
    told.go()
    expect(view.locator("pre")).to_contain_text("x =")
    expect(view.locator(".code-head span")).to_have_text("python")
    told.finish()
    expect(complete(page).locator("pre .hljs-number")).to_have_text("1")
    expect(view.locator("p")).to_have_text("Some bold text, code and a link.")


def test_an_answer_that_grows_looks_at_its_end_as_if_it_had_come_at_once(page: Page, gateway: Stage) -> None:
    text = (
        "# Title\n\nA paragraph\nin two lines.\n\n1. one \n2. two\n   - under \n\n     deep\n3. three\n\n"
        "| a | b |\n|:--|--:|\n| 1 | $x^2$ |\n\n> quoted\n> lines\n\n```js\nconst a = `x`;\n```\n\n---\n\n"
        "- [x] done\n- [ ] open\n\n$$\n\\frac{1}{2}\n$$\n\nIt costs $5 and not $6. \\(y\\)\n\nThe end"
    )
    told = Paced(*re.findall(r".{1,3}", text, re.DOTALL))
    gateway.plays(told.script)
    opened(page, gateway)
    ask(page, "Grow.")
    for _ in range(0, len(text), 30):  # with paints between
        told.go(10)
        page.evaluate("() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 10)))")
    told.finish()
    view = complete(page).locator(".text-view")
    expect(view.locator(".katex")).to_have_count(3)
    expect(view.locator(".hljs-keyword")).to_have_text("const")
    grown = view.inner_html()
    page.reload()
    view = complete(page).locator(".text-view")
    expect(view.locator(".katex")).to_have_count(3)
    expect(view.locator(".hljs-keyword")).to_have_text("const")
    assert view.inner_html() == grown
    assert view.locator("ol > li").count() == 3
    assert "It costs $5 and not $6." in view.inner_text()


PIECES = [
    "# Title\n",
    "text\nmore text",
    "\n\n",
    "- item \n- other\n",
    "  - deep\n\n    still\n",
    "1. one\n2. two",
    "```js\nlet a;\n\n```\n",
    "~~~\n```\n~~~\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "> quote\nlazy\n",
    "$$\nx^2\n$$\n",
    "$a$ \\(b\\) \\[c\\]",
    "<div>\n<b>bold</b>\n</div>\n",
    "***\n",
    "Setext\n===\n",
    "    indented\n",
    "**open `code",
    "\r\n",
    "[l](https://a.example) ![i](https://b.example)",
    "\t- tab\n",
    "é😀",
]
"""What texts are made of, at random, whose pieces may be cut anywhere."""

GROW = """
async ({ pieces, rounds }) => {
  const { TextView } = await import("/static/js/chat/view.js");
  let seed = 7;
  const draw = (below) => (seed = (seed * 48271) % 2147483647) % below;
  const frame = () => new Promise(requestAnimationFrame);
  const shown = async (steps, text) => {
    const root = document.createElement("div");
    const grown = new TextView(root, () => {});
    for (const at of steps) grown.show(text.slice(0, at), { live: true });
    grown.show(text, { live: false });
    await frame(); // which has time of its own for what there was none left
    await frame();
    return root.innerHTML;
  };
  const wrong = [];
  for (let round = 0; round < rounds; round += 1) {
    const text = Array.from({ length: 1 + draw(9) }, () => pieces[draw(pieces.length)]).join("");
    const steps = Array.from({ length: draw(12) }, () => draw(text.length)).sort((a, b) => a - b);
    const [grown, whole] = [await shown(steps, text), await shown([], text)];
    if (grown !== whole) wrong.push({ text, steps, grown, whole });
  }
  return wrong.slice(0, 3);
}
"""


def test_however_a_text_comes_in_pieces_it_is_shown_alike_at_its_end(page: Page, gateway: Stage) -> None:
    gateway.plays(says(ROLE, delta({"content": "```js\nlet a;\n```\n$x$ $\\wrong{$"})))
    opened(page, gateway)
    ask(page, "Have both libraries there.")
    complete(page)
    expect(answer(page).locator(".katex")).to_have_count(1)
    expect(answer(page).locator(".hljs-keyword")).to_have_count(1)
    assert page.evaluate(GROW, {"pieces": PIECES, "rounds": 150}) == []
