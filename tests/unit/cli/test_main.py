from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.environment import base_environment
from velesio_worker import __version__
from velesio_worker.cli import settings as cli_settings
from velesio_worker.cli.base import print_json, print_table
from velesio_worker.cli.main import main
from velesio_worker.core.settings import Settings
from velesio_worker.wire.errors import SettingsError, VelesioError

pytestmark = pytest.mark.processes


def test_settings_shows_every_setting_with_its_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@host:6379")
    assert main(["settings"]) == 0
    output = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"\n{name.upper()}=" in f"\n{output}"
    assert "REDIS_URL=redis://:***@host:6379" in output
    assert "from environment; default: redis://redis:6379" in output
    assert "s3cret" not in output


def test_settings_can_be_read_by_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name": "CONTEXT_SIZE", "value": "4096", "source": "default", "default": "4096"}.items() <= next(
        row for row in rows if row["name"] == "CONTEXT_SIZE"
    ).items()


def test_a_wrong_setting_is_told_and_ends_with_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_LLM", "perhaps")
    assert main(["settings"]) == 2
    assert capsys.readouterr().err == "RUN_LLM='perhaps': must be true or false\n"


def test_a_name_with_a_slip_is_pointed_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_CONCURENCY", "3")
    assert main(["settings"]) == 0
    assert "LLM_CONCURENCY is no setting; did you mean LLM_CONCURRENCY?" in capsys.readouterr().err


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "velesio_worker", "--version"]
    done = subprocess.run(command, env=base_environment(), capture_output=True, text=True, check=True)
    assert done.stdout == f"velesio-worker {__version__}\n"


def test_data_that_is_no_json_object_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--data", "[1]", "hi"]) == 2
    assert "not a JSON object" in capsys.readouterr().err


def test_submitting_without_redis_says_what_to_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert main(["submit", "hi"]) == 1
    assert "check REDIS_URL" in capsys.readouterr().err


@pytest.mark.parametrize("action", [["list"], ["show", "abcd"], ["retry", "--all"], ["drop", "abcd"]])
def test_dead_letters_without_redis_say_what_to_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, action: list[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1:1")
    assert main(["dead", *action]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Redis at redis://:***@127.0.0.1:1 does not answer")
    assert "check REDIS_URL" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing command"),
        (["show"], "missing argument 'REF'"),
        (["show", "xyz0"], "4 or more hex digits that `velesio-worker dead list` shows"),
        (["drop", ""], "4 or more hex digits"),
        (["drop", "abc"], "4 or more hex digits"),
        (["drop"], "either REF or --all is needed"),
        (["retry", "abcd", "--all"], "and not both"),
        (["show", "abcd", "--json", "--payload"], "exclude each other"),
        (["list", "--limit", "0"], "'--limit': Input should be greater than or equal to 1"),
        (["list", "--limit", "²"], "'--limit': Input should be a valid integer"),
    ],
    ids=" ".join,
)
def test_a_wrong_argument_about_dead_letters_ends_with_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["dead", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert line.endswith(f": see velesio-worker dead {' '.join(arguments[:1])}".rstrip() + " --help")


ODD = "x\n\x1b[2J\x7f\x9b\u2028\u202e"


def test_what_the_command_line_prints_of_others_words_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["a", ODD], ["b", "c"]])
    print_json({"a": ODD})
    table, whole = capsys.readouterr().out.split("{", 1)
    assert table.splitlines() == [r"a  x\n\u001b[2J\u007f\u009b\u2028\u202e", "b  c"]
    assert whole.replace("\n", "").isprintable()
    assert json.loads(f"{{{whole}") == {"a": ODD}


@pytest.mark.parametrize("error", [SettingsError, VelesioError])
def test_an_error_that_ends_a_command_is_harmless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: type[VelesioError]
) -> None:
    def fail() -> int:
        raise error(ODD)

    monkeypatch.setattr(cli_settings, "command", fail)
    assert main(["settings"]) in {1, 2}
    assert capsys.readouterr().err.replace("\n", "").isprintable()
