"""The chat tab: asking, reading along, and what can be done with an answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.chatting import answer, ask, asked, complete, message_field, opened, paced
from tests.support.scripted_worker import ROLE, Desk, delta, fails, says
from tests.support.servers import wait_until
from tests.support.stage import Stage
from velesio_worker.wire.errors import OutOfMemoryError


def test_an_answer_is_seen_while_it_is_written_and_its_figures_afterwards(page: Page, gateway: Stage) -> None:
    told = paced(page, gateway, "Tell me a story.", "Once ", "upon ", "a time.")
    expect(page.get_by_text("Tell me a story.").first).to_be_visible()
    told.go()
    expect(answer(page)).to_contain_text("Once")
    expect(answer(page)).not_to_contain_text("upon")
    told.go()
    expect(answer(page)).to_contain_text("Once upon")
    told.finish()
    expect(complete(page)).to_contain_text("Once upon a time.")
    expect(answer(page).locator(".figures")).to_have_text(re.compile(r"tiny.*2 tokens.*first after"))
    expect(page.get_by_role("status")).to_have_text("Answer complete, 4 words.")
    [job] = gateway.worker.jobs
    assert job["type"] == "chat_completion"
    assert job["data"] == {
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "stream": True,
        "defaults": "engine",
    }
    assert len(job["session"]) == 32


def test_what_was_said_before_goes_with_the_next_question_of_the_same_session(page: Page, gateway: Stage) -> None:
    asked(page, gateway, "One?")
    complete(page)
    ask(page, "Two?")
    wait_until(lambda: len(gateway.worker.jobs) == 2, "the second question has come")
    first, second = gateway.worker.jobs
    assert first["session"] == second["session"]
    assert [one["content"] for one in second["data"]["messages"]] == ["One?", "Hi.", "Two?"]


def test_a_stop_cancels_the_job_and_what_is_there_stays(page: Page, gateway: Stage) -> None:
    told = paced(page, gateway, "Count.", "One, ", "two, ", "three.")
    told.go()
    expect(answer(page)).to_contain_text("One,")
    page.get_by_role("button", name="Stop").click()
    expect(answer(page)).to_contain_text("Stopped.")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    assert gateway.redis.exists(f"{{result:{gateway.worker.jobs[0]['id']}}}:cancel")
    assert told.said == 1


def test_escape_stops_too(page: Page, gateway: Stage) -> None:
    told = paced(page, gateway, "Count.", "One, ", "two.")
    told.go()
    expect(answer(page)).to_contain_text("One,")
    page.keyboard.press("Escape")
    expect(answer(page)).to_contain_text("Stopped.")


def test_a_stop_in_line_needs_no_worker(page: Page, gateway: Stage) -> None:
    async def nobody(_: Desk) -> None:
        return

    asked(page, gateway, "Anybody?", nobody)
    expect(answer(page)).to_contain_text("Waiting for a worker")
    page.get_by_role("button", name="Stop").click()
    expect(answer(page)).to_contain_text("Stopped before it began.")


def test_a_reload_in_mid_answer_loses_nothing_and_doubles_nothing(page: Page, gateway: Stage) -> None:
    told = paced(page, gateway, "Many words, please.", *(f"w{number} " for number in range(40)))
    told.go(20)
    expect(answer(page)).to_contain_text("w19")
    page.reload()
    expect(answer(page)).to_contain_text("w19")
    told.go(5)
    expect(answer(page)).to_contain_text("w24")
    page.reload()
    told.finish()
    complete(page)
    expect(answer(page).locator(".text-view")).to_have_text(" ".join(f"w{number}" for number in range(40)))
    assert len(gateway.worker.jobs) == 1


def test_an_answer_that_ended_while_the_page_was_closed_is_there_when_it_is_opened_again(
    page: Page, gateway: Stage
) -> None:
    told = paced(page, gateway, "Count.", "One, ", "two.")
    told.go()
    expect(answer(page)).to_contain_text("One,")
    page.goto("about:blank")
    told.finish()
    wait_until(lambda: gateway.redis.exists(f"result:{gateway.worker.jobs[0]['id']}"), "it has ended")
    opened(page, gateway)
    expect(complete(page)).to_contain_text("One, two.")


def test_of_an_answer_whose_stream_is_gone_the_stored_result_is_shown(page: Page, gateway: Stage) -> None:
    told = paced(page, gateway, "Count.", "One, ", "two.")
    told.go()
    expect(answer(page)).to_contain_text("One,")
    page.goto("about:blank")
    told.finish()
    [job] = gateway.worker.jobs
    wait_until(lambda: gateway.redis.exists(f"result:{job['id']}"), "it has ended")
    assert gateway.redis.delete(f"stream:{job['id']}")
    page.route("**/events?*", lambda route: route.fulfill(status=404, body='{"error": {"code": "job_not_found"}}'))
    opened(page, gateway)
    expect(complete(page)).to_contain_text("One, two.")


def test_a_question_is_edited_and_what_came_after_it_goes(page: Page, gateway: Stage) -> None:
    asked(page, gateway, "One?")
    complete(page)
    ask(page, "Two?")
    complete(page)
    question = page.get_by_role("article", name="You").first
    question.get_by_role("button", name="Edit and send again").click()
    field = question.get_by_label("Your message")
    expect(field).to_be_focused()
    field.fill("Three?")
    question.get_by_role("button", name="Send", exact=True).click()
    complete(page)
    expect(page.get_by_role("article", name="You")).to_have_count(1)
    expect(page.get_by_role("article", name="Answer")).to_have_count(1)
    assert gateway.worker.data[-1]["messages"] == [{"role": "user", "content": "Three?"}]


def test_another_answer_takes_the_place_of_one(page: Page, gateway: Stage) -> None:
    asked(page, gateway, "One?")
    complete(page).get_by_role("button", name="Another answer").click()
    gateway.plays(says(ROLE, delta({"content": "Otherwise."})))
    wait_until(lambda: len(gateway.worker.jobs) == 2, "it was asked again")
    complete(page)
    expect(page.get_by_role("article", name="Answer")).to_have_count(1)
    assert gateway.worker.data[0]["messages"] == gateway.worker.data[1]["messages"]


def test_an_answer_that_was_cut_off_says_so_and_goes_on_where_it_ends(page: Page, gateway: Stage) -> None:
    asked(page, gateway, "Count.", says(ROLE, delta({"content": "One, two,"}), reason="length"))
    expect(complete(page)).to_contain_text("Cut off")
    gateway.plays(says(ROLE, delta({"content": " three."})))
    answer(page).get_by_role("button", name="Continue").click()
    expect(answer(page).locator(".text-view")).to_have_text("One, two, three.")
    expect(complete(page)).not_to_contain_text("Cut off")
    assert gateway.worker.data[-1]["messages"][-1] == {"role": "assistant", "content": "One, two,"}


def test_an_answer_that_goes_on_can_be_stopped_in_line(page: Page, gateway: Stage) -> None:
    async def nobody(_: Desk) -> None:
        return

    asked(page, gateway, "Count.", says(ROLE, delta({"content": "One, two,"}), reason="length"))
    complete(page)
    gateway.plays(nobody)
    answer(page).get_by_role("button", name="Continue").click()
    expect(answer(page)).to_contain_text("Waiting for a worker")
    page.get_by_role("button", name="Stop").click()
    expect(answer(page)).to_contain_text("Stopped.")
    expect(answer(page).locator(".text-view")).to_have_text("One, two,")


def test_what_is_typed_in_the_drawer_at_once_is_kept_whole(page: Page, gateway: Stage) -> None:
    asked(page, gateway, "Hello.")
    complete(page)
    page.get_by_role("button", name="Settings of this chat").click()
    field = page.get_by_role("dialog").get_by_label("System prompt")
    field.press_sequentially("Answer in rhymes, and in no more than two lines.")
    expect(field).to_have_value("Answer in rhymes, and in no more than two lines.")


def test_only_what_was_set_in_the_drawer_is_sent(page: Page, gateway: Stage) -> None:
    opened(page, gateway)
    page.get_by_role("button", name="Settings of this chat").click()
    drawer = page.get_by_role("dialog")
    drawer.get_by_label("System prompt").fill("Be brief.")
    drawer.get_by_label("Temperature").fill("0.2")
    drawer.get_by_label("Longest answer").fill("64")
    drawer.get_by_label("Stop at these texts").fill("END\nSTOP")
    drawer.get_by_label("Thinking").select_option("off")
    drawer.get_by_role("button", name="Done").click()
    page.get_by_label("Model").select_option("small")
    ask(page, "Hello.")
    complete(page)
    assert gateway.worker.data[0] == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}],
        "stream": True,
        "defaults": "engine",
        "temperature": 0.2,
        "max_tokens": 64,
        "stop": ["END", "STOP"],
        "chat_template_kwargs": {"enable_thinking": False},
        "model": "small",
    }
    page.reload()
    page.get_by_role("button", name="Settings of this chat").click()
    expect(page.get_by_role("dialog").get_by_label("Temperature")).to_have_value("0.2")


def test_reasoning_is_folded_away_and_shown_to_whoever_unfolds_it(page: Page, gateway: Stage) -> None:
    told = paced(
        page, gateway, "Think.", {"reasoning_content": "First I "}, {"reasoning_content": "think."}, "Then I say."
    )
    told.go(2)
    summary = answer(page).locator("summary")
    expect(summary).to_have_text("Thinking…")
    expect(answer(page)).not_to_contain_text("First I think.")
    told.finish()
    expect(complete(page)).to_contain_text("Then I say.")
    expect(summary).to_have_text(re.compile(r"Thought for|Reasoning"))
    summary.click()
    expect(answer(page)).to_contain_text("First I think.")


def test_calls_of_tools_are_shown_as_text(page: Page, gateway: Stage) -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"town": '}}
    rest = {"index": 0, "function": {"arguments": '"<b>Oslo</b>"}'}}
    asked(
        page,
        gateway,
        "What is the weather?",
        says(ROLE, delta({"tool_calls": [call]}), delta({"tool_calls": [rest]}), reason="tool_calls"),
    )
    tools = complete(page).get_by_role("list", name="Tool calls")
    expect(tools).to_contain_text("weather")
    expect(tools).to_contain_text('"town": "<b>Oslo</b>"')


def test_a_worker_that_is_lost_is_a_quiet_note(page: Page, gateway: Stage) -> None:
    async def lost(desk: Desk) -> None:
        await desk.start()
        await desk.write("token", {"choices": [delta({"content": "One, "})]})
        await desk.start("continue")
        await desk.write("token", {"choices": [delta({"content": "two."})]})
        await desk.end({"text": "One, two.", "finish_reason": "stop"})

    asked(page, gateway, "Count.", lost)
    expect(complete(page)).to_contain_text("One, two.")
    expect(answer(page)).to_contain_text("Worker lost, going on where the text ended")


def test_an_answer_that_begins_anew_says_so_and_its_old_text_is_gone(page: Page, gateway: Stage) -> None:
    async def lost(desk: Desk) -> None:
        await desk.start()
        await desk.write("token", {"choices": [delta({"content": "One, "})]})
        await desk.start("restart")
        await desk.write("token", {"choices": [delta({"content": "Uno, dos."})]})
        await desk.end({"text": "Uno, dos.", "finish_reason": "stop"})

    asked(page, gateway, "Count.", lost)
    expect(complete(page).locator(".text-view")).to_have_text("Uno, dos.")
    expect(answer(page)).to_contain_text("Worker lost, began anew")


def test_an_error_comes_with_its_remedy_and_a_button_that_tries_again(page: Page, gateway: Stage) -> None:
    asked(page, gateway, "Long.", fails(OutOfMemoryError("It does not fit."), delta({"content": "Half"})))
    expect(answer(page)).to_contain_text("It does not fit.")
    expect(answer(page)).to_contain_text("Try again, with a shorter conversation or a smaller model.")
    gateway.plays(says(ROLE, delta({"content": "Now it does."})))
    answer(page).get_by_role("button", name="Try again").click()
    expect(complete(page).locator(".text-view")).to_have_text("Now it does.")


def test_without_a_worker_one_is_told_what_to_do(page: Page, gateway: Stage) -> None:
    opened(page, gateway)
    gateway.lives("")
    expect(page.get_by_text("No worker", exact=True)).to_be_visible()
    ask(page, "Anybody?")
    expect(answer(page)).to_contain_text("Start a worker, then try again.")
    gateway.lives()
    expect(page.get_by_text("1 worker", exact=True)).to_be_visible()
    answer(page).get_by_role("button", name="Try again").click()
    expect(complete(page)).to_contain_text("Hi.")


def test_progress_is_told_while_the_prompt_is_read_and_the_model_loaded(page: Page, gateway: Stage) -> None:
    async def slow(desk: Desk) -> None:
        await desk.start()
        await desk.write("progress", {"stage": "loading", "processed": 12.0, "total": None, "state": "starting"})
        await desk.write("progress", {"stage": "prompt", "processed": 1024, "total": 4096})

    asked(page, gateway, "Long.", slow)
    expect(answer(page)).to_contain_text("Reading the prompt: 1,024 of 4,096 tokens")
    expect(answer(page).get_by_role("progressbar", name="Prompt read")).to_have_attribute("value", "1024")


def test_the_place_in_the_line_is_told(page: Page, gateway: Stage) -> None:
    async def nobody(_: Desk) -> None:
        return

    gateway.plays(nobody)
    opened(page, gateway)
    gateway.redis.rpush("{llama_queue}:text", *("{}" for _ in range(4)))
    ask(page, "Me, too.")
    expect(answer(page)).to_contain_text("Waiting in line: 3 jobs before this one")
    page.get_by_role("button", name="Stop").click()


def test_conversations_are_kept_found_again_exported_imported_and_deleted(
    page: Page, gateway: Stage, tmp_path: Path
) -> None:
    asked(page, gateway, "First chat")
    complete(page)
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("heading", name="Ask anything")).to_be_visible()
    ask(page, "Second chat")
    complete(page)
    chats = page.get_by_role("navigation", name="Chats")
    chats.get_by_role("button", name="First chat", exact=True).click()
    expect(page.get_by_role("article", name="You")).to_have_text("First chat")

    page.get_by_role("button", name="Export, import, delete").click()
    with page.expect_download() as kept:
        page.get_by_role("button", name="Export", exact=True).click()
    kept.value.save_as(tmp_path / "chats.json")
    exported = json.loads((tmp_path / "chats.json").read_text())
    assert sorted(one["title"] for one in exported["conversations"]) == ["First chat", "Second chat"]
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("button", name="Delete 2 chats for good").click()
    expect(chats).to_contain_text("What you ask is kept here")

    page.get_by_role("button", name="Export, import, delete").click()
    page.get_by_role("dialog").locator("input[type=file]").set_input_files(tmp_path / "chats.json")
    chats.get_by_role("button", name="Second chat", exact=True).click()
    expect(page.get_by_role("article", name="Answer")).to_contain_text("Hi.")
    chats.get_by_role("button", name="More of Second chat").click()
    with page.expect_download() as kept:
        page.get_by_role("dialog").get_by_role("button", name="Markdown").click()
    assert kept.value.suggested_filename == "second-chat.md"
    assert kept.value.path().read_text().startswith("# Second chat\n\n## You\n\nSecond chat\n\n## ")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(chats.get_by_role("button", name="Second chat", exact=True)).to_have_count(0)


def test_a_file_that_is_none_of_ours_is_told_and_changes_nothing(page: Page, gateway: Stage, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"format": "something else"}')
    opened(page, gateway)
    page.get_by_role("button", name="Export, import, delete").click()
    page.get_by_role("dialog").locator("input[type=file]").set_input_files(tmp_path / "other.json")
    expect(page.get_by_role("alert")).to_have_text("This file holds no conversations of this page.")


def test_pictures_are_made_small_and_sent_to_the_model(page: Page, gateway: Stage) -> None:
    opened(page, gateway)
    picture = page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 2560, height: 1280 });
          canvas.getContext("2d").fillRect(0, 0, 10, 10);
          const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg"));
          const files = new DataTransfer();
          files.items.add(new File([blob], "big.jpg", { type: "image/jpeg" }));
          const field = document.querySelector(".composer textarea");
          field.dispatchEvent(new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true }));
        }"""
    )
    assert picture is None
    expect(page.get_by_alt_text("Picture 1")).to_be_visible()
    ask(page, "What is this?")
    wait_until(lambda: any(job["type"] == "chat_completion" for job in gateway.worker.jobs), "it was asked")
    complete(page)
    [content] = [data["messages"][0]["content"] for data in gateway.worker.data if "messages" in data]
    assert content[0] == {"type": "text", "text": "What is this?"}
    url = content[1]["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,")
    size = page.evaluate(
        "url => new Promise((resolve) => { const image = new Image();"
        " image.onload = () => resolve([image.width, image.height]); image.src = url; })",
        url,
    )
    assert size == [1280, 640]


def test_a_model_that_does_not_see_is_sent_no_pictures(page: Page, gateway: Stage, tmp_path: Path) -> None:
    async def blind(desk: Desk) -> None:
        await desk.start()
        await desk.end({"name": "small", "modalities": []})

    gateway.plays(blind)
    opened(page, gateway)
    (tmp_path / "dot.png").write_bytes(b"not read")
    page.locator(".composer input[type=file]").set_input_files(tmp_path / "dot.png")
    expect(page.get_by_role("alert")).to_have_text("small takes no images. Choose a model that does.")


def test_the_answer_and_its_code_are_copied(page: Page, gateway: Stage) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = "Look:\n\n```python\nprint(1 < 2)\n```\n"
    asked(page, gateway, "Code.", says(ROLE, delta({"content": text})))
    complete(page).get_by_role("button", name="Copy", exact=True).click()
    expect(answer(page).get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "print(1 < 2)\n"
    answer(page).get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_role("status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == text


def test_what_was_typed_and_not_sent_outlives_a_reload(page: Page, gateway: Stage) -> None:
    asked(page, gateway, "One?")
    complete(page)
    message_field(page).fill("Not yet")
    page.reload()
    expect(message_field(page)).to_have_value("Not yet")
