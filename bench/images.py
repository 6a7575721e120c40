"""Whether a token waits for an image: 200 streamed texts, alone, beside images that others make, beside image jobs.

All three in one run, on one worker: the engine of the texts puts the time into each token, and a reader of its own
compares. The images of the second part are asked of the same WebUI without the worker, so that they cost the machine
the same; what the third adds to that is the worker's doing. The WebUI is the tests' double, with images of 512x512.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import anyio
import httpx

from processes import RedisProcess, WorkerProcess, connect, free_port, start_worker, until

HERE: Final = Path(__file__).parent
TEXTS: Final = 200
AT_ONCE: Final = 8
TOKENS: Final = 20
RATE: Final = 20
IMAGES: Final = 50
PICTURE: Final = {"prompt": "a cat", "width": 512, "height": 512, "steps": 5}


class Bench:
    """A Redis, a worker, and the engines that it uses."""

    def __init__(self, redis: RedisProcess, webui: str, worker: WorkerProcess) -> None:
        self.url = redis.url
        self.webui = webui
        self.worker = worker

    async def texts(self, name: str) -> list[float]:
        """Run the texts; returns how long each token was on its way, in milliseconds."""
        ids = [f"{name}-{number}" for number in range(TEXTS)]
        reader = await anyio.open_process([sys.executable, str(HERE / "reader.py"), self.url, *ids], stdin=None)
        output = reader.stdout
        if output is None:
            sys.exit("the reader has no output")
        await output.receive()  # it is ready
        async with connect(self.url) as redis:
            for job_id in ids:
                data = {"prompt": "a", "max_tokens": TOKENS, "stream": True}
                await redis.lpush("llama_queue", json.dumps({"id": job_id, "type": "completion", "data": data}))
        return [float(line) for line in b"".join([chunk async for chunk in output]).split()]

    async def elsewhere(self) -> None:
        """Have the images made without the worker."""
        async with httpx.AsyncClient(timeout=None) as client:
            for _ in range(IMAGES):
                await client.post(f"{self.webui}/sdapi/v1/txt2img", json=PICTURE)

    async def image_jobs(self) -> None:
        """Have the images made by the worker, none of them together with another."""
        async with connect(self.url) as redis:
            for number in range(IMAGES):
                job = {"id": f"image-{number}", "type": "txt2img", "data": PICTURE | {"seed": number}}
                await redis.lpush("llama_queue", json.dumps(job))
            for number in range(IMAGES):
                while not await redis.exists(f"result:image-{number}"):  # noqa: ASYNC110 (a condition in Redis)
                    await anyio.sleep(0.05)


async def beside(bench: Bench, name: str, work: Callable[[], Coroutine[Any, Any, None]] | None) -> list[float]:
    """Run the texts beside some other work, and wait for both."""
    delays: list[float] = []
    async with anyio.create_task_group() as group:
        if work is not None:
            group.start_soon(work)
        delays += await bench.texts(name)
    return delays


def report(what: str, delays: list[float]) -> float:
    """Print a line; returns the delay that one token in a hundred exceeds, in milliseconds."""
    cuts = statistics.quantiles(delays, n=1000)
    print(f"  {what:34} {cuts[499]:8.1f} {cuts[989]:8.1f} {cuts[998]:8.1f} {max(delays):8.1f}   {len(delays)} tokens")
    return cuts[989]


async def measure(folder: Path) -> None:
    """Measure all three, and print them."""
    env = {**os.environ, "LOG_FORMAT": "json", "PYTHONPATH": str(HERE.parent)}
    ports = free_port(), free_port()
    source = [str(HERE / "source.py"), "--port", str(ports[0]), "--tokens", str(TOKENS), "--rate", str(RATE)]
    webui = ["-m", "tests.doubles.webui", "--api", "--port", str(ports[1]), "--step-seconds", "0.05"]
    redis = RedisProcess(folder, env)
    await redis.start()
    engines: list[Any] = [
        await anyio.open_process([sys.executable, *command], env=env, stdout=-3, stderr=-3)
        for command in (source, webui)
    ]
    address = f"http://127.0.0.1:{ports[1]}"
    settings = {
        "REDIS_URL": redis.url,
        "LLAMA_SERVER_URL": f"http://127.0.0.1:{ports[0]}",
        "LLM_CONCURRENCY": str(AT_ONCE),
        "SD_SERVER_URL": address,
    }
    worker = await start_worker(folder / "worker.log", env | settings)
    try:
        if not await until(lambda: {"worker_ready", "images_ready"} <= actions(worker), limit=60):
            sys.exit(f"the worker is not ready: {worker.last_words()}")
        bench = Bench(redis, address, worker)
        print(f"images, {TEXTS} texts of {TOKENS} tokens at {RATE}/s, {AT_ONCE} at a time; {IMAGES} images of 512x512")
        print(f"  {'ms from made to read':34} {'median':>8} {'99 %':>8} {'99.9 %':>8} {'most':>8}")
        report("texts alone", await beside(bench, "alone", None))
        other = report("beside images without the worker", await beside(bench, "other", bench.elsewhere))
        ours = report("beside image jobs", await beside(bench, "ours", bench.image_jobs))
        print(f"  99 % beside image jobs, to that beside images without the worker: {ours / other:.2f}")
    finally:
        for process in (worker.process, *engines):
            process.kill()
        await redis.kill()


def actions(worker: WorkerProcess) -> set[str]:
    return {line.get("action", "") for line in worker.lines()}


async def images() -> None:
    """The benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        await measure(Path(folder))
