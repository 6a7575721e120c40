"""llama-server's thin routes through gateway, queue and worker, beside the real server's own answers."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from tests.support.gateway_thread import gateway_client
from tests.support.processes import MakeWorker
from velesio_worker.gateway.text.routes import COUNT

pytestmark = [pytest.mark.anyio, pytest.mark.engine, pytest.mark.timeout(300)]

ONCE: dict[str, Any] = {"prompt": "One, two,", "n_predict": 8, "temperature": 0, "cache_prompt": False}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ELSEWHERE = {"id_slot", "model", "generation_settings", "timings", "tokens_cached", "tokens"}
"""What an answer has that is of the host, of the moment, or not told by workers."""


def frames(text: str) -> list[Any]:
    return [orjson.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: ")]


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ELSEWHERE}


async def test_answers_are_the_servers_own(redis_url: str, make_worker: MakeWorker) -> None:
    worker = make_worker()
    async with gateway_client(redis_url, "text") as gateway, httpx.AsyncClient(timeout=60) as direct:
        first = await gateway.post("/completion", json=ONCE)  # once it is there, so is the server
        assert first.status_code == 200
        server = f"http://127.0.0.1:{worker.environment['LLAMA_PORT']}"

        async def both(path: str, body: dict[str, Any]) -> tuple[httpx.Response, httpx.Response]:
            return await gateway.post(path, json=body), await direct.post(server + path, json=body)

        ours, theirs = await both("/completion", ONCE)
        assert plain(ours.json()) == plain(theirs.json())
        assert ours.json()["timings"].keys() == theirs.json()["timings"].keys()
        ours, theirs = await both("/completion", ONCE | {"stream": True, "n_probs": 1})
        mine, real = frames(ours.text), frames(theirs.text)
        assert "".join(frame["content"] for frame in mine) == "".join(frame["content"] for frame in real)
        assert plain(mine[-1]) == plain(real[-1])
        assert mine[0].keys() == real[0].keys()
        assert [frame["stop"] for frame in mine] == [False] * (len(mine) - 1) + [True]
        assert "[DONE]" not in ours.text
        ours, theirs = await both("/completion", ONCE | {"prompt": ["One,", "Two,"]})
        assert [plain(answer)["content"] for answer in ours.json()] == [one["content"] for one in theirs.json()]
        for path, body in (
            ("/tokenize", {"content": "Hello you"}),
            ("/tokenize", {"content": "Hello you", "with_pieces": True}),
            ("/tokenize", {}),
            ("/detokenize", {"tokens": [19556, 346]}),
            ("/detokenize", {}),
            ("/apply-template", CHAT),
            (COUNT, CHAT),
        ):
            ours, theirs = await both(path, body)
            assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json()), path
        ours, theirs = await both("/completion", {"prompt": "x " * 2000})
        assert ours.status_code == theirs.status_code == 400
        assert ours.json()["error"]["type"] == theirs.json()["error"]["type"] == "exceed_context_size_error"
        told, real = (await gateway.get("/props")).json(), (await direct.get(f"{server}/props")).json()
        assert told["default_generation_settings"]["n_ctx"] == real["default_generation_settings"]["n_ctx"] == 512
        assert told["total_slots"] == real["total_slots"] == 2
        assert "/" not in told["model_path"]
