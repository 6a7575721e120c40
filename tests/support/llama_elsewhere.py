"""The real llama.cpp server as somebody else runs it: at one address, with one model after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.environment import base_environment
from tests.support.places import wait_for
from tests.support.servers import free_port


class Elsewhere:
    """llama-servers at one address, one after the other, each with a copy of the small model under another name."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._model = model
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, name: str, *flags: str, context: int, slots: int) -> None:
        """End the server that there is, and start one with other properties; returns once that answers."""
        self.end()
        model = self._folder / f"{name}.gguf"
        if not model.exists():
            model.symlink_to(self._model)
        command = [sys.executable, "-m", "velesio_worker.engines.llama.embedded", "--model", str(model)]
        command += ["--ctx-size", str(context), "--parallel", str(slots), "--threads", "1", "--no-warmup", *flags]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=base_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._is_ready, f"llama-server with {name} answers")

    def _is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310 (http)
            return answer.status == 200
        return False

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Send a request; returns the status code and the JSON of the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (as above)
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
