"""Workers to which something may happen, and what they say then."""

from __future__ import annotations

import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from tests.support.observed import ask, command, until
from tests.support.processes import WorkerProcess
from tests.support.servers import RedisServer, free_port

WITHIN: Final = 5.0
SLACK: Final = 3.0
"""How much longer a machine may take that does other things as well, in seconds."""

HEALTHY: Final[dict[str, Any]] = {"status": 200, "ready": True, "reasons": []}


class Scene:
    """A worker, its engine and its Redis, each of which can come to harm.

    Args:
        folder: where its files go.
        model: the model.
        redis: a Redis that nobody else uses.
        settings: the worker's.
    """

    def __init__(self, folder: Path, model: Path, redis: RedisServer, **settings: str) -> None:
        folder.mkdir()
        self.redis = redis
        self.held = folder / "held"
        self.port = free_port()
        self.worker = WorkerProcess(
            folder / "worker.log",
            REDIS_URL=redis.url,
            MODEL_PATH=str(model),
            STARTUP_COMMAND=_server(model, self.held),
            LLM_CONCURRENCY="1",
            HEALTH_PORT=str(self.port),
            **{"IDLE_UNLOAD_SECONDS": "0", "PROBE_SECONDS": "0", **settings},
        )

    def start(self) -> None:
        self.worker.start()
        self.worker.wait_for("worker_ready")

    def readiness(self) -> dict[str, Any]:
        """What ``/readyz`` says; empty if nobody answers."""
        with suppress(OSError):
            status, answer = ask(self.port, "/readyz")
            return {"status": status, **answer}
        return {}

    def is_healthy(self) -> bool:
        return self.readiness().items() >= HEALTHY.items()

    def end(self) -> None:
        self.held.unlink(missing_ok=True)
        self.worker.end()


def _server(model: Path, held: Path) -> str:
    """A llama-server that does not start while the file ``held`` is there."""
    server = [sys.executable, "-m", "velesio_worker.engines.llama.embedded", "-m", str(model), "-c", "512", "-np", "1"]
    script = f"while [ -e {shlex.quote(str(held))} ]; do sleep 0.05; done; exec {shlex.join(server)}"
    return shlex.join(["sh", "-c", script])


class Lone:
    """A worker without an engine of its own, for what an engine has no part in.

    Args:
        folder: where its log goes.
        make: what makes it.
        settings: its own.
    """

    def __init__(self, folder: Path, make: type[WorkerProcess] = WorkerProcess, **settings: str) -> None:
        self.port = free_port()
        nowhere = f"http://127.0.0.1:{free_port()}"
        defaults = {"LLAMA_SERVER_URL": nowhere, "HEALTH_PORT": str(self.port)}
        self.worker = make(folder / "worker.log", **(defaults | settings))

    def __enter__(self) -> Self:
        self.worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.end()

    def answers(self, path: str, status: int, *parts: str, limit: float = 20.0) -> dict[str, Any]:
        """Wait until a path answers with a status and with reasons that have these parts; returns the answer."""
        found: list[dict[str, Any]] = []

        def does() -> bool:
            with suppress(OSError):
                got, answer = ask(self.port, path)
                found[:] = [answer]
                return got == status and all(part in "; ".join(answer.get("reasons", ())) for part in parts)
            return False

        until(does, f"{path}: {status} {parts} {found}", limit)
        return found[0]

    def says(self, *arguments: str) -> tuple[int, str]:
        """What ``velesio-worker health`` says; it is one line."""
        code, said = command(self.worker.environment, *arguments)
        assert (said.count("\n"), said[-1:]) == (1, "\n"), said
        return code, said


class StickyWorker(WorkerProcess):
    """A worker whose event loop SIGUSR1 brings to a standstill."""

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.doubles.stuck_worker"], env=self.environment, stdout=log, stderr=log
            )
