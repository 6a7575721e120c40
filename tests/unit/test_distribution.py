"""What is published: the wheel is the whole package and nothing else, and the source builds the same wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

pytestmark = pytest.mark.processes
ROOT: Final = Path(__file__).parents[2]
LEFT_OUT: Final = {"__pycache__", "node_modules"}


def built(target: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [found] = folder.iterdir()
    return found


def files(folder: Path) -> set[str]:
    """The files of a folder of the checkout, from the top, without what is made there."""
    found = (path for path in folder.rglob("*") if path.is_file() and not LEFT_OUT & set(path.parts))
    return {str(path.relative_to(ROOT)) for path in found}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as packagers do."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    [source] = unpacked.iterdir()
    return built("wheel", source, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_is_the_package_with_its_data_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    own = {name for name in names if ".dist-info/" not in name}
    assert own == {name.removeprefix("src/") for name in files(ROOT / "src")}
    assert {PurePosixPath(name).suffix for name in own} >= {".py", ".lua", ".typed", ".html", ".css", ".js", ".woff2"}
    beside = {name.partition(".dist-info/")[2] for name in names - own}
    assert beside == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def test_the_source_has_what_it_is_tested_explained_and_shown_with(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files(ROOT / "src") <= names
    for folder in ("tests", "examples", "docs", "bench", "deploy", "docker", "tools", "requirements"):
        missing = files(ROOT / folder) - names
        assert not missing
    assert {"pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", "LICENSE", "mkdocs.yml"} <= names
    strange = [name for name in names if LEFT_OUT & set(PurePosixPath(name).parts) or name.endswith((".pyc", ".env"))]
    assert strange == []
