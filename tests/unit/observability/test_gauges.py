"""What is looked up when Prometheus asks."""

from __future__ import annotations

from typing import Any, cast

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.doubles.worker import GPU, MonitorDouble, SupervisorDouble
from velesio_worker import __version__
from velesio_worker.core.metrics import REGISTRY
from velesio_worker.engines.base import EngineState
from velesio_worker.engines.gpu import Gpu
from velesio_worker.observability.gauges import Gauges, shown
from velesio_worker.observability.health import Health, Stage
from velesio_worker.observability.monitor import Monitor
from velesio_worker.queue.survey import QueueView, Waiting
from velesio_worker.wire.jobs import Kind

Samples = dict[tuple[str, ...], float]


class Engine(SupervisorDouble):
    """An engine with slots."""

    slots = 4
    running = 0
    memory: int | None = None

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"slots": self.slots, "running": self.running}


def samples(monitor: MonitorDouble, *, text: Engine | None = None, stage: Stage = Stage.WORKING) -> Samples:
    """Scrape: values by name and labels' values."""
    supervisors: Any = {Kind.TEXT: text or Engine()}
    health = Health("w1", supervisors, cast("Monitor", monitor))
    health.stage = stage
    gauges = Gauges(health, lambda: {Kind.TEXT: 2, Kind.IMAGE: 0})
    with shown(gauges):
        page = generate_latest(REGISTRY).decode()
    assert "velesio_worker_info" not in generate_latest(REGISTRY).decode(), "they are gone with the worker"
    return {
        (sample.name, *sample.labels.values()): float(sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_the_worker_is_told() -> None:
    found = samples(MonitorDouble())
    assert found["velesio_worker_info", __version__, "w1"] == 1
    assert (found["velesio_worker_ready",], found["velesio_redis_up",]) == (1, 1)
    assert (found["velesio_jobs_active", "text"], found["velesio_jobs_active", "image"]) == (2, 0)


def test_trouble_is_told() -> None:
    found = samples(MonitorDouble(redis_trouble="away"))
    assert (found["velesio_worker_ready",], found["velesio_redis_up",]) == (0, 0)
    found = samples(MonitorDouble(), stage=Stage.STOPPING)
    assert (found["velesio_worker_ready",], found["velesio_redis_up",]) == (0, 1)
    assert found["velesio_worker_alive",] == 1


@pytest.mark.parametrize("trouble", [{"stuck_for": 30.0}, {"redis_trouble": "away"}], ids=str)
def test_a_queue_that_cannot_be_looked_at_is_not_told_as_it_once_was(trouble: dict[str, Any]) -> None:
    queue = QueueView(0.0, {"text": Waiting(3, 1.5)}, {"w1": 5.0}, dead=7)
    found = samples(MonitorDouble(queue=queue, **trouble))
    names = {labels[0] for labels in found}
    assert not names & {"velesio_queue_jobs", "velesio_queue_oldest_seconds", "velesio_dead_letters_kept"}
    assert found["velesio_worker_alive",] == ("stuck_for" not in trouble)


@pytest.mark.parametrize("state", EngineState)
def test_an_engine_is_in_one_state(state: EngineState) -> None:
    found = samples(MonitorDouble(), text=Engine(state, last_error="x"))
    states = {labels[-1]: value for labels, value in found.items() if labels[0] == "velesio_engine_state"}
    assert states == {each.value: float(each is state) for each in EngineState}


@pytest.mark.parametrize(("slots", "running", "used", "free"), [(4, 0, 0, 4), (4, 3, 3, 1), (4, 5, 4, 0), (0, 1, 0, 0)])
def test_slots_are_taken_or_free(slots: int, running: int, used: int, free: int) -> None:
    """A lease beside the slots, such as a probe's, makes them no more."""
    engine = Engine()
    engine.slots, engine.running = slots, running
    found = samples(MonitorDouble(), text=engine)
    assert (found["velesio_slots_used", "text"], found["velesio_slots_free", "text"]) == (used, free)


def test_the_engines_memory_is_told_as_far_as_it_is_known() -> None:
    engine = Engine()
    assert ("velesio_engine_memory_bytes", "text") not in samples(MonitorDouble(), text=engine)
    engine.memory = 7
    assert samples(MonitorDouble(), text=engine)["velesio_engine_memory_bytes", "text"] == 7


def test_the_queue_is_told_as_it_was_seen() -> None:
    waiting = {"incoming": Waiting(3, 1.5), "text": Waiting(0, 0.0)}
    of_text = {"text": {"high": Waiting(1, 0.25), "low": Waiting(5, 7.0)}}
    queue = QueueView(0.0, waiting, {"w1": 5.0, "w2": -1.0}, dead=7, by_priority=of_text)
    found = samples(MonitorDouble(queue=queue))
    assert [found["velesio_priority_jobs", "text", priority] for priority in ("high", "low")] == [1, 5]
    assert [found["velesio_priority_oldest_seconds", "text", priority] for priority in ("high", "low")] == [0.25, 7]
    assert (found["velesio_queue_jobs", "incoming"], found["velesio_queue_oldest_seconds", "incoming"]) == (3, 1.5)
    assert (found["velesio_queue_jobs", "text"], found["velesio_queue_oldest_seconds", "text"]) == (0, 0)
    assert (found["velesio_dead_letters_kept",], found["velesio_workers",]) == (7, 1)


def test_what_is_not_known_has_no_sample() -> None:
    names = {labels[0] for labels in samples(MonitorDouble(redis_trouble="away"))}
    assert not names & {"velesio_queue_jobs", "velesio_queue_oldest_seconds", "velesio_dead_letters_kept"}
    assert not any(name.startswith("velesio_gpu_") for name in names)


def test_gpus_are_told_in_base_units() -> None:
    silent = Gpu(1, "GPU-2", "a card", total=10, used=0, free=10, utilisation=None, temperature=None)
    found = samples(MonitorDouble(gpus=(GPU, silent)))
    assert found["velesio_gpu_info", "0", "a card", "GPU-1"] == 1
    assert found["velesio_gpu_memory_used_bytes", "0"] == 4
    assert found["velesio_gpu_memory_free_bytes", "1"] == 10
    assert found["velesio_gpu_utilization_ratio", "0"] == 0.5
    assert found["velesio_gpu_temperature_celsius", "0"] == 60
    assert ("velesio_gpu_utilization_ratio", "1") not in found
    assert ("velesio_gpu_temperature_celsius", "1") not in found


def test_they_are_gone_whatever_happens() -> None:
    gauges: Any = Gauges(Health("w9", {}, cast("Monitor", MonitorDouble())), dict)
    with pytest.raises(ValueError, match="broken"), shown(gauges):
        raise ValueError("broken")
    assert b'worker="w9"' not in generate_latest(REGISTRY)
