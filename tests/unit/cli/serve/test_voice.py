"""What ``serve`` says, and what it keeps of what its parts write."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest
from rich.console import Console

from velesio_worker.cli.serve.voice import Journal, Voice


class Gone(io.StringIO):
    def write(self, _: str, /) -> int:
        raise OSError(5, "Input/output error")


def test_without_a_terminal_each_step_is_said_once() -> None:
    out = io.StringIO()
    voice = Voice(Console(file=out))
    with voice.waiting():
        for text in ("loading [red]x[/red]", "loading [red]x[/red]", "starting\x1b[2J"):
            voice.doing(text, 1.0)
    assert out.getvalue().splitlines() == ["==> loading [red]x[/red]", "==> starting\\u001b[2J"]


def test_on_a_terminal_it_is_one_line_that_moves() -> None:
    out = io.StringIO()
    voice = Voice(Console(file=out, force_terminal=True, width=60))
    with voice.waiting():
        voice.doing("loading [red]x", 3.2)
    assert "loading [red]x, 3 s" in out.getvalue()
    assert "==>" not in out.getvalue()


def test_a_terminal_that_was_closed_is_no_reason_to_stop() -> None:
    Voice(Console(file=Gone())).say("on it goes")


def test_the_journal_is_the_users_own_and_has_a_line_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path / "log", aloud=True) as journal:
        journal.of("worker")("downloading m.gguf: 10 %, 3 s [velesio] action=model_download")
        assert journal.download == "downloading m.gguf: 10 %, 3 s"
        journal.of("gateway")("a\x1b[31mb")
        assert journal.download
        journal.of("worker")("m.gguf is there action=model_downloaded")
        assert not journal.download
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[1] == "gateway | a\\u001b[31mb"
    assert capsys.readouterr().err.splitlines() == lines
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600
    journal.of("worker")("too late, and no matter")
