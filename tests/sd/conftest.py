"""The real sd-server of stable-diffusion.cpp and a tiny model for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sd.build import BINARY
from tests.sd.tiny_model import TinyModel, write_tiny_model


@pytest.fixture(scope="session")
def tiny_sd_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModel]:
    """The model's files; 78 MB, so they do not outlive the session as temporary folders do."""
    folder: Path = tmp_path_factory.mktemp("tiny-sd-model")
    yield write_tiny_model(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sd_server_command(request: pytest.FixtureRequest) -> list[str]:
    """The words that start the real server on the tiny model; the test adds ``--listen-port``.

    Without ``--cfg-scale 1`` it would run the model twice a step.
    """
    if not BINARY.exists():
        pytest.skip(f"{BINARY.name} is not in {BINARY.parent}: `make test-sd` builds it")
    model: TinyModel = request.getfixturevalue("tiny_sd_model")
    return [str(BINARY), *model.arguments(), "-t", "2", "--cfg-scale", "1"]
