"""Gateways as processes of their own, and a worker that is there in Redis alone."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import psutil

from tests.support.environment import base_environment
from tests.support.forks import Forked, fork_server
from tests.support.servers import free_port, wait_until

QUEUE: Final = "llama_queue"
ALICE: Final = "alice-s-long-token"
BOB: Final = "bob-s-long-token"


class GatewayProcess:
    """``velesio-worker gateway``, its log read as JSON. A context manager that waits until it listens.

    Args:
        folder: where its log goes.
        redis_url: where Redis is.
        arguments: more arguments.
        settings: environment variables, by name.
    """

    def __init__(self, folder: Path, redis_url: str, *arguments: str, **settings: str) -> None:
        self.port = free_port()
        self._log = folder / f"gateway-{self.port}.log"
        self._arguments = arguments
        self._environment = {
            **base_environment(),
            "REDIS_URL": redis_url,
            "GATEWAY_PORT": str(self.port),
            "LOG_FORMAT": "json",
            "PYTHONWARNINGS": "error",
            **settings,
        }
        self.process: Forked | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = fork_server().start(self._environment, self._log, "gateway", *self._arguments)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_for("gateway_ready")
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def lines(self, action: str) -> list[dict[str, Any]]:
        """The lines of the log that are of this action."""
        text = self.text()
        whole = text[: text.rfind("\n") + 1]
        found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in found if line.get("action") == action]

    def text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def wait_for(self, action: str, count: int = 1) -> dict[str, Any]:
        """Wait for so many lines of this action; returns the last."""

        def seen() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the gateway ended before {action}:\n{self.text()}"
            return len(self.lines(action)) >= count

        wait_until(seen, f"{action} in {self._log}", 60)
        return self.lines(action)[count - 1]

    def client(self, token: str | None = None, **options: Any) -> httpx.Client:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stop(self) -> int:
        """SIGTERM, then wait; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    @property
    def system_process(self) -> psutil.Process:
        """The process as the system sees it."""
        assert self.process is not None
        return psutil.Process(self.process.pid)

    @property
    def memory(self) -> int:
        """How many bytes it has in memory."""
        return self.system_process.memory_info().rss

    def children(self) -> list[psutil.Process]:
        return self.system_process.children()

    def end(self) -> None:
        """Leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            family = [psutil.Process(self.process.pid)]
            with suppress(psutil.NoSuchProcess):
                family += family[0].children(recursive=True)
            for member in family[::-1]:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            self.process.wait(60)


def received(connection: socket.socket) -> bytes:
    """Return what comes until the other side hangs up."""
    found = bytearray()
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return bytes(found)


class WorkerInRedis:
    """A worker as Redis has it, whose jobs the test runs.

    Args:
        redis: a client of text.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    def live(self, kinds: str = "text,image") -> None:
        """Have it live for the next half hour."""
        fields = {"version": "0.1.0", "kinds": kinds, "running": "0"}
        for kind in kinds.split(","):
            fields |= {f"{kind}_state": "ready", f"{kind}_model": "small", f"{kind}_slots": "4", f"{kind}_running": "1"}
            fields |= {f"{kind}_models": '["small"]', f"{kind}_default": "small", f"{kind}_reason": "/secret/folder"}
        self._redis.zadd(f"{{{QUEUE}}}:workers", {"w1": time.time() + 1800})
        self._redis.hset(f"{{{QUEUE}}}:worker:w1", mapping=fields)
        self._redis.pexpire(f"{{{QUEUE}}}:worker:w1", 1800_000)

    def take(self) -> dict[str, Any]:
        """Take the next job."""
        found = self._redis.brpop(QUEUE, 30)
        assert found is not None, "no job came"
        return json.loads(found[1])

    def take_if_any(self, seconds: float = 0.2) -> dict[str, Any] | None:
        """Take the next job that comes within so many seconds; None: none does."""
        found = self._redis.brpop(QUEUE, seconds)
        return None if found is None else json.loads(found[1])

    def write(self, job_id: str, entry: str, event: str, data: Mapping[str, Any]) -> None:
        """Write an entry of a job's stream."""
        self._redis.xadd(f"stream:{job_id}", {"event": event, "data": json.dumps(data)}, id=entry)

    def begin(self, job_id: str) -> None:
        start = {"type": "completion", "attempt": 1, "worker": "w1", "model": "small", "mode": "fresh"}
        self.write(job_id, "1-0", "start", {**start, "created": time.time()})

    def say(self, job_id: str, number: int, text: str) -> None:
        choice = {"text": text, "index": 0, "finish_reason": None}
        self.write(job_id, f"1-{number}", "token", {"choices": [choice]})

    def store(self, job_id: str, result: Mapping[str, Any]) -> None:
        self._redis.set(f"result:{job_id}", json.dumps(result), ex=600)

    def cancelled(self, job_id: str) -> bool:
        """Whether somebody wants the job to be stopped."""
        return bool(self._redis.exists(f"{{result:{job_id}}}:cancel"))

    def end(self, job_id: str, number: int, result: Mapping[str, Any]) -> None:
        """Store a result, then write the last entry."""
        self.store(job_id, result)
        if "error" in result:
            last = {**result, "retryable": False, "partial": False}
            self.write(job_id, f"1-{number}", "error", last)
        else:
            reason = result.get("finish_reason", "stop")
            self.write(job_id, f"1-{number}", "done", {"finish_reason": reason, "usage": None, "timings": None})


def nothing_waits(client: httpx.Client) -> bool:
    """Whether the gateway knows that the jobs of the test before are gone: what it knows is up to a second old."""
    return not any(one["jobs"] for one in client.get("/queue/status").json()["waiting"].values())
