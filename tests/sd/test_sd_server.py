"""The real sd-server on the tiny model: what the worker's image engine counts on, told apart from the worker."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.sd.tiny_model import write_tiny_model
from tests.support.ports import free_port

SECONDS_TO_LOAD = 60


class Server:
    """One sd-server on a free port."""

    def __init__(self, command: list[str], log: Path) -> None:
        port = free_port()
        self._base = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("wb") as output:
            # In a folder of its own: it offers every file below its working folder as a LoRA.
            self._process = subprocess.Popen(
                [*command, "--listen-port", str(port)], stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
            )

    def wait(self) -> None:
        limit = time.monotonic() + SECONDS_TO_LOAD
        while True:
            try:
                self.ask("/sdapi/v1/sd-models")
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < limit, self._log.read_text()
                time.sleep(0.05)
            else:
                return

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self._base}{path}", data, timeout=60) as answer:  # noqa: S310 (always http)
            return json.load(answer)

    def images(self, **parameters: Any) -> list[bytes]:
        body = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2} | parameters
        return [base64.b64decode(image) for image in self.ask("/sdapi/v1/txt2img", body)["images"]]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def server(sd_server_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(sd_server_command, tmp_path_factory.mktemp("sd-server") / "log")
    try:
        server.wait()
        yield server
    finally:
        server.end()


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def test_the_tiny_model_is_the_same_each_time(tmp_path: Path) -> None:
    def digests() -> list[str]:
        model = write_tiny_model(tmp_path / "model")
        files = (model.diffusion, model.autoencoder, model.text_encoder)
        return [sha256(file.read_bytes()).hexdigest() for file in files]

    assert digests() == digests()
    shutil.rmtree(tmp_path / "model")  # pytest would keep it


@pytest.mark.sd_server
def test_the_model_is_known_by_its_file(server: Server) -> None:
    assert [model["model_name"] for model in server.ask("/sdapi/v1/sd-models")] == ["tiny-flux"]


@pytest.mark.sd_server
def test_an_image_has_the_size_asked_for(server: Server) -> None:
    (image,) = server.images(width=64, height=128)
    assert size(image) == (64, 128)


@pytest.mark.sd_server
def test_a_seed_decides_the_image_and_a_batch_takes_the_seeds_that_follow(server: Server) -> None:
    assert server.images(seed=7, batch_size=2) == [*server.images(seed=7), *server.images(seed=8)]


@pytest.mark.sd_server
def test_the_prompt_matters(server: Server) -> None:
    assert server.images(seed=7, prompt="a cat") != server.images(seed=7, prompt="a house by the sea")


@pytest.mark.sd_server
@pytest.mark.parametrize("route", ["progress", "memory"])
def test_it_knows_no_progress_and_no_memory(server: Server, route: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        server.ask(f"/sdapi/v1/{route}")
    refusal.value.close()
    assert refusal.value.code == 404
