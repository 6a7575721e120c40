"""Four workers on one real llama-server, several hundred jobs of all sorts, and what their clients saw of them."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.observed import Figures, Page, fetch, until
from tests.support.processes import WorkerProcess
from tests.support.servers import free_port
from tests.support.streams import NO_END, Entries, entries
from velesio_worker.wire.jobs import JobType

MARK: Final = "Quetzalcoatl"
"""Stands in every prompt, and must not stand in any log."""

MAX_JOB_BYTES: Final = 20_000
FIRST: Final = 12
"""Jobs that are run before all others, and whose answers are kept."""

_MANAGING: Final = {"list_models", "model_info", "health_check", "load_model", "unload_models"}
_OPERATIONS: Final = {
    "completion": "text_completion",
    "infill": "text_completion",
    "chat_completion": "chat",
    "embedding": "embeddings",
}
LIMIT: Final = 300.0


@contextlib.contextmanager
def shared_server(model: Path, log: Path) -> Generator[str, None, None]:
    """The real llama-server, for whoever wants to use it; yields its address."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "velesio_worker.engines.llama.embedded",
        "--model",
        str(model),
        "--port",
        str(port),
    ]
    command += ["--parallel", "8", "--ctx-size", "4096", "--embeddings", "--pooling", "mean", "--metrics", "--slots"]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def four_workers(folder: Path, **settings: str) -> Generator[list[WorkerProcess], None, None]:
    """Four workers that are ready."""
    workers = [
        WorkerProcess(folder / f"worker-{number}.log", HEALTH_PORT=str(free_port()), **settings) for number in range(4)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait_for("worker_ready")
        yield workers
    finally:
        for worker in workers:
            worker.end()


class Scraper:
    """Asks workers for everything, over and over, while they work; collects what must not be."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(path,)) for path in ("/metrics", "/health", "/readyz")
        ]
        self.answers = 0
        self.wrong: list[str] = []

    @contextlib.contextmanager
    def running(self) -> Generator[None, None, None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def _run(self, path: str) -> None:
        before: dict[int, Figures] = {}
        while not self._over.wait(0.5):
            for port in self._ports:
                try:
                    status, body = fetch(port, path)
                except OSError:
                    continue  # it has ended
                self.answers += 1
                if status not in ({200} if path == "/metrics" else {200, 503}):
                    self.wrong.append(f"{path} of {port}: {status} {body!r}")
                elif path == "/metrics":
                    jobs = Page([body.decode()]).by("velesio_jobs_total", "type", "outcome")
                    if before.get(port, Counter()) - jobs:
                        self.wrong.append(f"{port}: {before[port]} became {jobs}")
                    before[port] = jobs
                else:
                    json.loads(body)


@dataclass(frozen=True)
class Ended:
    """A job, as whoever submitted it sees its end."""

    job: Mapping[str, Any]
    entries: Entries
    result: Mapping[str, Any]

    @property
    def type(self) -> str:
        type_ = self.job.get("type")
        if self.code == "too_large":  # nobody read what it is
            return "unknown"
        return type_ if isinstance(type_, str) and type_ in set(JobType) else "unknown"

    @property
    def code(self) -> str:
        """The error's code; empty where there is none."""
        return self.entries[-1][2]["code"] if self.entries[-1][1] == "error" else ""

    @property
    def outcome(self) -> str:
        if self.code:
            return self.code
        return "cancelled" if self.entries[-1][2]["finish_reason"] == "cancelled" else "done"

    @property
    def ran(self) -> bool:
        """Whether a worker began with it."""
        return any(event == "start" for _, event, _ in self.entries)

    @property
    def operation(self) -> str:
        return _OPERATIONS.get(self.type, self.type)

    @property
    def model(self) -> str:
        """The model that it ran on."""
        models = [data["model"] for _, event, data in self.entries if event == "start"]
        return "unknown" if self.type in _MANAGING or self.code == "no_capacity" else models[-1]

    @property
    def cached(self) -> bool:
        return bool(self.result.get("cached"))

    @property
    def pieces(self) -> int:
        """How many token entries with text it has."""
        choices = [data["choices"][0] for _, event, data in self.entries if event == "token"]
        return sum(bool(choice.get("text") or choice.get("delta", {}).get("content")) for choice in choices)

    @property
    def wrote(self) -> bool:
        """Whether the engine made some text for it."""
        return not self.cached and bool(self.pieces or self.result.get("text"))


class Producers:
    """Those who submit jobs, and remember what they submitted.

    Args:
        redis: a plain client.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._numbers: Iterator[int] = iter(range(1_000_000))
        self.jobs: dict[str, dict[str, Any]] = {}
        self.unusable = 0
        self.wait_known: set[str] = set()

    def push(self, payload: bytes) -> None:
        self._redis.lpush("llama_queue", payload)

    def job(self, type_: Any, data: Any, **fields: Any) -> bytes:
        """Make a job; returns its payload."""
        job_id = f"job-{next(self._numbers)}"
        job = {"id": job_id, "type": type_, "data": data, "created_at": time.time(), **fields}
        if job["created_at"] is None:
            del job["created_at"]
        self.jobs[job_id] = job
        return json.dumps(job).encode()

    def first(self) -> list[bytes]:
        """Jobs whose answers are kept."""
        made: list[bytes] = []
        for number in range(FIRST):
            text = f"{MARK} {number}. One,"
            type_, data = (
                ("completion", {"prompt": text}),
                ("chat_completion", {"messages": [{"role": "user", "content": text}]}),
                ("embedding", {"input": text}),
            )[number % 3]
            sampling = {} if type_ == "embedding" else {"max_tokens": 3, "temperature": 0, "stream": number % 2 == 0}
            made.append(self.job(type_, data | sampling, cache=True))
        return made

    def again(self, times: int) -> list[bytes]:
        """The first jobs again, under other ids: the cache has their answers; some streamed that were not."""
        made: list[bytes] = []
        for number, job in enumerate([*self.jobs.values()][:FIRST] * times):
            flipped = {"stream": number % 2 == 1} if job["type"] != "embedding" else {}
            made.append(self.job(job["type"], job["data"] | flipped, cache=True))
        return made

    def twice(self) -> list[bytes]:
        """The very same jobs once more: they are over, and count once."""
        return [json.dumps(job).encode() for job in [*self.jobs.values()][:5]]

    def texts(self, count: int) -> list[bytes]:
        made: list[bytes] = []
        for number in range(count):
            text = f"{MARK} {number}: red,"
            length = {"max_tokens": 1 + number % 3, "stream": number % 5 > 1}
            chat = {"messages": [{"role": "user", "content": text}]}
            type_, data = ("completion", {"prompt": text}) if number % 4 else ("chat_completion", chat)
            made.append(self.job(type_, data | length))
        return made

    def small(self, count: int) -> list[bytes]:
        """Jobs that write no text; some say nothing, or nonsense, of when they were made."""
        made: list[bytes] = []
        for number in range(count):
            said: list[Any] = [time.time(), None, "yesterday", 1e12, -1, [], True]
            made += [
                self.job("tokenize", {"content": f"{MARK} {number}"}, created_at=said[number % len(said)]),
                self.job("detokenize", {"tokens": [number + 100]}),
                self.job(("list_models", "model_info", "health_check")[number % 3], {}),
            ]
            if number % 4 == 0:
                made.append(self.job("embedding", {"input": [f"{MARK} {number}", "b"]}, cache=False))
        return made

    def refused(self) -> list[bytes]:
        """Jobs that end with an error, before an engine gets them or by it."""
        message = {"role": "user", "content": MARK}
        return [
            *(self.job(type_, {}) for type_ in ("make_coffee", 7, ["completion"], "x" * 5000)),
            *(self.job(None, {"prompt": MARK}) for _ in range(2)),
            *(self.job("completion", data) for data in (None, {}, {"prompt": [MARK]}, {"prompt": MARK, "warmth": 1})),
            *(self.job("chat_completion", data) for data in ({"messages": MARK}, {"messages": [MARK]})),
            self.job("completion", {"prompt": MARK}, on_crash="perhaps"),
            *(self.job("completion", {"prompt": f"{MARK} " * 2000}) for _ in range(3)),
            *(self.job("completion", {"prompt": MARK}, expires_at=time.time() - 1) for _ in range(6)),
            *(self.job("tokenize", {"content": MARK}, worker="nobody-1") for _ in range(4)),
            *(self.job("completion", {"prompt": f"{MARK} word " * 600, "max_tokens": 2}) for _ in range(4)),
            *(self.job("rerank", {"query": MARK, "documents": [MARK]}) for _ in range(4)),
            *(self.job("infill", {"input_prefix": MARK, "input_suffix": MARK}) for _ in range(4)),
            *(self.job("chat_completion", {"messages": [message], "model": name}) for name in ("gpt-9", "other")),
            *(self.job("load_model", {"model": "gpt-9"}) for _ in range(2)),
            self.job("unload_models", {}),
            self.job("completion", "x" * 5 * MAX_JOB_BYTES),
        ]

    def unanswerable(self) -> list[bytes]:
        """Payloads that name no job."""
        made = [b"{", b"[]", b"null", b'"x"', b'{"id": "a b"}', b"\xff\xfe", b"", b'{"type": "completion"}']
        self.unusable += len(made)
        return made

    def endless(self, count: int, **fields: Any) -> list[bytes]:
        """Streamed texts that end when somebody sees to it."""
        data = {"prompt": f"{MARK}, one,", "max_tokens": 400, "logit_bias": NO_END, "stream": True}
        return [self.job("completion", data, **fields) for _ in range(count)]

    def cancel(self, *job_ids: str) -> None:
        for job_id in job_ids:
            self._redis.hset(f"{{result:{job_id}}}:job", "cancel", 1)
            self._redis.xadd("{llama_queue}:control", {"cancel": job_id})

    def cancel_once_begun(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs, each when its first tokens are there."""
        left = set(job_ids)
        deadline = time.monotonic() + LIMIT
        while left:
            begun = {job_id for job_id in left if any(event == "token" for _, event, _ in entries(self._redis, job_id))}
            self.cancel(*begun)
            left -= begun
            assert time.monotonic() < deadline, left
            time.sleep(0.05)

    def wait(self) -> None:
        """Wait until all jobs have ended."""
        left = set(self.jobs)

        def ended() -> bool:
            for job_id in [*left]:
                last = self._redis.xrevrange(f"stream:{job_id}", count=1)
                if last and last[0][1]["event"] in {"done", "error"}:
                    left.discard(job_id)
            return not left

        until(ended, f"all jobs have ended, such as {sorted(left)[:3]}", LIMIT)

    def ends(self) -> list[Ended]:
        """All jobs as they ended."""
        return [
            Ended(job, entries(self._redis, job_id), json.loads(self._redis.get(f"result:{job_id}")))
            for job_id, job in self.jobs.items()
        ]


def run_them_all(redis: Any) -> Producers:
    """Run everything that there is, mixed; returns when all of it has ended."""
    producers = Producers(redis)
    for payload in producers.first():
        producers.push(payload)
    producers.wait()
    until(lambda: len(redis.keys("prompt_cache:*")) == FIRST, "the first answers are kept", 60)
    running, waiting = producers.endless(6), producers.endless(6)
    producers.cancel(*(json.loads(payload)["id"] for payload in waiting))
    payloads = [
        *(*producers.again(3), *producers.twice(), *producers.texts(60), *producers.small(30)),
        *(*producers.refused(), *producers.unanswerable(), *producers.endless(4, timeout=0.2), *running, *waiting),
    ]
    random.Random(11).shuffle(payloads)
    for payload in payloads:
        producers.push(payload)
    producers.cancel_once_begun([json.loads(payload)["id"] for payload in running])
    producers.wait()
    return producers
