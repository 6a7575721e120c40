"""What a worker tells beside its engines is read, whatever stands there."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.client import Details, GpuInfo, RunningJob
from velesio_worker.client.details import FIELDS, details_in
from velesio_worker.wire.limits import MOST_TOLD_BYTES, MOST_TOLD_GPUS, MOST_TOLD_JOBS

JOB: Final = {"id": "a", "type": "completion", "attempt": 2, "since": 5.5, "tokens": 9, "ttft_ms": 250}
GPU: Final[dict[str, Any]] = {
    "index": 0,
    "name": "H200",
    "used": 1,
    "total": 2,
    "utilisation": None,
    "temperature": 40,
}


def read(**fields: object) -> Details:
    written = {name: value if isinstance(value, bytes) else orjson.dumps(value) for name, value in fields.items()}
    return details_in({name: written.get(name) for name in FIELDS})


def test_what_a_worker_tells_is_read() -> None:
    told = read(pid=7, started=b"1.500", at=b"9.250", stage=b"working", tokens=12, jobs=[JOB], gpus=[GPU])
    jobs = (RunningJob("a", "completion", 2, 5.5, 9, 0.25),)
    assert told == Details(7, 1.5, 9.25, "working", 12, jobs, (GpuInfo(0, "H200", 1, 2, None, 40),))


def test_a_worker_of_an_older_version_tells_nothing() -> None:
    assert read() == Details()


@pytest.mark.parametrize(
    "damaged",
    [
        *({"id": "no id"}, {"id": 7}, {"type": None}, {"since": "soon"}, {"since": True}, {"since": -1}),
        {"since": 1e300},
    ],
)
def test_a_job_that_is_none_is_passed_over(damaged: dict[str, Any]) -> None:
    assert [job.id for job in read(jobs=[JOB | damaged, JOB | {"id": "b"}, 7, None]).jobs] == ["b"]


def test_there_is_no_more_than_a_worker_may_tell() -> None:
    assert len(read(jobs=[JOB] * (MOST_TOLD_JOBS + 9)).jobs) == MOST_TOLD_JOBS
    assert len(read(gpus=[GPU] * 99).gpus) == MOST_TOLD_GPUS
    assert read(jobs=[JOB | {"x": "y" * 2 * MOST_TOLD_BYTES}]).jobs == ()


def test_a_name_cannot_move_the_readers_terminal() -> None:
    told = read(jobs=[JOB | {"type": "\x1b[2J"}], gpus=[GPU | {"name": "\x9b"}], stage=b"\x1b")
    assert (told.jobs[0].type, told.gpus[0].name, told.stage) == ("\\u001b[2J", "\\u009b", "\\u001b")


@given(st.dictionaries(st.sampled_from(FIELDS), st.binary(max_size=40) | st.just(b"[{}]") | st.just(b"[1e999]")))
def test_nothing_that_stands_there_is_an_error(fields: dict[str, bytes]) -> None:
    assert isinstance(read(**fields), Details)
