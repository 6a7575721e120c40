from __future__ import annotations

import logging

import pytest

from tests.doubles.engine import Answer, End, EngineDouble, sse
from tests.support.generations import events_of
from tests.support.llama_chunks import COMPLETION, completion, piece
from velesio_worker.core.logs import fields_in_log
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama import lines
from velesio_worker.engines.llama.lines import JOBS, RunningJobs, pass_on

ERROR = "1.2.3 E llg error: at 2(8): failed to compile JSON schema: …"


@pytest.fixture(autouse=True)
def jobs(monkeypatch: pytest.MonkeyPatch) -> RunningJobs:
    fresh = RunningJobs()
    monkeypatch.setattr(lines, "JOBS", fresh)
    return fresh


@pytest.mark.parametrize(
    "line",
    [
        "0.1.2 W slot   operator(): id  1 | task 9 | need to evaluate at least 1 token for each active slot",
        "0.1.2 W slot   operator(): id  1 | task 9 | n_past was set to 8",
        "0.1.2 W srv          stop: cancel task, id_task = 9",
        "0.1.2 W srv          init: security: no API key is set and CORS allows all origins",
    ],
)
def test_what_a_healthy_server_writes_of_any_job_is_no_warning(line: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "llama-server")
    pass_on(line)
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_an_error_has_the_id_of_the_only_job_or_those_of_all(
    caplog: pytest.LogCaptureFixture, jobs: RunningJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LATE_SECONDS", 1000.0)
    pass_on(ERROR)
    with fields_in_log(job_id="a"), jobs.running():
        pass_on(ERROR)
        with fields_in_log(job_id="b"), jobs.running():
            pass_on(ERROR)
    pass_on(ERROR)  # comes a little late
    monkeypatch.setattr(lines, "LATE_SECONDS", -1.0)
    pass_on(ERROR)
    told = [(getattr(record, "job_id", None), getattr(record, "job_ids", None)) for record in caplog.records]
    assert told == [(None, None), ("a", None), (None, ["a", "b"]), (None, ["a", "b"]), (None, None)]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


@pytest.mark.anyio
async def test_a_job_counts_while_its_answer_is_read(
    double: EngineDouble, http: EngineHTTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.answers[COMPLETION] = [Answer([sse(piece("a"))], End.OPEN)]
    with fields_in_log(job_id="j1"):
        events = events_of(completion(http))
        await anext(events)
        monkeypatch.setattr(lines, "LATE_SECONDS", -1.0)
        assert "j1" in str(JOBS.fields())
        await events.aclose()
        assert "j1" not in str(JOBS.fields())
