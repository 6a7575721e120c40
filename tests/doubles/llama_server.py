"""A program that behaves like llama-server's process: what it logs, when it answers, how it ends."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

PROPS: dict[str, Any] = {
    "default_generation_settings": {"n_ctx": 512},
    "total_slots": 3,
    "model_path": "/models/fake.gguf",
}


class Handler(BaseHTTPRequestHandler):
    """Ready at once; GET /die ends the process."""

    answers: ClassVar[dict[str, Any]] = {"/health": {"status": "ok"}, "/props": PROPS}

    def do_GET(self) -> None:
        if self.path == "/die":
            print("E GGML_ASSERT failed", flush=True)  # noqa: T201
            os._exit(9)
        body = json.dumps(self.answers.get(self.path, {})).encode()
        self.send_response(200 if self.path in self.answers else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing of requests."""


def main(behaviour: str, note: str = "") -> None:
    """Behave as told; ``note`` is what is logged first, or the file of ``once``."""
    print("loading", flush=True)  # noqa: T201
    if behaviour == "exit" or (behaviour == "once" and Path(note).exists()):
        print(note, file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(1)
    if behaviour == "silent":
        threading.Event().wait()
    if behaviour == "dots":
        for _ in range(20):
            print(".", end="", flush=True)  # noqa: T201
            time.sleep(0.1)
    if behaviour == "once":
        Path(note).touch()
    if behaviour == "stranger":
        Handler.answers = {"/health": {"status": "ok"}}
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["LLAMA_ARG_PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
