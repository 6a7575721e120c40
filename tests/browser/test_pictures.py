"""`make pictures` goes on working: what is on the pictures is what the product shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

MADE = {
    "chat": {"chat-dark.png", "chat-light.png"},
    "images": {"images.png"},
    "resumed": {"resumed.png"},
    "top": {"top.svg"},
}


@pytest.mark.parametrize("name", MADE)
def test_a_picture_is_made_anew(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name != "top":  # which is drawn, not taken
        request.getfixturevalue("chromium")
    command = [sys.executable, "-m", "tools.pictures", "--into", str(tmp_path), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == MADE[name]
