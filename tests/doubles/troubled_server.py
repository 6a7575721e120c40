"""A program that is started as a llama-server and is in trouble: it ends, never gets ready, or hangs."""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWERS: dict[str, Any] = {
    "/health": {"status": "ok"},
    "/props": {
        "default_generation_settings": {"n_ctx": 512},
        "total_slots": 4,
        "model_path": "/models/troubled.gguf",
    },
}
METRICS = "llamacpp:n_decode_total 7\n"


class Handler(BaseHTTPRequestHandler):
    """Healthy by its own account; a generation sends a first token, then nothing for ever."""

    def do_GET(self) -> None:
        text = METRICS if self.path == "/metrics" else json.dumps(ANSWERS.get(self.path, {}))
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if self.path == "/completion":
            first = {"index": 0, "content": " one,", "stop": False}
            self.wfile.write(b"data: " + json.dumps(first).encode() + b"\n\n")
            self.wfile.flush()
        while True:  # the comment that llama-server's HTTP thread sends, whatever the model does
            time.sleep(0.5)
            self.wfile.write(b":\n\n")
            self.wfile.flush()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing of requests."""


def main(trouble: str, note: str, *rest: str) -> None:
    """Be in trouble as long as the file ``note`` is not there; afterwards be the real server, with the ``rest``."""
    if Path(note).exists():
        sys.argv = ["llama-server", *rest]
        runpy.run_module("velesio_worker.engines.llama.embedded", run_name="__main__", alter_sys=True)
        return
    print("loading", flush=True)  # noqa: T201
    match trouble:
        case "exit":
            sys.exit(3)
        case "never":
            threading.Event().wait()
        case "hang":
            Path(note).touch()
            ThreadingHTTPServer(("127.0.0.1", int(os.environ["LLAMA_ARG_PORT"])), Handler).serve_forever()
        case _:
            raise ValueError(trouble)


if __name__ == "__main__":
    main(*sys.argv[1:])
