"""The image tab in front of real workers: one whose WebUI tells of its progress, and one with the real sd-server."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.sd.conftest import sd_server_command, tiny_sd_model
from tests.support.gateway_thread import gateway_thread
from tests.support.painters import webui
from tests.support.processes import WorkerProcess
from tests.support.servers import free_port

__all__ = ["sd_server_command", "tiny_sd_model"]


@pytest.fixture
def gateway_url(redis_url: str) -> Iterator[str]:
    with gateway_thread(redis_url) as url:
        yield url


def asks(page: Page, prompt: str, **fields: str) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    for name, value in fields.items():
        page.get_by_label(name.capitalize(), exact=True).fill(value)
    page.get_by_role("button", name="Make image").click()


def downloaded(page: Page, seed: str | None = None) -> bytes:
    """What is saved of the newest image, or of the newest one of this seed."""
    tiles = page.get_by_role("listitem").filter(has=page.get_by_role("button", name="Download"))
    tile = tiles.filter(has_text=f"seed {seed}").first if seed else tiles.first
    with page.expect_download() as found:
        tile.get_by_role("button", name="Download").click()
    return Path(found.value.path()).read_bytes()


def test_progress_and_previews_of_a_webui_are_seen_and_a_stop_interrupts_it(
    redis_url: str, gateway_url: str, page: Page, tmp_path: Path
) -> None:
    settings = webui(tmp_path / "journal", step_seconds=0.25)
    worker = WorkerProcess(tmp_path / "worker.log", REDIS_URL=redis_url, RUN_LLM="false", **settings)
    worker.start()
    try:
        worker.wait_for("images_ready")
        page.goto(f"{gateway_url}/#images")
        page.get_by_text("Steps, guidance, sampler").click()
        asks(page, "A lighthouse <lora:none:1>", steps="16", width="64", height="64")
        expect(page.get_by_text("of 16")).to_be_visible()
        expect(page.get_by_role("img", name="The image so far")).to_be_visible()
        expect(page.get_by_role("button", name="Open: A lighthouse")).to_be_visible()
        expect(page.get_by_text("The LoRA 'none' is not known to the WebUI")).to_be_visible()
        asks(page, "A castle", steps="150")
        expect(page.get_by_text("of 150")).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("listitem").get_by_text("Stopped", exact=True)).to_be_visible()
    finally:
        worker.end()


@pytest.mark.sd_server
@pytest.mark.timeout(300)
def test_the_real_server_paints_what_the_page_asks_for(
    redis_url: str,
    gateway_url: str,
    page: Page,
    tmp_path: Path,
    sd_server_command: list[str],
) -> None:
    port = free_port()
    command = shlex.join([*sd_server_command, "--listen-port", str(port)])
    settings = {"RUN_SD": "true", "SD_PORT": str(port), "SD_STARTUP_COMMAND": command}
    worker = WorkerProcess(tmp_path / "worker.log", REDIS_URL=redis_url, RUN_LLM="false", **settings)
    worker.start()
    try:
        worker.wait_for("images_ready")
        page.goto(f"{gateway_url}/#images")
        page.get_by_text("Steps, guidance, sampler").click()
        expect(page.get_by_label("Sampler", exact=True).locator("option", has_text="Euler")).not_to_have_count(0)
        asks(page, "A lighthouse", steps="2", width="64", height="128", seed="7")
        expect(page.get_by_text("64 × 128 · seed 7")).to_be_visible(timeout=120_000)
        first = downloaded(page, "7")
        assert first.startswith(b"\x89PNG")

        page.get_by_label("Seed", exact=True).fill("8")
        page.get_by_role("button", name="Make image").click()
        expect(page.get_by_text("64 × 128 · seed 8")).to_be_visible()
        assert downloaded(page, "8") != first
        page.get_by_role("listitem").filter(has_text="seed 7").get_by_role("button", name="Use this seed").click()
        page.get_by_role("button", name="Make image").click()
        expect(page.get_by_text("64 × 128 · seed 7")).to_have_count(2)
        assert downloaded(page) == first

        page.get_by_role("button", name="Start from this image").first.click()
        page.get_by_role("button", name="Make image").click()
        expect(page.get_by_text("64 × 128 · seed 7")).to_have_count(3)
        assert downloaded(page) != first

        asks(page, "A castle", steps="150", width="256", height="256")
        expect(page.get_by_role("status")).to_have_text("The image begins")
        page.reload()
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("listitem").get_by_text("Stopped", exact=True)).to_be_visible()
    finally:
        worker.end()
