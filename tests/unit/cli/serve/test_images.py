"""What makes the images of ``serve``."""

from __future__ import annotations

from pathlib import Path

import pytest

from velesio_worker.cli.serve.images import find_images, startup_command
from velesio_worker.wire.errors import VelesioError


@pytest.fixture(autouse=True)
def _nothing_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_without_a_server_it_is_said_where_one_is_looked_for() -> None:
    found = find_images(None, None, {})
    assert (found.runs, found.words) == (False, ())
    assert "data/binaries" in found.said


@pytest.mark.parametrize("where", ["bin", "data/binaries"])
def test_a_server_and_a_model_are_found(tmp_path: Path, where: str) -> None:
    server = program(tmp_path / where / "sd-server")
    assert "--sd-model" in find_images(None, None, {}).said
    models = tmp_path / "data/models/image"
    models.mkdir(parents=True)
    for name in ("z.gguf", "b.safetensors", "a.txt"):
        (models / name).touch()
    found = find_images(None, None, {})
    assert found.words == (str(server), "--model", str(models / "b.safetensors"))
    assert found.runs
    assert startup_command(found, 7).endswith("b.safetensors --listen-port 7")
    other = tmp_path / "other.gguf"
    other.touch()
    assert find_images(None, other, {}).words[-1] == str(other)
    assert find_images(None, None, {"SD_MODEL_PATH": str(other)}).words[-1] == str(other)


def test_what_the_user_has_set_holds(tmp_path: Path) -> None:
    program(tmp_path / "bin/sd-server")
    assert find_images(None, None, {"SD_STARTUP_COMMAND": "mine"}) == ((), True, "images come from SD_STARTUP_COMMAND")
    assert find_images(None, None, {"SD_SERVER_URL": "http://x"}).runs
    assert not find_images(None, None, {"RUN_SD": "False", "SD_SERVER_URL": "http://x"}).runs
    program(tmp_path / "data/sd/launch.py")
    assert find_images(None, None, {}).said == "images come from data/sd"


def test_what_is_named_and_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(VelesioError, match="--sd "):
        find_images(tmp_path / "none", None, {})
    with pytest.raises(VelesioError, match="--sd-model needs"):
        find_images(None, tmp_path, {})
    with pytest.raises(VelesioError, match="no image model"):
        find_images(program(tmp_path / "x/sd-server"), tmp_path / "empty", {})
