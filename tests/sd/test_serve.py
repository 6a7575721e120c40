"""``serve`` with a real sd-server: images are made through its gateway, and nothing of it is left."""

from __future__ import annotations

import shlex
from pathlib import Path

import httpx
import pytest

from tests.support.processes import wait_until_gone
from tests.support.servers import free_port
from tests.support.serving import Serve

pytestmark = [pytest.mark.sd_server, pytest.mark.timeout(300)]


def test_an_image_through_the_gateway(tmp_path: Path, sd_server_command: list[str]) -> None:
    port = str(free_port())
    command = shlex.join([*sd_server_command, "--listen-port", port])
    one = Serve(cwd=tmp_path, SD_STARTUP_COMMAND=command, SD_PORT=port).ready()
    assert "images come from SD_STARTUP_COMMAND" in one.said
    job = {"type": "txt2img", "data": {"prompt": "a fox", "width": 64, "height": 64, "steps": 2}}
    links = httpx.post(f"{one.url}/jobs", json=job).json()["links"]
    assert [name for name, _ in one.follow(links["events"])][-1] == "done"
    image = httpx.get(f"{one.url}{links['self']}/images/0")
    assert image.content.startswith(b"\x89PNG")
    family = one.family()
    assert one.end() == 0
    for child in family:
        wait_until_gone(child)
