"""A worker that is there in Redis alone, which says what the test wants, and the examples as programs."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.environment import base_environment
from tests.support.gateway import WorkerInRedis

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
USAGE: Final = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


class ChatWorker(WorkerInRedis):
    """The same for chats."""

    def start(self, job_id: str, mode: str = "fresh", attempt: int = 1) -> None:
        start = {"type": "chat_completion", "attempt": attempt, "worker": f"w{attempt}", "model": "small"}
        self.write(job_id, f"{attempt}-0", "start", {**start, "mode": mode, "created": 0})

    def token(self, job_id: str, entry: str, text: str) -> None:
        choice = {"delta": {"content": text}, "index": 0, "finish_reason": None}
        self.write(job_id, entry, "token", {"choices": [choice]})

    def done(self, job_id: str, entry: str, text: str, reason: str = "stop") -> None:
        result = {"text": text, "finish_reason": reason, "usage": USAGE}
        self.store(job_id, result)
        self.write(job_id, entry, "done", {"finish_reason": reason, "usage": USAGE, "timings": None})

    def answer(self, text: str, *pieces: str) -> dict[str, Any]:
        """Take the next job and answer it; returns it."""
        job = self.take()
        self.start(job["id"])
        for number, piece in enumerate(pieces or (text,), 1):
            self.token(job["id"], f"1-{number}", piece)
        self.done(job["id"], f"1-{len(pieces) + 1 if pieces else 2}", text)
        return job


@pytest.fixture
def worker(redis_url: str, plain: Any) -> ChatWorker:
    assert redis_url  # emptied
    found = ChatWorker(plain)
    found.live("text")
    return found


@contextmanager
def program(command: Sequence[str | Path], **options: Any) -> Generator[subprocess.Popen[str]]:
    """Run a program while the block runs, its output as text."""
    given: Mapping[str, str] = options.pop("env", {})
    env = {**base_environment(), **given}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([*map(str, command)], env=env, text=True, **pipes, **options) as process:
        try:
            yield process
        finally:
            process.kill()
