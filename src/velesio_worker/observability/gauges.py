"""What is looked up when Prometheus asks: how the worker, its engines, its GPUs and the queue are at that moment."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from velesio_worker import __version__
from velesio_worker.core.metrics import REGISTRY
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.gpu import Gpu
from velesio_worker.observability.health import Health
from velesio_worker.wire.jobs import Kind

_PER_CENT: Final = 100
_GPU_FIGURES: Final[Sequence[tuple[str, str, Callable[[Gpu], float | None]]]] = (
    ("memory_used_bytes", "Memory that is taken, by whomever.", lambda gpu: gpu.used),
    ("memory_free_bytes", "Memory that is free.", lambda gpu: gpu.free),
    ("memory_total_bytes", "Memory in all.", lambda gpu: gpu.total),
    ("utilization_ratio", "How much of the time the GPU works, 0 to 1.", lambda gpu: _ratio(gpu.utilisation)),
    ("temperature_celsius", "How hot the GPU is.", lambda gpu: gpu.temperature),
)


class Gauges(Collector):
    """Looks everything up in the worker's memory; it asks nobody, so a scrape is quick whatever hangs.

    Args:
        health: knows whether the worker can take jobs, its engines, and the queue and the GPUs as they were last seen.
        running: returns how many jobs run, by kind.
    """

    def __init__(self, health: Health, running: Callable[[], Mapping[Kind, int]]) -> None:
        self._health = health
        self._monitor = health.monitor
        self._running = running

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics as they stand; one that cannot be known has no sample."""
        yield from self._worker_gauges()
        yield from self._engine_gauges()
        yield from self._queue_gauges()
        yield from _gpu_gauges(self._monitor.gpus)

    def _worker_gauges(self) -> Iterator[GaugeMetricFamily]:
        info = _gauge("worker_info", "This worker.", "worker", "version")
        info.add_metric([self._health.worker, __version__], 1)
        yield info
        for name, documentation, trouble in (
            ("worker_alive", "Whether the worker's event loop moves, as /livez says: 1, or 0.", self._health.stuck()),
            ("worker_ready", "Whether the worker can run jobs: 1, or 0.", self._health.unready()),
            ("redis_up", "Whether Redis answers this worker: 1, or 0.", self._monitor.redis_trouble),
        ):
            family = _gauge(name, documentation)
            family.add_metric([], not trouble)
            yield family
        active = _gauge("jobs_active", "Jobs that this worker holds now.", "kind")
        for kind, count in self._running().items():
            active.add_metric([kind.value], count)
        yield active

    def _engine_gauges(self) -> Iterator[GaugeMetricFamily]:
        used = _gauge("slots_used", "Places for jobs on the engine that are taken.", "kind")
        free = _gauge("slots_free", "Places for jobs on the engine that are free.", "kind")
        memory = _gauge("engine_memory_bytes", "The host's memory that the worker's own engine takes.", "kind")
        state = _gauge("engine_state", "1 for the state that the engine is in, 0 for all others.", "kind", "state")
        for kind, supervisor in self._health.supervisors.items():
            facts = supervisor.facts()
            taken = min(facts["running"], facts["slots"])
            used.add_metric([kind.value], taken)
            free.add_metric([kind.value], facts["slots"] - taken)
            if (held := supervisor.memory) is not None:
                memory.add_metric([kind.value], held)
            for each in EngineState:
                state.add_metric([kind.value, each.value], facts["state"] == each.value)
        yield from (used, free, memory, state)

    def _queue_gauges(self) -> Iterator[GaugeMetricFamily]:
        jobs = _gauge("queue_jobs", "Jobs that wait; every worker of a queue says the same.", "list")
        oldest = _gauge(
            "queue_oldest_seconds",
            "Age of the next job by its created_at, else for how long it has been next.",
            "list",
        )
        by = "kind", "priority"
        prior = _gauge("priority_jobs", "Sorted jobs that wait; every worker of a queue says the same.", *by)
        first = _gauge(
            "priority_oldest_seconds", "For how long the oldest of them has waited since it was sorted.", *by
        )
        dead = _gauge("dead_letters_kept", "Dead letters that are kept.")
        workers = _gauge("workers", "Workers of the queue that live.")
        queue = self._monitor.queue
        is_known = not self._health.stuck() and not self._monitor.redis_trouble  # else it is what once was
        if queue is not None and is_known:
            for name, waiting in queue.waiting.items():
                jobs.add_metric([name], waiting.jobs)
                oldest.add_metric([name], waiting.oldest)
            for kind, of in queue.by_priority.items():
                for priority, waiting in of.items():
                    prior.add_metric([kind, priority], waiting.jobs)
                    first.add_metric([kind, priority], waiting.oldest)
            dead.add_metric([], queue.dead)
            workers.add_metric([], queue.alive)
        yield from (jobs, oldest, prior, first, dead, workers)


def _gpu_gauges(gpus: Sequence[Gpu]) -> Iterator[GaugeMetricFamily]:
    info = _gauge("gpu_info", "A GPU that the engines may use.", "gpu", "name", "uuid")
    for gpu in gpus:
        info.add_metric([str(gpu.index), gpu.name, gpu.uuid], 1)
    yield info
    for name, documentation, figure in _GPU_FIGURES:
        family = _gauge(f"gpu_{name}", documentation, "gpu")
        for gpu in gpus:
            value = figure(gpu)
            if value is not None:
                family.add_metric([str(gpu.index)], value)
        yield family


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"velesio_{name}", documentation, labels=labels)


def _ratio(per_cent: int | None) -> float | None:
    return None if per_cent is None else per_cent / _PER_CENT


@contextmanager
def shown(gauges: Gauges) -> Generator[None]:
    """Have gauges among the metrics as long as the context lasts."""
    REGISTRY.register(gauges)
    try:
        yield
    finally:
        REGISTRY.unregister(gauges)
