"""A WebUI's answer: its images are cut out of it, and whatever looks otherwise is read as JSON all the same."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.webui import api as webui_api
from velesio_worker.engines.webui.api import WebUIApi, decode_answer

PICTURE = base64.b64encode(bytes(range(256)) * 2000).decode()


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n ", " :\t")])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_large_answers_are_read_as_they_are(count: int, separators: tuple[str, str]) -> None:
    answer = {"images": [PICTURE] * count, "parameters": {"prompt": 'an "images": [ in it'}, "info": '{"seed": 7}'}
    assert decode_answer(json.dumps(answer, separators=separators).encode()) == answer


@pytest.mark.parametrize(
    "answer",
    [
        {"parameters": {"prompt": "x" * 300_000, "images": ["a"]}, "images": [PICTURE]},
        {"images": [PICTURE, None]},
        {"images": [PICTURE, 'with \\ and "']},
        {"images": [["a"], PICTURE]},
        {"images": [PICTURE, "a ] in it", "another"]},
        {"images": [PICTURE, "über"]},
        {"images": {"a": PICTURE}},
        {"nested": {"images": [PICTURE]}, "images": []},
        {"info": '"images": ["a"]' + "x" * 300_000, "images": ["b"]},
    ],
)
def test_what_is_otherwise_is_read_as_a_whole(answer: dict[str, Any]) -> None:
    assert decode_answer(json.dumps(answer).encode()) == answer


@pytest.mark.parametrize("body", [b"", b"{", b"no JSON", b'{"images": ["' + PICTURE.encode(), b'{"images": ["\xff"]}'])
def test_what_is_no_json_is_nothing(body: bytes) -> None:
    if body.endswith(b'"]}'):
        assert decode_answer(body) == {"images": ["\ufffd"]}
    else:
        assert decode_answer(body) is None


@given(
    images=st.lists(st.text() | st.none() | st.lists(st.text())),
    first=st.booleans(),
    info=st.text(),
)
def test_any_answer_is_what_json_says(images: list[Any], info: str, *, first: bool) -> None:
    answer = {"images": images, "info": info} if first else {"info": info, "images": images}
    for ascii_only in (True, False):
        body = json.dumps(answer, ensure_ascii=ascii_only).encode(errors="replace")
        assert decode_answer(body, small=0) == json.loads(body)


class Large:
    """A WebUI whose answers have so many bytes."""

    status = 200

    def __init__(self, size: int) -> None:
        self._body = json.dumps({"info": "x" * (size - 12)}).encode()
        assert len(self._body) == size

    async def body(self, limit: int) -> bytes:
        assert limit
        return self._body

    async def get_text(  # the real one's
        self,
        path: str,
        *,
        timeout: float,  # noqa: ASYNC109
        limit: int,
    ) -> tuple[int, str]:
        assert path
        assert timeout < limit
        return 200, self._body.decode()

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncGenerator[Large, None]:
        assert path
        assert body
        yield self


@pytest.mark.anyio
@pytest.mark.parametrize(("size", "in_loop"), [(1024 * 1024, True), (1024 * 1024 + 1, False)])
async def test_a_large_answer_is_decoded_beside_the_event_loop(
    size: int, monkeypatch: pytest.MonkeyPatch, *, in_loop: bool
) -> None:
    threads: list[threading.Thread] = []

    def decode(body: bytes) -> Any:
        threads.append(threading.current_thread())
        return decode_answer(body)

    monkeypatch.setattr(webui_api, "decode_answer", decode)
    api = WebUIApi(cast("EngineHTTP", Large(size)))
    assert await api.get("progress") == await api.post("txt2img", {})
    assert [thread is threading.current_thread() for thread in threads] == [in_loop, in_loop]
