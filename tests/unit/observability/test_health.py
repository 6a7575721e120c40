"""What a worker says of itself, in every state that it can be in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest

from tests.doubles.worker import GPU, MonitorDouble, SupervisorDouble
from velesio_worker.engines.base import EngineState
from velesio_worker.observability.health import Health, Stage
from velesio_worker.observability.monitor import Monitor
from velesio_worker.queue.choice import first_check
from velesio_worker.queue.survey import QueueView, Waiting
from velesio_worker.wire.jobs import Kind

pytestmark = pytest.mark.anyio
LAST = {"job_type": "completion", "duration": 1.0, "success": True, "timestamp": 5.0, "gpu_utilization": None}


@dataclass
class Patient:
    """A worker's health, and what it is judged by."""

    monitor: MonitorDouble = field(default_factory=MonitorDouble)
    text: SupervisorDouble | None = field(default_factory=SupervisorDouble)
    image: SupervisorDouble | None = None
    stage: Stage = Stage.WORKING

    @property
    def health(self) -> Health:
        sides = ((Kind.TEXT, self.text), (Kind.IMAGE, self.image))
        supervisors: Any = {kind: side for kind, side in sides if side is not None}
        health = Health("w1", supervisors, cast("Monitor", self.monitor))
        health.stage = self.stage
        return health


def test_a_worker_with_an_engine_that_is_ready_is_ready() -> None:
    health = Patient().health
    assert (health.stuck(), health.unready()) == ([], [])
    assert health.readiness() == {"ready": True, "reasons": [], "engines": {"text": "ready"}}


@pytest.mark.parametrize(
    ("state", "reason", "last_error", "said"),
    [
        (EngineState.READY, "another model cannot be loaded", None, ""),
        (EngineState.STOPPED, "", "it was killed", ""),
        (EngineState.STOPPED, "no model", None, "the text engine has failed: no model"),
        (EngineState.FAILED, "no model", None, "the text engine has failed: no model"),
        (EngineState.BACKOFF, "", "it was killed", "the text engine is started again soon: it was killed"),
        (EngineState.STARTING, "", None, "the text engine is starting, for 7 s now"),
        (EngineState.DRAINING, "", None, "the text engine is draining, for 7 s now"),
        (EngineState.STOPPING, "", None, "the text engine is stopping, for 7 s now"),
    ],
)
def test_an_engine_is_judged_by_its_state(state: EngineState, reason: str, last_error: str | None, said: str) -> None:
    patient = Patient(text=SupervisorDouble(state, reason, last_error))
    assert patient.health.unready() == ([said] if said else [])


def test_every_state_of_an_engine_is_judged() -> None:
    for state in EngineState:
        readiness = Patient(text=SupervisorDouble(state, last_error="x")).health.readiness()
        assert readiness["engines"] == {"text": state.value}
        assert readiness["ready"] is (state in {EngineState.READY, EngineState.STOPPED})


@pytest.mark.parametrize("other", [EngineState.READY, EngineState.STOPPED])
def test_one_engine_is_enough(other: EngineState) -> None:
    patient = Patient(text=SupervisorDouble(EngineState.FAILED, "no model"), image=SupervisorDouble(other))
    assert patient.health.unready() == []


def test_of_two_engines_that_are_away_both_are_told() -> None:
    failed = SupervisorDouble(EngineState.FAILED, "no model")
    said = Patient(text=failed, image=SupervisorDouble(EngineState.STARTING)).health.unready()
    assert said == ["the text engine has failed: no model", "the image engine is starting, for 7 s now"]


@pytest.mark.parametrize("stage", [Stage.STARTING, Stage.STOPPING])
def test_a_worker_that_starts_or_stops_takes_no_jobs(stage: Stage) -> None:
    health = Patient(stage=stage).health
    assert health.unready() == [f"the worker is {stage}"]
    assert health.stuck() == []


def test_all_reasons_are_told_at_once() -> None:
    monitor = MonitorDouble(stuck_for=12.3, redis_trouble="Redis is away")
    health = Patient(monitor, SupervisorDouble(EngineState.FAILED, "no model"), stage=Stage.STARTING).health
    stuck = "the worker's event loop has not moved for 12 s: restart the worker"
    assert health.stuck() == [stuck]
    assert health.unready() == [
        stuck,
        "the worker is starting",
        "Redis is away",
        "the text engine has failed: no model",
    ]


def test_whether_a_worker_lives_has_nothing_to_do_with_redis_or_an_engine() -> None:
    monitor = MonitorDouble(redis_trouble="Redis is away")
    assert Patient(monitor, SupervisorDouble(EngineState.FAILED, "no model")).health.stuck() == []


async def test_all_that_is_known_is_told_and_can_be_written_as_json() -> None:
    of_text = {"text": {"high": Waiting(1, 0.26), "low": Waiting(5, 7.04)}}
    queue = QueueView(1.0, {"incoming": Waiting(2, 3.14159)}, {"w1": 9.876, "w2": -1.0}, dead=4, by_priority=of_text)
    patient = Patient(MonitorDouble(queue=queue, gpus=(GPU, GPU), last_job=LAST))
    told = await patient.health.check()
    assert orjson.loads(orjson.dumps(told)).keys() == told.keys()
    assert told["queues"] == {"incoming": {"jobs": 2, "oldest_seconds": 3.1}}
    assert told["priorities"] == {
        "text": {"high": {"jobs": 1, "oldest_seconds": 0.3}, "low": {"jobs": 5, "oldest_seconds": 7.0}}
    }
    assert (told["leases"], told["dead_letters"]) == ({"w1": 9.9, "w2": -1.0}, 4)
    assert (told["gpu_available"], told["gpu_memory"]) == (True, {"total": 20, "used": 8, "free": 12})
    assert told["gpus"][0]["utilisation"] == 50
    assert (told["models_loaded"], told["llm_worker"], told["sd_worker"]) == (
        {"llm": "m", "sd": None},
        "ready",
        None,
    )
    assert told["last_job"] == LAST
    assert told["redis"] == {"reachable": True, "trouble": None}
    assert (told["worker"], told["ready"], told["reasons"]) == ("w1", True, [])
    assert told["engines"]["text"]["reason"] is None
    assert 0 <= told["uptime"] < 60


async def test_what_is_not_known_is_null() -> None:
    told = await Patient(MonitorDouble(redis_trouble="away")).health.check()
    assert (told["queues"], told["leases"], told["dead_letters"]) == (None, None, None)
    assert (told["gpu_available"], told["gpu_memory"], told["gpus"]) == (False, None, [])
    assert told["redis"] == {"reachable": False, "trouble": "away"}


def test_a_health_check_is_found_among_what_waits() -> None:
    check = b'{"id":"c","type":"health_check"}'
    waiting = [b"", b"{", b'{"id":"a","type":"list_models"}', b'{"id":"b","type":"health_check","data":{"x":1}}']
    assert first_check(waiting, max_bytes=100) is None
    assert first_check([*waiting, check, check], max_bytes=100) == check
    assert first_check([check], max_bytes=10) is None
