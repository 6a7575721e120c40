"""The worker's own llama-server answers the worker, and nobody else on the host who has no key."""

from __future__ import annotations

import shlex
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import MakeWorker
from tests.support.streams import push, read
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

ASKED = [
    ("/props", None),
    ("/slots", None),
    ("/v1/models", None),
    ("/metrics", None),
    ("/completion", b'{"prompt":"a"}'),
]


def status(url: str, body: bytes | None = None, key: str | None = None) -> int:
    headers = {"Origin": "http://evil.example"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:  # noqa: S310
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_others_get_nothing_without_the_key(plain: Any, make_worker: MakeWorker) -> None:
    worker = make_worker(LLAMA_OPEN="", SOME_TOKEN="s3cret")
    worker.wait_for("worker_ready")
    url = f"http://127.0.0.1:{worker.environment['LLAMA_PORT']}"
    assert {path: status(url + path, body) for path, body in ASKED} == {path: 401 for path, _ in ASKED}
    assert status(f"{url}/health") == 200
    push(plain, "mine", max_tokens=3)
    assert read(plain, "mine", until="done")
    engine = worker.engine()
    key = engine.environ()["LLAMA_API_KEY"]
    assert not [word for word in engine.cmdline() if key in word]
    assert status(f"{url}/props", key=key) == 200
    assert not {"REDIS_URL", "SOME_TOKEN"} & engine.environ().keys()
    assert key not in worker.log_text()


def test_a_command_that_knows_no_key_serves_all_the_same(plain: Any, make_worker: MakeWorker, model_path: Path) -> None:
    server = f"{sys.executable} -m velesio_worker.engines.llama.embedded -m {model_path} -c 512"
    wrapper = f"sh -c {shlex.quote(f'unset LLAMA_API_KEY; exec {server}')}"
    worker = make_worker(LLAMA_OPEN="", STARTUP_COMMAND=wrapper)
    worker.wait_for("worker_ready")
    assert "LLAMA_API_KEY" not in psutil.Process(worker.engine().pid).cmdline()
    push(plain, "mine", max_tokens=3)
    assert read(plain, "mine", until="done")
