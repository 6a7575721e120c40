from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from tests.servers import free_port
from velesio_worker.engines.command import check_model, check_port, engine_environment, llama_command
from velesio_worker.errors import EngineStartError
from velesio_worker.settings import Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, and no llama-server anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def nowhere(_name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nowhere)
    (tmp_path / "m.gguf").write_bytes(b"GGUF rest")
    return tmp_path


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def settings(**values: object) -> Settings:
    return Settings.model_validate({"model_path": "m.gguf", **values})


@pytest.mark.parametrize(
    ("command", "argv", "port"),
    [
        ("llama-server -m x --port 4242", ["llama-server", "-m", "x", "--port", "4242"], 4242),
        ("llama-server --port=4242 -m x", ["llama-server", "--port=4242", "-m", "x"], 4242),
        ("llama-server -m 'my model.gguf'", ["llama-server", "-m", "my model.gguf"], 5555),
        ('sh -c "exec llama-server \\"$@\\""', ["sh", "-c", 'exec llama-server "$@"'], 5555),
        ("llama-server --port", ["llama-server", "--port"], 5555),
        ("llama-server --port x --portable 7", ["llama-server", "--port", "x", "--portable", "7"], 5555),
        ("llama-server $HOME *", ["llama-server", "$HOME", "*"], 5555),
    ],
)
def test_the_startup_command_is_taken_as_it_is(command: str, argv: list[str], port: int) -> None:
    found = llama_command(settings(startup_command=command, llama_port=5555, model_path="missing.gguf"))
    assert (found.argv, found.port, found.source) == (argv, port, "STARTUP_COMMAND")
    assert found.url == f"http://127.0.0.1:{port}"


def options(argv: list[str]) -> dict[str, str]:
    return {word: following for word, following in itertools.pairwise(argv) if word.startswith("--")}


def test_the_context_is_shared_out_among_the_slots(folder: Path) -> None:
    program(folder / "bin/llama-server")
    found = llama_command(settings(context_size=1000, llm_concurrency=3, gpu_layers=12, llama_port=4321))
    given = options(list(found.argv))
    assert (given["--ctx-size"], given["--parallel"]) == ("3000", "3")
    assert (given["--n-gpu-layers"], given["--host"], given["--port"]) == ("12", "127.0.0.1", "4321")
    assert given["--model"] == "m.gguf"
    assert {"--cache-ram", "--metrics", "--slots"} <= {*found.argv}
    assert found.port == 4321


def test_there_are_four_slots_unless_the_operator_says_otherwise(folder: Path) -> None:
    program(folder / "bin/llama-server")
    given = options(list(llama_command(settings()).argv))
    assert (given["--ctx-size"], given["--parallel"], given["--n-gpu-layers"]) == (str(4096 * 4), "4", "35")


def test_the_projects_own_binary_comes_before_the_one_on_path(folder: Path) -> None:
    on_path = program(folder / "bin/llama-server")
    assert shutil.which("llama-server") == str(on_path)
    assert llama_command(settings()).argv[0] == str(on_path)
    own = program(folder / "data/binaries/llama-server")
    found = llama_command(settings())
    assert (found.argv[0], found.source) == (str(own), "data/binaries/llama-server")


def test_the_wheel_is_taken_where_there_is_no_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_the_wheel(name: str) -> object:
        return object() if name == "xllamacpp" else None

    monkeypatch.setattr(importlib.util, "find_spec", only_the_wheel)
    found = llama_command(settings())
    assert found.argv[:3] == [sys.executable, "-m", "velesio_worker.engines.embedded"]
    assert "wheel" in found.source


def test_without_any_server_the_error_says_what_to_set() -> None:
    with pytest.raises(EngineStartError) as caught:
        llama_command(settings())
    assert all(name in str(caught.value) for name in ("data/binaries", "PATH", "STARTUP_COMMAND", "LLAMA_SERVER_URL"))


def test_a_binary_that_may_not_be_run_is_told_with_its_cure(folder: Path) -> None:
    program(folder / "data/binaries/llama-server", 0o644)
    with pytest.raises(EngineStartError, match=r"chmod \+x data/binaries/llama-server"):
        llama_command(settings())


@pytest.mark.parametrize(
    ("content", "trouble"),
    [(None, "does not exist"), (b"", "no GGUF model"), (b"GGU", "no GGUF model"), (b"PK\x03\x04 zip", "no GGUF model")],
)
def test_a_model_that_is_none_is_told_by_its_setting(folder: Path, content: bytes | None, trouble: str) -> None:
    path = folder / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineStartError, match=trouble) as caught:
        llama_command(settings(model_path="bad.gguf"))
    assert "MODEL_PATH=bad.gguf" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("path", "trouble"), [(".", "is a folder"), ("m.gguf/x.gguf", "cannot be read")])
def test_a_model_path_that_is_no_file_is_told(path: str, trouble: str) -> None:
    with pytest.raises(EngineStartError, match=trouble) as caught:
        check_model(Path(path))
    assert "MODEL_PATH" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_model_that_may_not_be_read_is_told(folder: Path) -> None:
    (folder / "m.gguf").chmod(0)
    with pytest.raises(EngineStartError, match=r"MODEL_PATH=m.gguf .* cannot be read .*permissions"):
        check_model(Path("m.gguf"))


def test_a_model_is_accepted_by_its_first_bytes(folder: Path) -> None:
    check_model(folder / "m.gguf")


def test_the_engine_sees_its_gpus_and_none_of_its_own_variables() -> None:
    environ = {
        "HOME": "/home/me",
        "LLAMA_ARG_CTX_SIZE": "1",
        "LLAMA_ARG_HOST": "0.0.0.0",  # noqa: S104
        "LLAMA_CACHE": "/cache",
        "CUDA_VISIBLE_DEVICES": "7",
    }
    assert engine_environment(settings(cuda_visible_devices="1,2"), environ, 4242) == {
        "HOME": "/home/me",
        "LLAMA_CACHE": "/cache",
        "CUDA_VISIBLE_DEVICES": "1,2",
        "LLAMA_ARG_HOST": "127.0.0.1",
        "LLAMA_ARG_PORT": "4242",
    }


def test_a_taken_port_is_told_with_the_settings_that_help() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EngineStartError) as caught:
            check_port(port)
        message = str(caught.value)
        assert f"Port {port}" in message
        assert "LLAMA_PORT" in message
        assert f"LLAMA_SERVER_URL=http://127.0.0.1:{port}" in message
    check_port(port)


def test_a_free_port_is_not_taken_by_the_check() -> None:
    port = free_port()
    check_port(port)
    socket.create_server(("127.0.0.1", port)).close()
