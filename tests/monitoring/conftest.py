from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import prometheus_client
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.expressions import Inspection
from tests.support.debian import PROMTOOL, program_or_skip
from tests.support.processes import WorkerProcess
from tests.support.servers import RedisServer, free_port
from velesio_worker.core import metrics
from velesio_worker.observability import gauges

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "monitoring"
START_SECONDS: Final = 30.0

_ENDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
}
_OF_LINUX: Final = ("process_cpu_seconds_total", "process_resident_memory_bytes")
"""What prometheus_client finds in /proc, and nowhere else."""


@pytest.fixture(scope="session")
def folder() -> Path:
    return FOLDER


@pytest.fixture(scope="session")
def rules() -> list[dict[str, Any]]:
    """All rules, in their order."""
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="session")
def alerts(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for rule in rules if "alert" in rule]


@pytest.fixture(scope="session")
def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "grafana-dashboard.json").read_text())


@pytest.fixture(scope="session")
def promtool(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program_or_skip(PROMTOOL, pytestconfig, tmp_path_factory)


@dataclass(frozen=True)
class Pages:
    """What a worker answers at /metrics.

    Attributes:
        first: at once; its engines are still looked for then, and Redis was not asked yet.
        later: when it has seen the queue.
    """

    first: str
    later: str


@pytest.fixture(scope="session")
def live_pages(shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    port = free_port()
    nowhere = f"http://127.0.0.1:{free_port()}"
    worker = WorkerProcess(
        tmp_path_factory.mktemp("monitored") / "worker.log",
        REDIS_URL=shared_redis.url,
        QUEUE_NAME="monitored",
        LLAMA_SERVER_URL=nowhere,
        RUN_SD="true",
        SD_SERVER_URL=nowhere,
        HEALTH_PORT=str(port),
    )
    worker.start()
    url = f"http://127.0.0.1:{port}/metrics"
    try:
        return Pages(_page(worker, url), _page(worker, url, having="\nvelesio_queue_jobs{"))
    finally:
        worker.end()


def _page(worker: WorkerProcess, url: str, having: str = "") -> str:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            text = httpx.get(url).raise_for_status().text
            if having in text:
                return text
        ended = worker.process is not None and worker.process.poll() is not None
        assert not ended, f"the worker ended:\n{worker.log_text()}"
        assert time.monotonic() < deadline, f"not at {url} in {START_SECONDS} s: {having!r}\n{worker.log_text()}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def live_metrics(live_pages: Pages) -> dict[str, set[str]]:
    """The names of all series that a worker declares in its first answer, and their labels."""
    labels = declared_labels()
    for page in (live_pages.first, live_pages.later):
        for family in text_string_to_metric_families(page):
            labels.setdefault(family.name, set()).update(*(sample.labels for sample in family.samples))
    found: dict[str, set[str]] = {} if sys.platform == "linux" else {name: set() for name in _OF_LINUX}
    for family in text_string_to_metric_families(live_pages.first):
        for ending in _ENDINGS.get(family.type, ("",)):
            found[family.name + ending] = labels[family.name] - {"le"} | ({"le"} if ending == "_bucket" else set())
    return found


def declared_labels() -> dict[str, set[str]]:
    """The labels of what has no samples before something happened, or without a GPU."""
    kinds = (prometheus_client.Counter, prometheus_client.Histogram)
    untyped: list[Any] = [metric for metric in vars(metrics).values() if isinstance(metric, kinds)]
    declared = {metric._name: set(metric._labelnames) for metric in untyped}
    families: list[Any] = list(gauges._gpu_gauges(()))  # pyright: ignore[reportPrivateUsage]
    return declared | {family.name: set(family._labelnames) for family in families}


@pytest.fixture
def inspection(live_metrics: Mapping[str, Iterable[str]], rules: list[dict[str, Any]]) -> Inspection:
    """Knows the series of a worker and those that the rules record."""
    known = Inspection(live_metrics)
    for rule in rules:
        if "record" in rule:
            known.record(rule["record"], rule["expr"])
    return known
