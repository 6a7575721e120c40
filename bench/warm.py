"""What it saves that a conversation's next turn goes to the worker that has read it: with sessions and without.

Four workers with an engine each, and conversations with long prompts of their own, whose next turn is asked as soon as
the last one is answered: more than there are workers, so that all wait; fewer, so that none has to; and as few whose
prompts have nothing in common, though their sessions say so. Both ways in one run, the same jobs but for `session`, on
the same engines.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio

from environments import environment
from processes import RedisProcess, WorkerProcess, connect, start_worker, until
from velesio_worker.engines.models.wheels import small_model

WORKERS: Final = 4
TURNS: Final = 6
ANSWER: Final = 8
LINES: Final = 20
"""How many lines of about ten tokens a conversation begins with."""

START_SECONDS: Final = 180.0


class Part(NamedTuple):
    """What is measured both ways.

    Attributes:
        conversations: how many go on at a time.
        shares: whether a turn's prompt begins with what was said before.
        rounds: how often as many conversations are begun anew.
    """

    name: str
    conversations: int
    shares: bool
    rounds: int


PARTS: Final = (
    Part("all wait", 16, shares=True, rounds=1),
    Part("none waits", 3, shares=True, rounds=4),
    Part("nothing shared", 3, shares=False, rounds=4),
)


@dataclass(slots=True)
class Seen:
    """What was seen of the turns behind the first one of each conversation.

    Attributes:
        waits: seconds from the push of each to its first token.
        read: tokens of their prompts that engines read.
        held: tokens of their prompts that engines had read before.
    """

    waits: list[float] = field(default_factory=list[float])
    read: int = 0
    held: int = 0


async def _turn(client: Any, job: dict[str, Any]) -> tuple[float, str, dict[str, Any]]:
    """Run a job; returns the seconds to its first token, its text and its timings."""
    began, first, at = time.perf_counter(), 0.0, "0"
    await client.lpush("llama_queue", json.dumps(job))
    while True:
        for _, entries in await client.xread({f"stream:{job['id']}": at}, block=5000):
            for entry_id, fields in entries:
                at = entry_id
                if fields["event"] == "token" and not first:
                    first = time.perf_counter() - began
                elif fields["event"] == "error":
                    sys.exit(f"a job failed: {fields['data']}")
                elif fields["event"] == "done":
                    result = json.loads(await client.get(f"result:{job['id']}"))
                    return first or time.perf_counter() - began, result["text"], result["timings"]


def _beginning(chance: random.Random) -> str:
    return "\n".join(f"Rule {line} of book {chance.randrange(10**6)}: be brief." for line in range(LINES))


async def _converse(url: str, part: Part, way: str, number: int, seen: Seen) -> None:
    chance = random.Random(f"{part.name}-{way}-{number}")  # noqa: S311
    prompt = _beginning(chance)
    asked = {"max_tokens": ANSWER, "stream": True, "temperature": 0}
    async with connect(url) as client:
        await anyio.sleep(chance.random())
        for turn in range(TURNS):
            if not part.shares:
                prompt = _beginning(chance)
            prompt += f"\nQuestion {turn}: what then?\nAnswer:"
            job_id = f"{part.name}-{way}-{number}-{turn}".replace(" ", "-")
            job = {"id": job_id, "type": "completion", "data": asked | {"prompt": prompt}}
            session = {"session": f"{part.name} {number}"} if way == "with" else {}
            wait, text, timings = await _turn(client, job | session | {"tenant": "bench"})
            prompt += text
            if turn:
                seen.waits.append(wait)
                seen.read += timings["prompt_n"]
                seen.held += timings["cache_n"]


async def _measure(url: str, part: Part, ways: dict[str, Seen]) -> None:
    for begun in range(0, part.rounds * part.conversations, part.conversations):
        for way, seen in ways.items():
            async with anyio.create_task_group() as group:
                for number in range(begun, begun + part.conversations):
                    group.start_soon(_converse, url, part, way, number, seen)


async def _start(folder: Path, url: str, workers: list[WorkerProcess]) -> None:
    settings = {"REDIS_URL": url, "MODEL_PATH": str(small_model()), "RUN_SD": "false", "GPU_LAYERS": "0"}
    settings |= {"LLM_CONCURRENCY": "1", "CONTEXT_SIZE": "1024", "LLAMA_ARGS": "--threads 1"}
    for number in range(WORKERS):
        worker = await start_worker(folder / f"{number}.log", environment() | settings)
        workers.append(worker)
    if not await until(lambda: all(worker.ready for worker in workers), limit=START_SECONDS):
        sys.exit("the workers do not get ready: make setup")


async def warm() -> None:
    """Compare both ways."""
    seen = {part: {way: Seen() for way in ("without", "with")} for part in PARTS}
    with tempfile.TemporaryDirectory() as folder:
        redis = RedisProcess(Path(folder), environment(), lasting=False)
        workers: list[WorkerProcess] = []
        try:
            await redis.start()
            await _start(Path(folder), redis.url, workers)
            for part, ways in seen.items():
                await _measure(redis.url, part, ways)
        finally:
            for worker in workers:
                if worker.runs:
                    worker.process.terminate()
            for worker in workers:
                await worker.process.wait()
            await redis.kill()
    print(f"warm, {WORKERS} workers, conversations of {TURNS} turns, from the second turn on")
    for part, ways in seen.items():
        _tell(part, ways)


def _tell(part: Part, seen: dict[str, Seen]) -> None:
    print(f" {part.name}: {part.conversations} conversations at a time")
    for way, what in seen.items():
        first, most = statistics.median(what.waits), max(what.waits)
        print(f"  {way:8}first token {first:7.3f} s, most {most:7.3f} s", end="; ")
        print(f"prompt tokens read {what.read:7,}, held {what.held:7,}")
    without, with_ = seen["without"], seen["with"]
    wait = statistics.median(with_.waits) / statistics.median(without.waits)
    print(f"  ratio   first token {wait:7.2f}                     prompt tokens read {with_.read / without.read:7.2f}")
