"""Help, completion, colours, and what a mistyped word is told."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from tests.support.environment import base_environment
from tests.support.forks import run_forked
from tests.support.terminals import environment, in_terminal
from velesio_worker.cli import run as cli_run
from velesio_worker.cli.main import COMMANDS, command_line, load, main
from velesio_worker.queue.rights import Party

pytestmark = pytest.mark.processes

COLOUR = re.compile(r"\x1b\[[0-9;]*[34][0-9]m")


def completed(words: str, shell: str = "bash") -> list[str]:
    env = base_environment() | {"_VELESIO_WORKER_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words}
    env |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    return run_forked(env)[1].split("\n")[:-1]


def test_the_help_has_every_command_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for panel in {row.panel for row in COMMANDS.values()}:
        assert f"─ {panel} ─" in shown
    for name, row in COMMANDS.items():
        assert f"│ {name} " in shown
        assert row.help.split()[0] in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help_and_tells_of_each_option(capsys: pytest.CaptureFixture[str], name: str) -> None:
    command = load(name)
    below: dict[str, Any] = getattr(command, "commands", {})
    for words, one in [([], command), *(([word], sub) for word, sub in below.items())]:
        for option in ("--help", "-h"):
            assert main([name, *words, option]) == 0
        shown = capsys.readouterr().out
        assert one.help is not None
        assert one.help.endswith(".")
        for param in one.params:
            assert (getattr(param, "help", None) or "").endswith("."), param.name
            assert param.opts[0] in shown or (param.metavar or "") in shown
        assert "<bool>" not in shown


def test_without_a_command_the_worker_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_run, "command", lambda: 7)
    assert (main([]), main(["run"])) == (7, 7)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sumbit"], "no such command 'sumbit' (did you mean submit?): see velesio-worker --help"),
        (["xyzzy"], "no such command 'xyzzy': see velesio-worker --help"),
        (["dead", "lst"], "no such command 'lst' (did you mean list?): see velesio-worker dead --help"),
        (["settings", "--jsn"], "no such option: --jsn (did you mean --json?): see velesio-worker settings --help"),
        (["run", "now"], "got unexpected extra argument(s) (now): see velesio-worker run --help"),
        (
            ["acl", "king"],
            (
                f"invalid value for 'PARTY': 'king' is not one of {', '.join(map(repr, map(str, Party)))}: "
                "see velesio-worker acl --help"
            ),
        ),
        (
            ["submit", "--steps", "3", "hi"],
            "--steps is for --type txt2img and img2img, and not for chat_completion: see velesio-worker submit --help",
        ),
        (
            ["submit", "--type", "txt2img", "--stream", "hi"],
            (
                "--stream is for --type chat_completion and completion, and not for txt2img: "
                "see velesio-worker submit --help"
            ),
        ),
        (
            ["submit", "--type", "embedding", "--session", "one", "hi"],
            (
                "--session is for --type chat_completion and completion, and not for embedding: "
                "see velesio-worker submit --help"
            ),
        ),
        (["submit", "--type", "img2img", "hi"], "img2img needs --init-image FILE: see velesio-worker submit --help"),
        (["submit\x1b[2J"], r"no such command 'submit\x1b[2J' (did you mean submit?): see velesio-worker --help"),
    ],
)
def test_a_wrong_word_is_told_in_one_line_with_the_remedy(
    capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert main(words) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_words_are_completed() -> None:
    assert completed("velesio-worker d") == ["demo", "dead", "doctor"]
    assert completed("velesio-worker dead r") == ["retry"]
    assert completed("velesio-worker acl w") == ["worker"]
    assert completed("velesio-worker submit --type txt") == ["txt2img"]
    assert completed("velesio-worker submit --max") == ["--max-tokens"]


def test_completion_tells_what_a_command_does_and_can_be_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "acl" in completed("velesio-worker ac", "zsh")[0]
    assert "Print Redis users" in completed("velesio-worker ac", "zsh")[0]
    assert main(["--help"]) == 0
    assert "--install-completion" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--help"], ["_VELESIO_WORKER_COMPLETE"], ["settings", "--json"], ["health"]], ids=lambda words: words[0]
)
def test_what_needs_no_worker_loads_none(words: list[str]) -> None:
    code = """
import sys
from velesio_worker.__main__ import main
try:
    main()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""
    env = environment(NO_COLOR="1", HEALTH_PORT="0")
    if words[0].startswith("_"):
        env |= {words.pop(): "complete_bash", "COMP_WORDS": "velesio-worker d", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)
    loaded = set(done.stderr.split())
    assert "velesio_worker.__main__" in loaded
    assert not loaded & {"velesio_worker.worker", "velesio_worker.cli.run", "redis", "httpx", "uvicorn", "textual"}
    if words == ["health"]:
        assert not loaded & {"typer", "rich", "velesio_worker.cli.main"}


def test_colours_are_for_terminals_that_want_them() -> None:
    def shown(*words: str, **env: str) -> str:
        with in_terminal(environment(**env), *words) as terminal:
            return terminal.ended()[1]

    for words in (["--help"], ["sumbit"], ["doctor"]):
        assert COLOUR.search(shown(*words)), words
        assert not COLOUR.search(shown(*words, NO_COLOR="1")), words
        assert not COLOUR.search(shown(*words, TERM="dumb")), words
        assert "\x1b" not in "".join(map(str, run_forked(environment(), *words))), words
    assert COLOUR.search(run_forked(environment(FORCE_COLOR="1"), "sumbit")[2])
    assert not COLOUR.search(run_forked(environment(FORCE_COLOR="1", NO_COLOR="1"), "sumbit")[2])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_few_characters_has_help_and_output_too(encoding: str) -> None:
    env = environment(PYTHONIOENCODING=encoding, SD_ARGS="--höhe ☃")
    for words in (["models", "pull", "--help"], ["settings"]):
        command = [sys.executable, "-m", "velesio_worker", *words]
        done = subprocess.run(command, env=env, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode(encoding)


def test_a_fault_of_ours_has_a_plain_traceback() -> None:
    code = """
from velesio_worker.cli import acl
from velesio_worker.cli.main import main
acl.load_settings = lambda: 1 / 0
main(["acl"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(FORCE_COLOR="1"), capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert "╭" not in done.stderr
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_the_command_line_knows_all_its_commands() -> None:
    assert list(command_line().commands) == list(COMMANDS)
