"""Pictures of the chat page in a real browser, on a gateway whose jobs a scripted worker answers."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.support.gateway import WorkerInRedis
from tests.support.servers import RedisServer
from tests.support.stage import Stage, scripted_stage
from tools.pictures import paintings
from tools.pictures.conversation import ANSWERS, LOST, MODEL, of_two, script

COLOURS: Final = 192
"""A page has few colours: so many are enough, and a third of the bytes."""

_SET: Final = "(field, value) => { field.value = value; field.dispatchEvent(new Event('input', {bubbles: true})); }"
"""Fills a field that is folded away."""

Theme = Literal["light", "dark"]
THEMES: Final[tuple[Theme, Theme]] = ("light", "dark")


def chat(folder: Path) -> None:
    """The chat tab with a finished answer, in both themes."""
    with _stage() as stage, _browser() as browser:
        stage.plays(script)
        for theme in THEMES:
            with _page(browser, stage.url, theme) as page:
                for question in reversed(ANSWERS):
                    _ask(page, question)
                answer = page.get_by_role("article", name="Answer").last
                expect(answer.locator("math, .katex").first).to_be_visible()
                expect(answer.locator("pre [class*=hljs]").first).to_be_visible()
                page.get_by_role("region", name="Messages").hover()
                _save(page, folder / f"chat-{theme}.png")


def resumed(folder: Path) -> None:
    """An answer whose worker was lost in the middle, as it stands there afterwards."""
    with _stage() as stage, _browser() as browser, _page(browser, stage.url, "light", height=520) as page:
        stage.plays(of_two)
        _ask(page, LOST)
        _save(page, folder / "resumed.png")


def images(folder: Path) -> None:
    """The image tab with a few images, and one that is being made."""
    with _stage() as stage, _browser() as browser, _page(browser, f"{stage.url}/#images", "light") as page:
        stage.plays(paintings.script)
        for seed, prompt in enumerate(paintings.PROMPTS, 1):
            page.get_by_label("Prompt", exact=True).fill(prompt)
            page.get_by_label("Seed", exact=True).fill(str(1_234_567 * seed))
            page.get_by_label("Steps", exact=True).evaluate(_SET, str(paintings.STEPS))
            page.get_by_role("button", name="Make image").click()
            done = page.get_by_role("button", name="Use this seed")
            if prompt != paintings.HELD:
                expect(done).to_have_count(seed)
        expect(page.get_by_text(re.compile(rf"\b{paintings.HELD_AT}\b.*\b{paintings.STEPS}\b"))).to_be_visible()
        _save(page, folder / "images.png")


def _ask(page: Page, question: str) -> None:
    """Ask in a conversation of its own, and wait for the end of the answer."""
    page.get_by_role("button", name="New chat").click()
    page.get_by_label("Message", exact=True).fill(question)
    page.get_by_role("button", name="Send", exact=True).click()
    answer = page.get_by_role("article", name="Answer").last
    expect(answer).to_have_attribute("aria-busy", "false", timeout=60_000)


@contextmanager
def _stage() -> Generator[Stage]:
    """A gateway on a Redis of its own, where a worker lives with a model of ours."""
    with (
        tempfile.TemporaryDirectory(prefix="velesio-pictures-") as folder,
        RedisServer(Path(folder)) as server,
        server.plain() as redis,
        scripted_stage(server.url, redis) as stage,
    ):
        WorkerInRedis(redis).live()
        names = {"text_model": MODEL, "text_default": MODEL, "text_models": f'["{MODEL}"]'}
        redis.hset("{llama_queue}:worker:w1", mapping=names)
        yield stage


@contextmanager
def _browser() -> Generator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise RuntimeError("there is no chromium on PATH: Debian's and Ubuntu's package has one")
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
            downloads_path=tempfile.gettempdir(),
        )
        yield browser
        browser.close()


@contextmanager
def _page(browser: Browser, url: str, theme: Theme, height: int = 840) -> Generator[Page]:
    """The page as somebody sees it who comes for the first time, without motion."""
    with browser.new_context(
        viewport={"width": 1100, "height": height},
        device_scale_factor=1.5,
        color_scheme=theme,
        reduced_motion="reduce",
        locale="en-GB",
    ) as context:
        page = context.new_page()
        page.goto(url)
        yield page


def _save(page: Page, path: Path) -> None:
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled", caret="hide"))).convert("RGB")
    picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
