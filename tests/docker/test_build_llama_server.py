from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.docker.toolchains import SCRIPT, SERVER, Toolchain
from tests.support.servers import wait_until

MADE = {"llama-server", "llama-server.LICENSE", "llama-server.built", ".llama-server.lock"}


def test_without_nvcc_it_builds_for_any_cpu(tmp_path: Path) -> None:
    tools = Toolchain(tmp_path)
    code, said = tools.build(tmp_path / "binaries", BUILD_JOBS="3")
    assert code == 0, said
    configure, build = tools.commands()
    assert "-DGGML_CUDA=OFF" in configure
    assert "-DGGML_NATIVE=OFF" in configure
    assert "CUDA_ARCHITECTURES" not in configure
    assert build.endswith("--target llama-server --parallel 3")
    assert (tmp_path / "binaries" / "llama-server").read_text() == SERVER
    assert os.access(tmp_path / "binaries" / "llama-server", os.X_OK)
    assert tools.names(tmp_path / "binaries") == MADE
    assert (tmp_path / "binaries" / "llama-server.built").read_text().startswith("llama-cpp-python==")


@pytest.mark.parametrize(
    ("release", "architectures"),
    [
        ("12.4", "75-real;80-real;86-real;89-real;90"),
        ("12.8", "75-real;80-real;86-real;89-real;90;120a-real"),
        ("13.0", "75-real;80-real;86-real;89-real;90;120a-real"),
    ],
)
def test_with_nvcc_it_builds_for_the_gpus_that_this_cuda_knows(
    tmp_path: Path, release: str, architectures: str
) -> None:
    tools = Toolchain(tmp_path, nvcc=release)
    code, said = tools.build(tmp_path / "binaries")
    assert code == 0, said
    configure = tools.commands()[0]
    assert "-DGGML_CUDA=ON" in configure
    assert f"-DCMAKE_CUDA_ARCHITECTURES={architectures} " in configure


def test_the_gpus_can_be_chosen(tmp_path: Path) -> None:
    tools = Toolchain(tmp_path, nvcc="12.8")
    tools.build(tmp_path / "binaries", CUDA_ARCHITECTURES="80;90")
    assert "-DCMAKE_CUDA_ARCHITECTURES=80;90 " in tools.commands()[0]
    assert (tmp_path / "binaries" / "llama-server.built").read_text().endswith(" CUDA 80;90\n")


def test_nothing_is_downloaded_by_the_build_itself(tmp_path: Path) -> None:
    tools = Toolchain(tmp_path)
    tools.build(tmp_path / "binaries")
    for option in ("LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL"):
        assert f"-D{option}=OFF" in tools.commands()[0]


def test_a_server_that_is_there_is_left_alone(tmp_path: Path) -> None:
    tools = Toolchain(tmp_path)
    (tmp_path / "llama-server").write_text("somebody's own")
    assert tools.build(tmp_path) == (0, f"==> {tmp_path}/llama-server is there\n")
    assert (tmp_path / "llama-server").read_text() == "somebody's own"
    assert tools.commands() == []


def test_a_server_of_other_pins_or_gpus_is_kept_and_named(tmp_path: Path) -> None:
    tools = Toolchain(tmp_path, nvcc="12.8")
    tools.build(tmp_path / "binaries", CUDA_ARCHITECTURES="80")
    code, said = tools.build(tmp_path / "binaries", CUDA_ARCHITECTURES="90")
    assert code == 0
    assert "CUDA 80; remove it to have one of llama-cpp-python==" in said
    assert len(tools.commands()) == 2


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("c++", "llama-server was not built: there is no C++ compiler: apt install g++\n"),
        ("cmake", "llama-server was not built: cmake is not on PATH: apt install cmake ninja-build\n"),
    ],
)
def test_a_tool_that_is_missing_is_named_with_its_remedy(tmp_path: Path, missing: str, sentence: str) -> None:
    tools = Toolchain(tmp_path)
    (tools.programs / missing).unlink()
    code, said = tools.build(tmp_path / "binaries")
    assert code == 1
    assert said.endswith(sentence)
    assert tools.names(tmp_path / "binaries") <= {".llama-server.lock"}


def test_cuda_that_is_asked_for_is_not_left_out_in_silence(tmp_path: Path) -> None:
    code, said = Toolchain(tmp_path).build(tmp_path / "binaries", GGML_CUDA="ON")
    assert code == 1
    assert said.startswith("llama-server was not built: nvcc is not on PATH: ")


@pytest.mark.parametrize("nvcc", [None, "12.8"])
def test_a_toolkit_that_is_not_whole_is_told_with_the_remedy(tmp_path: Path, nvcc: str | None) -> None:
    tools = Toolchain(tmp_path, nvcc=nvcc)
    (tools.programs / "refuses").touch()
    code, said = tools.build(tmp_path / "binaries")
    assert code == 1
    assert "llama-server was not built: CMake refused; see above" in said
    assert ("set GGML_CUDA=OFF" in said) is (nvcc is not None)


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    tools = Toolchain(tmp_path)
    (tools.programs / "fails").touch()
    code, said = tools.build(tmp_path / "binaries")
    assert code == 1
    assert "set BUILD_JOBS lower" in said
    assert tools.names(tmp_path / "binaries") == {".llama-server.lock"}
    assert tools.names(tools.temporary) == set()


def test_a_server_that_does_not_start_is_not_put_in_place(tmp_path: Path) -> None:
    tools = Toolchain(tmp_path, server="#!/bin/sh\nexit 132\n")
    code, said = tools.build(tmp_path / "binaries")
    assert code == 1
    assert said.endswith("llama-server was not built: what was built does not start on this CPU\n")
    assert tools.names(tmp_path / "binaries") == {".llama-server.lock"}


def test_a_folder_that_cannot_be_written_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, said = Toolchain(tmp_path).build(tmp_path / "file" / "binaries")
    assert code == 1
    assert said == (
        f"llama-server was not built: user {os.getuid()} may not write into {tmp_path}/file/binaries: "
        f"chown {os.getuid()} {tmp_path}/file/binaries\n"
    )


def test_two_that_start_at_once_on_one_folder_build_once(tmp_path: Path) -> None:
    tools = Toolchain(tmp_path)
    (tools.programs / "wait").touch()
    first = tools.start(tmp_path / "binaries")
    wait_until((tools.programs / "building").exists, "the first builds")
    second = tools.start(tmp_path / "binaries")
    assert second.stdout is not None
    assert "somebody else builds" in second.stdout.readline()
    assert tools.names(tmp_path / "binaries") == {".llama-server.lock"}

    (tools.programs / "go").touch()
    assert "is ready" in first.communicate(timeout=30)[0]
    assert "is there" in second.communicate(timeout=30)[0]

    assert (first.returncode, second.returncode) == (0, 0)
    assert len(tools.commands()) == 2  # one to configure, one to build


def test_one_that_is_killed_leaves_no_half_server_and_the_next_builds(tmp_path: Path) -> None:
    tools = Toolchain(tmp_path)
    (tools.programs / "wait").touch()
    killed = tools.start(tmp_path / "binaries")
    wait_until((tools.programs / "building").exists, "it builds")
    killed.send_signal(signal.SIGKILL)
    assert tools.names(tmp_path / "binaries") == {".llama-server.lock"}
    (tools.programs / "go").touch()
    killed.communicate(timeout=30)

    code, said = tools.build(tmp_path / "binaries")

    assert code == 0, said
    assert tools.names(tmp_path / "binaries") == MADE


def test_it_says_how_it_is_used() -> None:
    done = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"usage: {SCRIPT} FOLDER | --fetch FOLDER\n"
