from __future__ import annotations

import json
import logging
import sys

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


@pytest.mark.parametrize(
    ("terminal", "env", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_a_console_line_is_coloured_where_that_is_wanted(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    terminal: bool,
    env: dict[str, str],
    coloured: bool,
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | env).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    configure_logging("INFO", LogFormat.CONSOLE)
    get_logger("some.room").info("ready")
    assert ("\x1b" in capsys.readouterr().err) is coloured


FORGED = "x\n2026-01-01T00:00:00Z [critical ] forged\r\x1b[2J\x7f\x9b31m\u2028\u2029\u202e\u2066\ud800"
WRITTEN = r"x\n2026-01-01T00:00:00Z [critical ] forged\r\u001b[2J\u007f\u009b31m\u2028\u2029\u202e\u2066\ud800"


@pytest.mark.parametrize("colours", [False, True])
def test_nobody_forges_a_line_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, colours: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: colours)
    configure_logging("INFO", LogFormat.CONSOLE)
    get_logger("some.room").warning(
        FORGED, action="odd", lost=FORGED, short="a\x1b[2J", path=["b\x9b"], worker="c\u202e"
    )
    logging.getLogger("redis").warning("said %s", FORGED)
    text = capsys.readouterr().err
    assert text.count(WRITTEN) >= 2
    assert len(text.splitlines()) == 2
    if not colours:
        assert text.replace("\n", "").isprintable()
    assert "\x1b[2J" not in text


def test_a_traceback_for_people_passes_for_no_event(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", LogFormat.CONSOLE)
    try:
        raise ValueError(FORGED)  # noqa: TRY301
    except ValueError:
        get_logger("some.room").exception("it failed", action="job_broken")
    first, *others = capsys.readouterr().err.splitlines()
    assert "it failed" in first
    assert any("ValueError: x" in line for line in others)
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_json_has_no_control_characters_raw_and_loses_none(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", LogFormat.JSON)
    sayable = FORGED.replace("\ud800", "")
    get_logger("some.room").warning(sayable, action="odd", lost=[sayable])
    (line,) = capsys.readouterr().err.split("\n")[:-1]
    assert line.isprintable()
    assert (json.loads(line)["message"], json.loads(line)["lost"]) == (sayable, [sayable])
