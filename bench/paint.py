"""How smoothly the chat page paints an answer: 100,000 tokens at 200 a second, frames over 50 ms counted.

A Redis, a gateway and Debian's chromium; the tokens are written straight into the job's stream, as a worker writes
them. Before that the same page is watched while nothing comes: on a shared machine some frames are long by themselves.

Usage: python bench/run.py paint [--help]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import redis
from playwright.sync_api import Page, sync_playwright

from processes import free_port
from velesio_worker.engines.models.wheels import redis_server

LONG: Final = 50.0
"""A frame of more milliseconds is a stutter."""

BUSY: Final = ("Script", "Layout", "RecalcStyle", "Task")
"""What Chromium counts of its main thread's time; the last one is all of it."""

BATCH: Final = 500
"""So many entries go to Redis at once while the answer is filled."""

WATCH: Final = """
(() => {
  const seen = { deltas: [], tasks: [], frames: [] };
  let last;
  const look = (now) => {
    if (last !== undefined) seen.deltas.push(now - last);
    last = now;
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
  const watch = (type, list) => {
    if (!PerformanceObserver.supportedEntryTypes.includes(type)) return;
    new PerformanceObserver((found) => list.push(...found.getEntries().map((one) => ({
      at: one.startTime, lasted: one.duration,
      layout: one.styleAndLayoutStart > 0 ? one.startTime + one.duration - one.styleAndLayoutStart : 0,
      scripts: (one.scripts ?? []).map((script) => [
        script.invoker, Math.round(script.duration), Math.round(script.forcedStyleAndLayoutDuration),
      ]),
    })))).observe({ type });
  };
  watch("longtask", seen.tasks);
  watch("long-animation-frame", seen.frames);
  window.seenSince = () => {
    const found = { deltas: seen.deltas.splice(0), tasks: seen.tasks.splice(0), frames: seen.frames.splice(0) };
    last = undefined;
    return found;
  };
})();
"""

SECTION: Final = """## {n}. What a lease is for

A worker that *claims* a job holds a **lease** on it, and renews it every few seconds; see `LEASE_SECONDS` and
[the manual](https://example.org/leases). Whoever finds a lease that has run out puts the job back, and the next worker
goes on where the text ends. Nothing is lost, and nothing comes twice, as the entry's id says where to go on.

- The **first** token leaves at once
- Under load batches grow by themselves
  - one flush is under way
  - the next takes what has gathered
- A slow Redis slows the reading, it does not grow memory

```python
def renew(lease: Lease, *, now: float) -> Lease:
    \"\"\"Return the lease as it is after {n} beats.\"\"\"
    if lease.end < now:
        raise LeaseLostError(lease.worker, late=now - lease.end)
    return replace(lease, end=now + 12.0 * {n})
```

| worker | slots | tokens/s | lease |
|:-------|------:|---------:|------:|
| w-{n} | 4 | 181.5 | 12 s |
| w-{n}b | 8 | 240.0 | 11 s |

With $n$ workers and a rate of $\\lambda$ the time in line is

$$
W = \\frac{{C({n}, \\rho)}}{{{n} \\mu - \\lambda}} + \\frac{{1}}{{\\mu}}
$$

> Whoever reads this far knows that a queue is a list, and a list is kept in order.

1. Claim
2. Run
3. End, with `done` or `error` as the last entry

"""


class Plan(argparse.Namespace):
    tokens: int
    rate: float
    fill: int
    idle: float
    why: bool


def read_plan(argv: list[str]) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser("bench/run.py paint", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=100_000, help="tokens that are watched, default %(default)s")
    parser.add_argument("--rate", type=float, default=200.0, help="tokens per second, default %(default)s")
    parser.add_argument(
        "--fill", type=int, default=0, help="tokens that are there before, at once; default %(default)s"
    )
    parser.add_argument("--idle", type=float, default=10.0, help="seconds without a token before, default %(default)s")
    parser.add_argument("--why", action="store_true", help="list the longest frames and what they ran")
    return parser.parse_args(argv, namespace=Plan())


def pieces() -> Iterator[str]:
    """Yield tokens without end: about four characters each, of Markdown as models write it."""
    for number in itertools.count(1):
        yield from re.findall(r"\s*[^\s]{1,5}|\s+", SECTION.format(n=number))


@contextmanager
def redis_at(folder: Path) -> Generator[str]:
    """Run a Redis that keeps nothing; yields its URL."""
    program = redis_server()
    if program is None:
        sys.exit("no redis-server: make setup")
    port = free_port()
    command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            url = f"redis://127.0.0.1:{port}"
            client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
            _wait_for(client.ping, "Redis")
            yield url
        finally:
            process.kill()


@contextmanager
def gateway(redis_url: str, folder: Path) -> Generator[str]:
    """Run a gateway; yields its URL."""
    port = free_port()
    environment = {**os.environ, "REDIS_URL": redis_url, "GATEWAY_PORT": str(port)}
    with (
        (folder / "gateway.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "velesio_worker", "gateway"], env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(lambda: httpx.get(f"{url}/readyz").is_success, f"the gateway ({log.name})")
            yield url
        finally:
            process.terminate()


def _wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError, redis.ConnectionError):
            if condition():
                return
        time.sleep(0.05)
    raise TimeoutError(f"{what} does not answer")


class Writer:
    """A worker in Redis alone: it takes the page's job, and writes tokens into its stream."""

    def __init__(self, url: str) -> None:
        self._redis: Any = redis.Redis.from_url(url, decode_responses=True)  # pyright: ignore[reportUnknownMemberType]
        self._number = itertools.count()
        self._pieces = pieces()
        self._job = ""

    def live(self) -> None:
        """Have a worker live for the next fifty minutes."""
        fields = {"version": "0", "kinds": "text", "running": "0", "text_state": "ready", "text_slots": "1"}
        fields |= {"text_running": "0", "text_model": "paint", "text_models": '["paint"]', "text_default": "paint"}
        self._redis.zadd("{llama_queue}:workers", {"w1": time.time() + 3000})
        self._redis.hset("{llama_queue}:worker:w1", mapping={**fields, "text_reason": ""})
        self._redis.expire("{llama_queue}:worker:w1", 3000)

    def take(self) -> None:
        """Take the job."""
        self._job = json.loads(self._redis.brpop("llama_queue", 30)[1])["id"]
        start = {"type": "chat_completion", "attempt": 1, "worker": "w1", "model": "paint", "mode": "fresh"}
        self._write([("start", {**start, "created": time.time()})])

    def say(self, count: int) -> None:
        """Write so many tokens at once."""
        for first in range(0, count, BATCH):
            batch = itertools.islice(self._pieces, min(BATCH, count - first))
            choices = [{"delta": {"content": piece}, "index": 0, "finish_reason": None} for piece in batch]
            self._write([("token", {"choices": [choice]}) for choice in choices])

    def type(self, count: int, rate: float) -> None:
        """Write so many tokens, one after the other, at a pace."""
        begun = time.monotonic()
        for number in range(count):
            late = begun + number / rate - time.monotonic()
            if late > 0:
                time.sleep(late)
            self.say(1)

    def end(self) -> None:
        """Write the last entry."""
        self._redis.set(f"result:{self._job}", json.dumps({"text": "", "finish_reason": "stop"}), ex=600)
        self._write([("done", {"finish_reason": "stop", "usage": None, "timings": None})])

    def _write(self, entries: Iterable[tuple[str, dict[str, Any]]]) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            for event, data in entries:
                fields = {"event": event, "data": json.dumps(data)}
                pipeline.xadd(f"stream:{self._job}", fields, id=f"1-{next(self._number)}")
            pipeline.execute()


class Eyes:
    """Looks at a page's frames, and at what its main thread does in them."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._chromium: Any = page.context.new_cdp_session(page)
        self._chromium.send("Performance.enable")
        self._before = self._busy()

    def _busy(self) -> dict[str, float]:
        found = self._chromium.send("Performance.getMetrics")["metrics"]
        return {one["name"]: one["value"] for one in found}

    def look(self, name: str, *, why: bool = False) -> None:
        """Print what was seen since the last look."""
        seen: dict[str, list[Any]] = self._page.evaluate("window.seenSince()")
        busy = self._busy()
        spent = {kind: busy[f"{kind}Duration"] - self._before[f"{kind}Duration"] for kind in BUSY}
        seconds = busy["Timestamp"] - self._before["Timestamp"]
        self._before = busy
        deltas = sorted(seen["deltas"]) or [0.0]
        over = [delta for delta in deltas if delta > LONG]
        shares = ", ".join(f"{kind} {100 * time / seconds:.1f} %" for kind, time in spent.items())
        print(
            f"{name:<24} {seconds:6.1f} s {len(deltas):6} frames {len(over):4} over 50 ms"
            f" ({100 * len(over) / len(deltas):.2f} %), median {deltas[len(deltas) // 2]:.1f} ms,"
            f" 99 % {deltas[int(len(deltas) * 0.99)]:.1f} ms, longest {deltas[-1]:.0f} ms;"
            f" {len(seen['tasks'])} long tasks; {shares}",
            flush=True,
        )
        if why:
            _why(seen)


def _why(seen: dict[str, list[Any]]) -> None:
    """Print the longest frames."""
    for frame in sorted(seen["frames"], key=lambda one: -one["lasted"])[:12]:
        print(f"  {frame['lasted']:5.0f} ms, layout and style {frame['layout']:4.0f} ms, {frame['scripts']}")


def _watch(page: Page, writer: Writer, plan: Plan) -> None:
    eyes = Eyes(page)
    page.wait_for_timeout(1000)
    page.evaluate("window.seenSince()")
    page.wait_for_timeout(plan.idle * 1000)
    eyes.look("nothing comes")
    page.get_by_label("Message", exact=True).fill("How does a queue keep its order?")
    page.get_by_role("button", name="Send", exact=True).click()
    writer.take()
    if plan.fill:
        writer.say(plan.fill)
        _settle(page)
        eyes.look(f"{plan.fill} tokens at once")
    part = max(1, min(plan.tokens, 10_000))
    for done in range(0, plan.tokens, part):
        writer.type(min(part, plan.tokens - done), plan.rate)
        eyes.look(f"to {plan.fill + min(plan.tokens, done + part)} tokens", why=plan.why)
    writer.end()
    page.locator(".answer .foot .actions").wait_for(timeout=60_000)
    eyes.look("its end")
    print(f"{page.evaluate('document.querySelectorAll(`*`).length')} elements,"
          f" {page.evaluate('performance.memory.usedJSHeapSize') / 2**20:.0f} MiB of script's memory")  # fmt: skip


def _settle(page: Page) -> None:
    """Wait until what was written at once is shown: until the text has not grown for a second."""
    before = -1
    while (length := page.evaluate("document.querySelector('.answer .text-view')?.textContent.length ?? 0")) != before:
        before = length
        page.wait_for_timeout(1000)


def paint(argv: list[str]) -> None:
    """Run the benchmark."""
    plan = read_plan(argv)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("there is no chromium on PATH: Debian's and Ubuntu's package has one")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as name, redis_at(Path(name)) as redis_url, sync_playwright() as playwright:
        writer = Writer(redis_url)
        writer.live()
        with gateway(redis_url, Path(name)) as url:
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            page.add_init_script(WATCH)
            page.goto(url)
            page.get_by_label("Message", exact=True).wait_for()
            _watch(page, writer, plan)
            browser.close()
