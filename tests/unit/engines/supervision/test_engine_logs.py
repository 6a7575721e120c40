"""What engines write stands in the log under their names, with the level that it has there."""

from __future__ import annotations

import json

import pytest

from velesio_worker.core.logs import configure_logging, fields_in_log, get_logger
from velesio_worker.core.settings import LogFormat
from velesio_worker.engines.llama.server import pass_on as pass_on_llama
from velesio_worker.engines.webui.start import pass_on as pass_on_webui

LLAMA = {
    "0.00.123.456 D slot launch: id 0": "debug",
    "0.00.123.456 I srv  load: ready": "info",
    "0.00.123.456 W srv  init: no chat template": "warning",
    "0.12.345.678 E srv  send: no slot": "error",
    "ggml_cuda_init: found 1 CUDA devices:": "info",
    "": "info",
    "1 X other": "info",
}
WEBUI = {
    "2026-01-01 12:00:00 DEBUG [modules] x": "debug",
    "2026-01-01 12:00:00,123 - ControlNet - INFO - x": "info",
    "WARNING: no module xformers": "warning",
    "2026-01-01 ERROR: no model": "error",
    "CRITICAL no memory": "critical",
    "Traceback (most recent call last):": "warning",
    "RuntimeError: CUDA error: out of memory": "warning",
    "torch.cuda.OutOfMemoryError: Error while making": "warning",
    "Model loaded in 3.1s": "info",
    f"{'x' * 80} ERROR is far behind": "warning",
    "100%|##########| 20/20": "info",
}
EVERY = [
    *((pass_on_llama, "llama-server", *one) for one in LLAMA.items()),
    *((pass_on_webui, "webui", *one) for one in WEBUI.items()),
]


@pytest.mark.parametrize(("pass_on", "name", "line", "level"), EVERY)
def test_with_debug_each_line_is_there_with_its_level(
    capsys: pytest.CaptureFixture[str], pass_on: object, name: str, line: str, level: str
) -> None:
    configure_logging("DEBUG", LogFormat.JSON, worker="w1")
    assert callable(pass_on)
    with fields_in_log(engine="text"):
        pass_on(line)
    fields = json.loads(capsys.readouterr().err)
    assert (fields["logger"], fields["message"], fields["level"]) == (name, line, level)
    assert (fields["action"], fields["engine"], fields["worker"]) == ("engine_log", "text", "w1")


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("INFO", {"warning", "error", "critical"}),
        ("WARNING", {"warning", "error", "critical"}),
        ("ERROR", {"error", "critical"}),
    ],
)
def test_else_only_warnings_are_there_and_what_is_worse(
    capsys: pytest.CaptureFixture[str], level: str, shown: set[str]
) -> None:
    configure_logging(level, LogFormat.JSON)
    for line in LLAMA:
        pass_on_llama(line)
    for line in WEBUI:
        pass_on_webui(line)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == [
        text for text, its in [*LLAMA.items(), *WEBUI.items()] if its in shown
    ]


def test_what_the_worker_says_of_engines_is_not_meant(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", LogFormat.JSON)
    get_logger("velesio_worker.engines.llama.server").info("llama-server is ready", action="engine_ready")
    assert json.loads(capsys.readouterr().err)["action"] == "engine_ready"


def test_a_new_configuration_takes_back_an_old_one(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", LogFormat.JSON)
    configure_logging("INFO", LogFormat.JSON)
    pass_on_llama("0.00.123.456 I srv  load: ready")
    assert capsys.readouterr().err == ""
    configure_logging("DEBUG", LogFormat.JSON)
    pass_on_llama("0.00.123.456 I srv  load: ready")
    assert "ready" in capsys.readouterr().err


def test_what_happens_in_another_thread_carries_the_workers_name(capsys: pytest.CaptureFixture[str]) -> None:
    import threading  # noqa: PLC0415

    configure_logging("INFO", LogFormat.JSON, worker="w1")
    thread = threading.Thread(target=lambda: get_logger("x").info("hello", action="greeting"))
    thread.start()
    thread.join()
    assert json.loads(capsys.readouterr().err)["worker"] == "w1"


def test_a_lines_own_fields_win(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", LogFormat.JSON, worker="w1")
    with fields_in_log(job_id="a", attempt=1):
        get_logger("x").info("hello", action="greeting", job_id="b", worker="w2")
    fields = json.loads(capsys.readouterr().err)
    assert (fields["job_id"], fields["attempt"], fields["worker"]) == ("b", 1, "w2")
