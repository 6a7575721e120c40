"""What the gateway counts: one registry, read by Prometheus at ``/metrics``.

With several processes each writes its figures to a file of its own in the folder that ``PROMETHEUS_MULTIPROC_DIR``
names (prometheus_client's multiprocess mode), and whichever is asked adds them up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

import anyio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from velesio_worker.client.fanout import Counters

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_OURS: Final = "velesio_gateway_"
_SHORT: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
)

REGISTRY: Final = CollectorRegistry()

REQUESTS: Final = Counter(
    "velesio_gateway_requests",
    "Requests by the template of their route and by status; route - is one that there is not, status 0 an answer "
    "that was never begun.",
    ("route", "status"),
    registry=REGISTRY,
)
DURATION: Final = Histogram(
    "velesio_gateway_request_seconds",
    "How long requests took, live answers to their end.",
    ("route",),
    buckets=_SHORT,
    registry=REGISTRY,
)
FIRST_TOKEN: Final = Histogram(
    "velesio_gateway_time_to_first_token_seconds",
    "From a request to the first piece of its live answer, as its client sees it.",
    ("route",),
    buckets=_SHORT,
    registry=REGISTRY,
)
VIEWERS: Final = Gauge(
    "velesio_gateway_viewers",
    "Viewers of /jobs/{id}/events that are connected.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
ENDED_VIEWERS: Final = Counter(
    "velesio_gateway_viewers_ended",
    "Viewers of /jobs/{id}/events that are gone, by why: ended (the stream), left, too_slow (sent away with a point to "
    "resume from), stopped (the gateway) or lost (Redis does not let it be read).",
    ("why",),
    registry=REGISTRY,
)


LAGGING: Final = Gauge(
    "velesio_gateway_lagging_followers",
    "Viewers and requests whose sockets take nothing more just now.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
FRAMES: Final = Counter(
    "velesio_gateway_frames", "Entries of streams that were handed to viewers' sockets.", registry=REGISTRY
)
DROPPED: Final = Counter(
    "velesio_gateway_dropped_viewers", "Viewers that were sent away since they were too slow.", registry=REGISTRY
)
DELAY: Final = Histogram(
    "velesio_gateway_entry_delay_seconds",
    "From an entry's being written to its being handed to the first socket, by the clocks of worker and gateway; of "
    "start entries alone.",
    buckets=_SHORT,
    registry=REGISTRY,
)


class FanOutFigures:
    """Takes what the fan-out counts, which costs it nothing, into the registry.

    Args:
        counters: the hub's.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._frames = self._dropped = 0

    async def run(self) -> None:
        """Take it every second."""
        while True:
            self.take()
            await anyio.sleep(1)

    def take(self) -> None:
        """Take what is new."""
        counters = self._counters
        LAGGING.set(counters.lagging)
        FRAMES.inc(counters.frames - self._frames)
        DROPPED.inc(counters.dropped - self._dropped)
        self._frames, self._dropped = counters.frames, counters.dropped
        while counters.delays:
            DELAY.observe(max(0.0, counters.delays.popleft()))


class Waiting(Collector):
    """What waits for workers, as it was known when the figures were asked for.

    Args:
        rows: for each list its name, how many wait, and the age of the oldest in seconds.
    """

    def __init__(self, rows: Iterable[tuple[str, int, float]]) -> None:
        self._rows = tuple(rows)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        jobs = GaugeMetricFamily("velesio_gateway_waiting_jobs", "Jobs that wait for a worker.", labels=("list",))
        oldest = GaugeMetricFamily(
            "velesio_gateway_oldest_waiting_seconds", "For how long the next of them has waited.", labels=("list",)
        )
        for name, number, seconds in self._rows:
            jobs.add_metric((name,), number)
            oldest.add_metric((name,), seconds)
        yield from (jobs, oldest)


class _Ours(CollectorRegistry):
    """The figures of all processes, without those that other rooms of this package count for workers."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        return (metric for metric in super().collect() if metric.name.startswith(_OURS))


def figures(waiting: Collector) -> bytes:
    """Return all metrics as Prometheus reads them."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        registry = _Ours()
        MultiProcessCollector(registry, path=folder)
        return generate_latest(registry) + generate_latest(_registry_of(waiting))
    return generate_latest(REGISTRY) + generate_latest(_registry_of(waiting, ProcessCollector(registry=None)))


def _registry_of(*collectors: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry
