"""The page's side of the wire: events however they are cut, and streams that end on the way."""

from __future__ import annotations

from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect

from tests.support.gateway import GatewayProcess
from tests.support.paintings import Painter
from tests.support.servers import wait_until
from tests.support.stage import Stage

STREAM: Final = (
    ': ping\nid: 1-0\r\nevent: start\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
    ": ping\nid:1-1\ndata:ü\n\nnonsense\nevent: token\n\ndata: 2\n\n"
)


def test_events_are_the_same_wherever_a_stream_is_cut(page: Page, gateway: Stage) -> None:
    page.goto(gateway.url)
    found: list[Any] = page.evaluate(
        """async (stream) => {
          const { readEvents } = await import("/static/js/sse.js");
          const bytes = new TextEncoder().encode(stream);
          const all = new Set();
          for (let size = 1; size <= bytes.length; size += 1) {
            const body = new ReadableStream({
              start(controller) {
                for (let at = 0; at < bytes.length; at += size) {
                  controller.enqueue(bytes.slice(at, at + size));
                }
                controller.close();
              },
            });
            const events = [];
            for await (const event of readEvents(body)) {
              events.push(event);
            }
            all.add(JSON.stringify(events));
          }
          return [...all].map((text) => JSON.parse(text));
        }""",
        STREAM,
    )
    assert found == [
        [
            {"id": "1-0", "event": "start", "data": '{"a":\n1}'},
            {"id": "1-1", "event": "message", "data": "ü"},
            {"id": "1-1", "event": "message", "data": "2"},
        ]
    ]


def test_what_is_left_early_hangs_up(page: Page, gateway: Stage) -> None:
    page.goto(gateway.url)
    assert page.evaluate(
        """async () => {
          const { readEvents } = await import("/static/js/sse.js");
          let cancelled = false;
          const body = new ReadableStream({
            start: (controller) => controller.enqueue(new TextEncoder().encode("data: 1\\n\\n")),
            cancel: () => { cancelled = true; },
          });
          for await (const event of readEvents(body)) {
            break;
          }
          return cancelled;
        }"""
    )


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_stream_goes_on_behind_its_last_entry_at_the_next_gateway(
    redis_url: str, gateway: Stage, page: Page, tmp_path: Any, end: str
) -> None:
    painter = Painter(gateway.redis)
    gateway.plays(painter)
    with GatewayProcess(tmp_path, redis_url, DRAIN_SECONDS="5") as mortal:
        page.goto(mortal.url)
        page.evaluate(
            """async () => {
              const { api } = await import("/static/js/api.js");
              window.seen = [];
              window.states = [];
              const { id } = await api.submit({ type: "txt2img", data: { prompt: "a" } });
              (async () => {
                const onConnection = (state) => window.states.push(state);
                for await (const { id: entry, event, data } of api.events(id, { onConnection })) {
                  window.seen.push(`${entry} ${event} ${typeof data}`);
                }
                window.seen.push("the end");
              })();
            }"""
        )
        painter.go(2)
        wait_until(lambda: page.evaluate("window.seen.length === 3"), "the page has seen it")
        if end == "stopped":
            mortal.stop()
        else:
            mortal.end()
        wait_until(lambda: page.evaluate("window.states.includes('lost')"), "the page has seen it")
        painter.go(3)
        mortal.start()
        mortal.wait_for("gateway_ready", 2)
        wait_until(lambda: page.evaluate("window.seen.at(-1) === 'the end'"), "the page has seen it")
        assert page.evaluate("window.seen") == [
            "1-0 start object",
            *(f"1-{step} progress object" for step in range(1, 5)),
            "1-5 done object",
            "the end",
        ]
        assert page.evaluate("[...new Set(window.states)]") == ["live", "lost"]


def test_a_job_that_there_is_not_ends_at_once_with_the_gateways_word(page: Page, gateway: Stage) -> None:
    page.goto(gateway.url)
    told: Any = page.evaluate(
        """async () => {
          const { api, ApiError } = await import("/static/js/api.js");
          const refusals = [];
          for (const act of [
            async () => { for await (const _ of api.events("nobody.s.job")); },
            () => api.submit({ type: "txt2img", data: { prompt: "a", width: 7 } }),
            () => api.submit({ type: "nothing", data: {} }),
          ]) {
            try {
              await act();
            } catch (error) {
              refusals.push([error instanceof ApiError, error.status, error.code, error.param, error.mayPass]);
            }
          }
          return refusals;
        }"""
    )
    assert told[0] == [True, 404, "job_not_found", None, False]
    assert told[1] == [True, 400, "invalid_request", "data.width", False]
    assert told[2][:3] == [True, 400, "invalid_request"]
    expect(page.get_by_text("1 worker")).to_be_visible()
