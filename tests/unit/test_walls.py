"""The walls between rooms stand: whoever imports through one is told, whichever module it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CONTRACTS: Final[list[str]] = [
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
]
FORBIDDEN: Final = {
    "execution/performer.py": "import httpx",
    "engines/base.py": "import redis",
    "engines/llama/sse.py": "from velesio_worker.engines.webui import api",
    "queue/keys.py": "from velesio_worker.engines import base",
    "execution/closing.py": "from velesio_worker.execution import executor",
    "wire/jobs.py": "from velesio_worker.core import settings",
    "client/fanout/pump.py": "import starlette",
    "gateway/ids.py": "from velesio_worker.observability import health",
}
"""For each wall an import that it is there to refuse."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def verdicts(copy: Path) -> tuple[int, dict[str, str]]:
    """Lint a copy; returns the exit code, and what became of each contract."""
    program = Path(sys.executable).with_name("lint-imports")
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "COLUMNS": "200"}
    done = subprocess.run(
        [program, "--no-cache"], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    said = " ".join(done.stdout.split())
    found = {name: re.search(rf"{re.escape(name)} (KEPT|BROKEN)", said) for name in CONTRACTS}
    return done.returncode, {name: match.group(1) if match else said for name, match in found.items()}


def test_the_walls_are_kept(copy: Path) -> None:
    assert verdicts(copy) == (0, dict.fromkeys(CONTRACTS, "KEPT"))


def test_each_wall_refuses_an_import_that_it_is_there_to_refuse(copy: Path) -> None:
    for module, line in FORBIDDEN.items():
        path = copy / "src" / "velesio_worker" / module
        path.write_text(f"{path.read_text()}\n{line}\n")
    assert verdicts(copy) == (1, dict.fromkeys(CONTRACTS, "BROKEN"))


@pytest.mark.parametrize("module", ["execution/performer.py", "engines/base.py", "queue/keys.py"])
def test_one_forbidden_import_is_enough(copy: Path, module: str) -> None:
    path = copy / "src" / "velesio_worker" / module
    path.write_text(f"{path.read_text()}\n{FORBIDDEN[module]}\n")
    code, found = verdicts(copy)
    assert (code, "BROKEN" in found.values()) == (1, True)
