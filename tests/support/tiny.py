"""A fixture for test modules: the small model made tiny, where neither sense nor a pace is asked of what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.model_files import tiny_model


@pytest.fixture(scope="session")
def model_path(small_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It is there at once, and writes a thousand tokens a second: the same ones each time."""
    path = tmp_path_factory.getbasetemp() / "tiny.gguf"
    if not path.exists():
        tiny_model(small_model_path, path)
    return path
