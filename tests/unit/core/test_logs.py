from __future__ import annotations

import json
import logging

import pytest

from velesio_worker.core.logs import configure_logging, get_logger
from velesio_worker.core.settings import LogFormat


def test_a_json_line_has_the_events_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", LogFormat.JSON, worker="w1")
    get_logger("some.room").warning("100% lost", action="redis_lost", job_id="a")
    get_logger("some.room").debug("not shown", action="x")
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "message": "100% lost",
        "action": "redis_lost",
        "job_id": "a",
        "worker": "w1",
        "level": "warning",
        "logger": "some.room",
    }


def test_an_exception_stays_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", LogFormat.JSON)
    try:
        raise ValueError("broken")  # noqa: TRY301
    except ValueError:
        get_logger("some.room").exception("it failed", action="job_broken")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_a_librarys_lines_have_the_same_shape(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", LogFormat.JSON)
    logging.getLogger("redis").warning("gone: %s", "host")
    assert json.loads(capsys.readouterr().err)["message"] == "gone: host"


def test_without_configuration_lines_go_to_the_standard_librarys_logging(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("some.room").warning("hello", action="greeting")
    (record,) = caplog.records
    assert (record.getMessage(), record.__dict__["action"]) == ("hello", "greeting")


def test_a_console_line_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", LogFormat.CONSOLE)
    get_logger("some.room").info("ready", action="worker_ready", slots=4)
    line = capsys.readouterr().err
    assert "ready" in line
    assert "slots=4" in line
