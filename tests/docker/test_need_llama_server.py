"""What stops a build of Dockerfile.lite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docker.dockerfiles import FOLDER, Image
from tests.docker.toolchains import program

LDD = r"""#!/bin/sh
printf '\tlibc.so.6 => /lib/libc.so.6\n\tlibcuda.so.1 => not found\n\tlibggml.so.0 => not found\n'
"""


def check(folder: Path, **variables: str) -> tuple[int, str]:
    """Run what the Dockerfile runs."""
    command = [FOLDER / "need-llama-server.sh", folder]
    environment = {"PATH": os.environ["PATH"]} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stderr


def test_the_dockerfile_runs_it_on_what_it_copied() -> None:
    steps = Image("Dockerfile.lite", target="llama-server").instructions[-3:]
    assert [(step.name, step.value) for step in steps] == [
        ("COPY", "docker/need-llama-server.sh /opt/llama/"),
        ("COPY", "data/binaries/ /opt/llama/bin/"),
        ("RUN", "/opt/llama/need-llama-server.sh /opt/llama/bin"),
    ]


def test_a_missing_server_stops_the_build_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    code, said = check(tmp_path)
    assert code == 1
    assert said == (
        "data/binaries/llama-server is missing: build it (docker/build-llama-server.sh data/binaries) "
        "or copy yours there, then build this image again\n"
    )


def test_a_script_stops_the_build_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "llama-server").write_text("#!/bin/sh\n")
    code, said = check(tmp_path)
    assert code == 1
    assert said == "data/binaries/llama-server is no Linux program: it must be llama-server itself\n"


def test_a_server_that_can_start_passes_and_is_made_executable(tmp_path: Path) -> None:
    server = tmp_path / "llama-server"
    shutil.copyfile(os.path.realpath(sys.executable), server)
    assert check(tmp_path) == (0, "")
    assert os.access(server, os.X_OK)


def test_libraries_that_the_image_has_not_are_named_but_the_drivers(tmp_path: Path) -> None:
    shutil.copyfile(os.path.realpath(sys.executable), tmp_path / "llama-server")
    program(tmp_path / "bin" / "ldd", LDD)
    code, said = check(tmp_path, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert code == 1
    assert said == (
        "data/binaries/llama-server needs what this image has not; put those .so files beside it, "
        "or build it for this image:\n\tlibggml.so.0 => not found\n"
    )
