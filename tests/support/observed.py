"""A worker as others see it: its answers over HTTP, its metrics, and ``velesio-worker health``."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tests.support.forks import run_forked

Figures = Counter[tuple[str, ...]]
"""Values of one metric, by the values of its labels."""

PATIENCE: Final = 20.0
"""How long an answer may take on a slow machine, in seconds."""


def fetch(port: int, path: str, *, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, bytes]:
    """Ask once; returns status and body."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask(port: int, path: str, *, host: str = "127.0.0.1") -> tuple[int, dict[str, Any]]:
    """Ask once for JSON; returns status and object."""
    status, body = fetch(port, path, host=host)
    return status, json.loads(body)


class Page:
    """What ``/metrics`` of one worker, or of several taken together, says.

    Args:
        texts: the answers.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._samples: dict[str, Counter[frozenset[tuple[str, str]]]] = {}
        for text in texts:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    found = self._samples.setdefault(sample.name, Counter())
                    found[frozenset(sample.labels.items())] += sample.value  # pyright: ignore[reportArgumentType]

    @classmethod
    def of(cls, *ports: int) -> Page:
        """Scrape workers."""
        texts: list[str] = []
        for port in ports:
            status, body = fetch(port, "/metrics")
            assert status == 200, body
            texts.append(body.decode())
        return cls(texts)

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return set(self._samples)

    def by(self, name: str, *labels: str) -> Figures:
        """The values of a metric by the values of these labels, without those that are 0."""
        figures: Figures = Counter()
        for found, value in self._samples.get(name, Counter()).items():
            values = dict(found)
            figures[tuple(values[label] for label in labels)] += value
        return Counter({key: value for key, value in figures.items() if value})

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's values with these labels."""
        wanted = set(labels.items())
        assert name in self._samples, name
        return sum(value for found, value in self._samples[name].items() if wanted <= found)


def command(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Run ``velesio-worker health``; returns its exit code and what it printed."""
    code, output, error = run_forked(environment, "health", *arguments)
    assert error == ""
    return code, output


def until(condition: Any, what: object, limit: float) -> float:
    """Wait until ``condition`` holds; returns after how many seconds that was."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + limit, f"after {limit} s still not: {what}"
        time.sleep(0.02)
    return time.monotonic() - began
