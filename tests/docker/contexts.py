"""What Docker's own client sends to a build, shown to a stand-in for Docker's daemon."""

from __future__ import annotations

import io
import os
import socketserver
import subprocess
import tarfile
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path


def _chunks(stream: io.BufferedIOBase) -> bytes:
    """Read a body in HTTP's chunked encoding."""
    body = b""
    while size := int(stream.readline(), 16):
        body += stream.read(size)
        stream.readline()
    return body


class _Daemon(BaseHTTPRequestHandler):
    """Takes the context of a build and refuses the build."""

    contexts: list[bytes]

    def do_HEAD(self) -> None:
        self._answer(200)

    def do_GET(self) -> None:
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        self.contexts.append(_chunks(self.rfile))
        self._answer(400, b'{"message": "seen"}')

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("API-Version", "1.44")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class calls it so)
        pass


def sent_by_docker(context: Path) -> set[str] | None:
    """Return the files that ``docker build`` sends of a folder; None if the client cannot do without its plug-ins."""

    class Daemon(_Daemon):
        contexts: list[bytes] = []  # noqa: RUF012 (one daemon, one list)

    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/docker.sock"
        with socketserver.ThreadingUnixStreamServer(address, Daemon) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            environment = {"PATH": os.environ["PATH"], "HOME": folder, "DOCKER_BUILDKIT": "0"}
            command = ["docker", "--host", f"unix://{address}", "build", "--file", "Dockerfile", "."]
            subprocess.run(command, cwd=context, env=environment, capture_output=True, timeout=60, check=False)
            server.shutdown()
    if not Daemon.contexts:
        return None
    with tarfile.open(fileobj=io.BytesIO(Daemon.contexts[0])) as tar:
        return {member.name for member in tar if member.isfile()}
