"""Workers with a WebUI: the double, as a program that they start themselves."""

from __future__ import annotations

import base64
import io
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from tests.support.processes import WorkerProcess
from tests.support.servers import free_port
from tests.support.streams import Entries, entries

ROOT = Path(__file__).parents[2]


def webui(journal: Path, **options: object) -> dict[str, str]:
    """Settings of a worker that starts the double, which writes what it does into ``journal``."""
    port = free_port()
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [
        sys.executable,
        "-m",
        "tests.doubles.webui",
        "--api",
        "--port",
        str(port),
        "--journal",
        str(journal),
        *flags,
    ]
    return {
        "RUN_SD": "true",
        "SD_PORT": str(port),
        "SD_STARTUP_COMMAND": shlex.join(command),
        "PYTHONPATH": str(ROOT),
    }


def journal(file: Path, *events: str) -> list[dict[str, Any]]:
    """What the double has noted so far, of these kinds."""
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if line["event"] in events]


def webui_process(worker: WorkerProcess) -> psutil.Process:
    """The WebUI that this worker started."""
    found = [child for child in psutil.Process(worker.pid).children() if "tests.doubles.webui" in child.cmdline()]
    assert len(found) == 1, found
    return found[0]


def painting(job_id: str, *, job_type: str = "txt2img", envelope: dict[str, Any] | None = None, **data: Any) -> str:
    """An image job, a small one unless said otherwise."""
    data = {"prompt": "a cat", "width": 64, "height": 64, "steps": 4} | data
    return json.dumps({"id": job_id, "type": job_type, "data": data} | (envelope or {}))


def paint(redis: Any, job_id: str, **painting_: Any) -> None:
    """Submit an image job."""
    redis.lpush("llama_queue", painting(job_id, **painting_))


def paint_all(redis: Any, *paintings: str) -> None:
    """Submit image jobs at one moment: those behind the first wait together, however slow the machine is."""
    redis.lpush("llama_queue", *paintings)


def ended(redis: Any, job_id: str, limit: float = 100) -> dict[str, Any]:
    """Wait for the end of a job; returns its result, whatever that is."""
    deadline = time.monotonic() + limit
    while not (found := entries(redis, job_id)) or found[-1][1] not in {"done", "error"}:
        assert time.monotonic() < deadline, (job_id, found[-3:])
        time.sleep(0.02)
    return json.loads(redis.get(f"result:{job_id}"))


def progress(found: Entries) -> list[dict[str, Any]]:
    """The data of a stream's entries that tell how far an image is."""
    return [data for _, event, data in found if event == "progress" and data["stage"] == "sampling"]


def opened(picture: str) -> Image.Image:
    """Open an image of a result."""
    image = Image.open(io.BytesIO(base64.b64decode(picture, validate=True)))
    image.load()
    return image


def cancel(redis: Any, job_id: str) -> None:
    """Cancel a job as the protocol says."""
    redis.hset(f"{{result:{job_id}}}:job", "cancel", 1)
    redis.xadd("{llama_queue}:control", {"cancel": job_id})
