from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docker.contexts import sent_by_docker
from tests.docker.dockerfiles import ROOT
from tests.docker.ignoring import is_sent

RULES = ROOT / ".dockerignore"

NEEDED = [
    "LICENSE",
    "README.md",
    "data/binaries/README.md",
    "data/binaries/libggml.so.0",
    "data/binaries/llama-server",
    "data/binaries/llama-server.LICENSE",
    "docker/entrypoint.sh",
    "pyproject.toml",
    "requirements/gateway.txt",
    "requirements/worker.txt",
    "src/velesio_worker/__init__.py",
    "src/velesio_worker/queue/scripts/ack.lua",
]
KEPT_OUT = [
    ".env",
    ".git/config",
    ".venv/lib/python3.11/site-packages/redis/__init__.py",
    ".pytest_cache/README.md",
    "bench/run.py",
    "data/README.md",
    "data/binaries/sd-server",
    "data/binaries/sd-server-build/tools/bin/cmake",
    "data/models/text/llama-server",
    "data/models/text/model.gguf",
    "data/results/a1.png",
    "data/sd/launch.py",
    "data/sd/venv/bin/python",
    "docker/.env",
    "docker/compose.yaml",
    "docker/nginx.conf",
    "model.gguf",
    "src/velesio_worker/__pycache__/cli.cpython-311.pyc",
    "tests/conftest.py",
    "venv/bin/python",
]


@pytest.mark.parametrize("path", NEEDED)
def test_what_images_are_made_of_is_sent_to_the_build(path: str) -> None:
    assert is_sent(RULES, path)


@pytest.mark.parametrize("path", KEPT_OUT)
def test_secrets_models_environments_and_results_are_not(path: str) -> None:
    assert not is_sent(RULES, path)


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs Docker's client; no daemon")
def test_docker_reads_the_rules_as_these_tests_do(tmp_path: Path) -> None:
    for name in (*NEEDED, *KEPT_OUT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(RULES, tmp_path)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")

    sent = sent_by_docker(tmp_path)

    if sent is None:
        pytest.skip("this client builds with a plug-in only")
    assert sent - {"Dockerfile", ".dockerignore"} == set(NEEDED)
