"""Fixtures for test modules that ask no sense of what a model writes: the small one made tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.support.model_files import TINY_LAYERS, tiny_model

_BRISK_LAYERS: Final = 8


@pytest.fixture(scope="session")
def model_path(small_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It is there at once, and writes a thousand tokens a second: the same ones each time."""
    return _made(small_model_path, tmp_path_factory, TINY_LAYERS)


@pytest.fixture(scope="session")
def brisk_model_path(small_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It writes 200 tokens a second: slow enough for a text to be struck in the middle. Import it as ``model_path``."""
    return _made(small_model_path, tmp_path_factory, _BRISK_LAYERS)


def _made(small: Path, factory: pytest.TempPathFactory, layers: int) -> Path:
    path = factory.getbasetemp() / f"tiny-{layers}.gguf"
    if not path.exists():
        tiny_model(small, path, layers)
    return path
