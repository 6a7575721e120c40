"""The image tab in front of a worker that paints as the test says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.gateway import GatewayProcess
from tests.support.paintings import SAMPLERS, Painter, painted, png
from tests.support.scripted_worker import Desk
from tests.support.servers import wait_until
from tests.support.stage import Stage
from velesio_worker.wire.errors import BadJobError


@pytest.fixture
def painter(gateway: Stage) -> Painter:
    painter = Painter(gateway.redis)
    gateway.plays(painter)
    return painter


@pytest.fixture
def images(page: Page, gateway: Stage, painter: Painter) -> Page:
    """The tab, with a prompt in its form."""
    assert painter
    page.goto(f"{gateway.url}/#images")
    page.get_by_label("Prompt", exact=True).fill("A lighthouse")
    return page


def make(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^Make image")).click()


def jobs(gateway: Stage) -> list[dict[str, Any]]:
    """The image jobs that came."""
    return [job for job in gateway.worker.jobs if job["type"] in {"txt2img", "img2img"}]


def opens(page: Page) -> Locator:
    return page.get_by_role("button", name="Open: A lighthouse")


def test_an_image_grows_before_ones_eyes_and_stays_with_what_it_was_made_from(
    images: Page, gateway: Stage, painter: Painter
) -> None:
    make(images)
    expect(images.get_by_role("status")).to_have_text("The image begins")
    painter.go()
    expect(images.get_by_text("Step 1 of 4 · 3 s left")).to_be_visible()
    expect(images.get_by_role("img", name="The image so far")).to_be_visible()
    expect(images.get_by_role("progressbar")).to_have_attribute("value", "0.2")
    painter.go(4)
    expect(images.get_by_role("status")).to_have_text("The image is complete")
    expect(images.get_by_text("512 × 512 · seed 7")).to_be_visible()
    sent = jobs(gateway)[0]["data"]
    assert sent == {
        "prompt": "A lighthouse",
        "width": 512,
        "height": 512,
        "steps": 20,
        "cfg_scale": 7,
        "batch_size": 1,
    }

    opens(images).click()
    dialog = images.get_by_role("dialog", name="Image")
    for text in ("A lighthouse", "Euler a", "sd"):
        expect(dialog.get_by_role("definition").filter(has_text=re.compile(f"^{text}$"))).to_be_visible()
    dialog.get_by_text("What the image engine says").click()
    expect(dialog.get_by_text('"version": "v1.10"')).to_be_visible()
    dialog.get_by_role("button", name="Use this seed").click()
    expect(dialog).to_have_count(0)
    expect(images.get_by_label("Seed", exact=True)).to_have_value("7")


def test_everything_of_the_form_goes_into_the_job(images: Page, gateway: Stage, painter: Painter) -> None:
    images.get_by_label("Negative prompt").fill("blurry")
    images.get_by_role("button", name="Portrait").click()
    images.get_by_label("Seed", exact=True).fill("42")
    images.get_by_label("How many").fill("2")
    images.get_by_text("Steps, guidance, sampler").click()
    images.get_by_label("Steps").fill("30")
    images.get_by_label("Guidance").fill("5.5")
    expect(images.get_by_label("Sampler").locator("option")).to_have_text(["Euler a", *SAMPLERS])
    images.get_by_label("Sampler").select_option("DPM++ 2M")
    images.get_by_label("Scheduler").select_option("Karras")
    images.keyboard.press("Control+Enter")
    painter.go(5)
    expect(opens(images)).to_have_count(1)
    assert jobs(gateway)[0]["data"] == {
        "prompt": "A lighthouse",
        "negative_prompt": "blurry",
        "width": 512,
        "height": 768,
        "steps": 30,
        "cfg_scale": 5.5,
        "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
        "seed": 42,
        "batch_size": 2,
    }
    images.reload()
    expect(images.get_by_label("Seed", exact=True)).to_have_value("42")


def test_a_reload_in_the_middle_goes_on_where_it_was(images: Page, painter: Painter) -> None:
    make(images)
    painter.go(2)
    expect(images.get_by_text("Step 2 of 4")).to_be_visible()
    images.reload()
    expect(images.get_by_text("Step 2 of 4")).to_be_visible()
    expect(images.get_by_role("img", name="The image so far")).to_be_visible()
    painter.go(3)
    expect(opens(images)).to_be_visible()
    images.reload()
    expect(images.get_by_text("512 × 512 · seed 7")).to_be_visible()
    assert len(painter.desks) == 1


def test_another_tab_sees_the_same_and_takes_over_when_the_first_is_closed(images: Page, painter: Painter) -> None:
    first = images.context.new_page()
    first.goto(images.url)
    first.get_by_label("Prompt", exact=True).fill("A lighthouse")
    make(first)
    painter.go()
    expect(first.get_by_text("Step 1 of 4")).to_be_visible()
    expect(images.get_by_text("Step 1 of 4")).to_be_visible()
    expect(images.get_by_role("img", name="The image so far")).to_be_visible()
    first.close()
    other = images.context.new_page()
    other.goto(images.url)
    painter.go()
    expect(images.get_by_text("Step 2 of 4")).to_be_visible()
    expect(other.get_by_text("Step 2 of 4")).to_be_visible()
    other.get_by_role("button", name="Stop").wait_for()
    painter.go(3)
    expect(opens(other)).to_be_visible()
    other.get_by_role("button", name="Delete", exact=True).click()
    expect(opens(images)).to_have_count(0)


def test_many_at_a_time_leave_the_page_its_connections(images: Page, gateway: Stage, painter: Painter) -> None:
    other = images.context.new_page()
    other.goto(images.url)
    for number in range(8):
        make(images)
        expect(images.get_by_role("button", name="Stop")).to_have_count(number + 1)
    expect(images.get_by_text("In the making")).to_have_count(6)
    images.get_by_role("button", name="Stop").first.click()
    newest = jobs(gateway)[-1]["id"]
    wait_until(lambda: gateway.redis.exists(f"{{result:{newest}}}:cancel"), "the newest is cancelled")
    painter.go(8 * 5)
    expect(opens(images)).to_have_count(7)
    expect(opens(other)).to_have_count(7)


def test_the_death_of_the_gateway_costs_no_image(
    redis_url: str, gateway: Stage, page: Page, painter: Painter, tmp_path: Path
) -> None:
    with GatewayProcess(tmp_path, redis_url) as mortal:
        page.goto(f"{mortal.url}/#images")
        page.get_by_label("Prompt", exact=True).fill("A lighthouse")
        make(page)
        painter.go(2)
        expect(page.get_by_text("Step 2 of 4")).to_be_visible()
        mortal.end()
        expect(page.get_by_text("Connection lost. The image goes on")).to_be_visible()
        expect(page.get_by_text("The gateway does not answer. Trying again…")).to_be_visible()
        painter.go(3)
        wait_until(lambda: gateway.redis.exists(f"result:{painter.desks[0].id}"), "the image is made")
        mortal.start()
        mortal.wait_for("gateway_ready", 2)
        expect(opens(page)).to_be_visible()
        expect(page.get_by_text("The gateway does not answer.")).to_have_count(0)


def test_a_stop_cancels_the_job(images: Page, gateway: Stage, painter: Painter) -> None:
    async def script(desk: Desk) -> None:
        if desk.type != "txt2img":
            await painter(desk)
            return
        await desk.start()
        await desk.cancelled()
        await desk.end({"images": [], "finish_reason": "cancelled"})

    gateway.plays(script)
    for stop in ("button", "key"):
        make(images)
        expect(images.get_by_role("status")).to_have_text("The image begins")
        if stop == "button":
            images.get_by_role("button", name="Stop").click()
        else:
            images.keyboard.press("Escape")
        expect(images.get_by_role("status")).to_have_text("Stopped")
        images.get_by_role("button", name="Remove this entry").click()
        expect(images.get_by_text("What you make stands here")).to_be_visible()


def test_a_stop_in_line_needs_no_worker(images: Page, gateway: Stage) -> None:
    async def nobody(_: Desk) -> None:
        return

    gateway.plays(nobody)
    other = images.context.new_page()
    other.goto(images.url)
    make(images)
    expect(images.get_by_text("Waiting for a worker")).to_be_visible()
    other.get_by_role("button", name="Stop").click()
    for page in (other, images):
        expect(page.get_by_role("listitem").get_by_text("Stopped", exact=True)).to_be_visible()
    images.reload()
    expect(images.get_by_role("listitem").get_by_text("Stopped", exact=True)).to_be_visible()


def test_an_image_of_a_batch_has_its_own_seed_and_is_deleted_alone(images: Page, gateway: Stage) -> None:
    painter = Painter(gateway.redis, colours=("red", "green", "blue"), warnings=["The size is another one."])
    gateway.plays(painter)
    make(images)
    painter.go(5)
    expect(opens(images)).to_have_count(3)
    expect(images.get_by_text("The size is another one.")).to_be_visible()
    tile = images.get_by_role("listitem").filter(has_text="seed 8")
    tile.get_by_role("button", name="Use this seed").click()
    expect(images.get_by_label("Seed", exact=True)).to_have_value("8")
    tile.get_by_role("button", name="Delete", exact=True).click()
    expect(opens(images)).to_have_count(2)
    images.reload()
    expect(opens(images)).to_have_count(2)
    images.on("dialog", lambda dialog: dialog.accept())
    images.get_by_role("button", name="Delete all").click()
    expect(images.get_by_text("What you make stands here")).to_be_visible()
    images.reload()
    expect(images.get_by_text("What you make stands here")).to_be_visible()


def test_a_download_is_the_image_itself(images: Page, painter: Painter) -> None:
    make(images)
    painter.go(5)
    with images.expect_download() as download:
        images.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "a-lighthouse-7.png"
    assert Path(download.value.path()).read_bytes() == png()


def test_all_images_are_downloaded_one_after_the_other(images: Page, painter: Painter) -> None:
    names: list[str] = []
    images.on("download", lambda download: names.append(download.suggested_filename))
    for number in range(2):
        make(images)
        painter.go(5)
        expect(opens(images)).to_have_count(number + 1)
    with images.expect_event("download", lambda _: len(names) == 2):
        images.get_by_role("button", name="Download all").click()
    assert names == ["a-lighthouse-7.png"] * 2


def test_an_image_begins_with_another_that_was_chosen_pasted_or_made(
    images: Page, gateway: Stage, painter: Painter, tmp_path: Path
) -> None:
    (tmp_path / "start.png").write_bytes(png("orange", (300, 150)))
    images.get_by_label("Start image", exact=True).set_input_files(tmp_path / "start.png")
    expect(images.get_by_role("img", name="The start image")).to_be_visible()
    expect(images.get_by_label("Width")).to_have_value("704")
    expect(images.get_by_label("Height")).to_have_value("384")
    images.get_by_label("Change of the start image").fill("0.4")
    make(images)
    painter.go(5)
    expect(opens(images)).to_be_visible()
    job = jobs(gateway)[0]
    assert (job["type"], job["data"]["denoising_strength"]) == ("img2img", 0.4)
    assert len(job["data"]["init_images"]) == 1

    images.get_by_role("button", name="Remove the start image").click()
    expect(images.get_by_label("Change of the start image")).to_have_count(0)
    images.get_by_role("button", name="Start from this image").click()
    expect(images.get_by_role("img", name="The start image")).to_be_visible()
    images.get_by_role("button", name="Remove the start image").click()
    images.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(40, 40);
          canvas.getContext("2d").fillRect(0, 0, 40, 40);
          const data = new DataTransfer();
          data.items.add(new File([await canvas.convertToBlob()], "pasted.png", {type: "image/png"}));
          document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        }"""
    )
    expect(images.get_by_role("img", name="The start image")).to_be_visible()

    (tmp_path / "none.png").write_bytes(b"no picture")
    images.get_by_label("Start image", exact=True).set_input_files(tmp_path / "none.png")
    expect(images.get_by_text("The browser cannot read this picture.")).to_be_visible()


def test_a_field_that_is_wrong_says_so_and_gets_the_focus(images: Page, gateway: Stage) -> None:
    images.get_by_label("Prompt", exact=True).fill("")
    images.get_by_label("Width").fill("100")
    make(images)
    expect(images.get_by_text("Say what there is to see.")).to_be_visible()
    expect(images.get_by_text("A multiple of 8.")).to_be_visible()
    expect(images.get_by_label("Prompt", exact=True)).to_be_focused()
    images.get_by_label("Prompt", exact=True).fill("((((" * 200)
    images.get_by_label("Width").fill("512")
    make(images)
    expect(images.get_by_label("Prompt", exact=True)).to_have_attribute("aria-invalid", "true")  # the gateway's word
    assert not jobs(gateway)


def test_what_failed_says_why_and_hands_its_settings_back(images: Page, gateway: Stage, painter: Painter) -> None:
    async def script(desk: Desk) -> None:
        if desk.type != "txt2img":
            await painter(desk)
            return
        await desk.start()
        await desk.fail(BadJobError("data.sampler_name: <b>none</b> of that name"))

    gateway.plays(script)
    make(images)
    expect(images.get_by_role("listitem").get_by_text("<b>none</b> of that name")).to_be_visible()
    images.get_by_label("Prompt", exact=True).fill("Another")
    images.get_by_role("button", name="Use its settings").click()
    expect(images.get_by_label("Prompt", exact=True)).to_have_value("A lighthouse")


def test_a_lost_worker_is_a_quiet_note(images: Page, gateway: Stage, painter: Painter) -> None:
    async def script(desk: Desk) -> None:
        if desk.type != "txt2img":
            await painter(desk)
            return
        await desk.start()
        await desk.start("restart")
        await desk.end(painted(desk))

    gateway.plays(script)
    make(images)
    expect(opens(images)).to_be_visible()
    expect(images.get_by_text("Its worker was lost: begun anew.")).to_be_visible()


def test_who_waits_sees_how_long_the_line_is(images: Page, gateway: Stage) -> None:
    async def nothing(_: Desk) -> None:
        return

    gateway.plays(nothing)
    for number in range(3):
        gateway.redis.lpush("{llama_queue}:image", f"job-{number}")
    make(images)
    expect(images.get_by_text("Waiting for a worker: 2 jobs are before it")).to_be_visible()
    gateway.redis.lpop("{llama_queue}:image")
    expect(images.get_by_text("Waiting for a worker: 1 job is before it")).to_be_visible()


def test_without_a_worker_for_images_the_page_says_how_to_get_one(page: Page, gateway: Stage) -> None:
    gateway.lives("text")
    page.goto(f"{gateway.url}/#images")
    expect(page.get_by_text("No worker makes images at the moment.")).to_be_visible()
    expect(page.get_by_role("button", name="Make image")).to_be_disabled()
    assert not jobs(gateway)
