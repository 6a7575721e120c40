from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from tests.support.gguf_files import MODEL, Value, gguf
from tests.support.servers import free_port
from velesio_worker.core.settings import Settings
from velesio_worker.engines.llama.command import api_key_for, check_model, engine_environment, llama_command, model_of
from velesio_worker.engines.llama.sizing import Sizing
from velesio_worker.engines.supervision.ports import check_port
from velesio_worker.wire.errors import EngineStartError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, and no llama-server anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def nowhere(_name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nowhere)
    (tmp_path / "m.gguf").write_bytes(gguf())
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


@pytest.mark.parametrize(
    ("command", "default", "argv"),
    [
        ("llama-server -m x.gguf -c 1", Path("x.gguf"), ["llama-server", "-m", "new.gguf", "-c", "1"]),
        ("llama-server --model x.gguf", Path("x.gguf"), ["llama-server", "--model", "new.gguf"]),
        ("llama-server --model=x.gguf --mlock", Path("x.gguf"), ["llama-server", "--model=new.gguf", "--mlock"]),
        ("python -m server -m x.gguf", Path("x.gguf"), ["python", "-m", "server", "-m", "new.gguf"]),
        ("llama-server -m 'my x.gguf'", Path("my x.gguf"), ["llama-server", "-m", "new.gguf"]),
        ("llama-server -hf some/model --port 1", None, ["llama-server", "-hf", "some/model", "--port", "1"]),
        ("llama-server --model", None, ["llama-server", "--model"]),
    ],
)
def test_a_startup_command_serves_another_model_by_a_change_of_its_model_only(
    command: str, default: Path | None, argv: list[str]
) -> None:
    given = settings(startup_command=command)
    assert model_of(given) == default
    assert llama_command(given, Path("new.gguf"), Sizing(1, 64)).argv == argv


def test_the_model_of_the_workers_own_server_is_the_setting() -> None:
    assert model_of(settings()) == Path("m.gguf")


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


def test_a_sizing_takes_the_place_of_the_settings(folder: Path) -> None:
    program(folder / "bin/llama-server")
    chosen = settings(context_size=4096, gpu_layers=35, llm_concurrency=2)
    given = options(list(llama_command(chosen, sizing=Sizing(20, 2048)).argv))
    assert (given["--n-gpu-layers"], given["--ctx-size"]) == ("20", "4096")
    assert "--fit" not in given


def test_layers_that_are_left_to_the_server_are_not_named(folder: Path) -> None:
    program(folder / "bin/llama-server")
    given = options(list(llama_command(settings(llm_concurrency=2), sizing=Sizing(None, 1024)).argv))
    assert (given["--fit"], given["--ctx-size"]) == ("on", "2048")
    assert "--n-gpu-layers" not in given


def test_another_model_is_served_in_the_configured_ones_place(folder: Path) -> None:
    program(folder / "bin/llama-server")
    (folder / "other.gguf").write_bytes(gguf())
    (folder / "m.gguf").unlink()
    argv = llama_command(settings(), Path("other.gguf")).argv
    assert options(list(argv))["--model"] == "other.gguf"
    assert "m.gguf" not in argv


def test_further_arguments_come_last_so_that_they_win(folder: Path) -> None:
    program(folder / "bin/llama-server")
    argv = llama_command(settings(llama_args="--lora 'my lora.gguf' --cache-ram 0")).argv
    assert list(argv[-4:]) == ["--lora", "my lora.gguf", "--cache-ram", "0"]


READING: list[tuple[dict[str, Value], list[str]]] = [
    ({}, []),
    ({"general.architecture": "bert"}, ["--embeddings"]),
    ({"llama.pooling_type": 0}, []),
    ({"llama.pooling_type": 1}, ["--embeddings"]),
    ({"llama.pooling_type": 3}, ["--embeddings"]),
    ({"llama.pooling_type": 4}, ["--rerank"]),
    ({"general.architecture": "bert", "bert.pooling_type": 4}, ["--rerank"]),
]


@pytest.mark.parametrize(("values", "flags"), READING, ids=str)
def test_a_model_that_reads_only_is_served_for_that(folder: Path, values: dict[str, Value], flags: list[str]) -> None:
    program(folder / "bin/llama-server")
    (folder / "m.gguf").write_bytes(gguf({**MODEL, **values}))
    argv = llama_command(settings()).argv
    assert [word for word in argv if word in {"--embeddings", "--rerank"}] == flags
    assert ("--ubatch-size" in argv) == bool(flags)


@pytest.mark.parametrize(
    ("trained", "context", "slots", "batch"),
    [(2048, 4096, 2, "2048"), (2048, 512, 2, "512"), (512, 4096, 3, "513"), (None, 1000, 4, "1000")],
)
def test_a_model_that_reads_only_has_a_batch_for_a_whole_input(
    folder: Path, trained: int | None, context: int, slots: int, batch: str
) -> None:
    program(folder / "bin/llama-server")
    values = {name: value for name, value in MODEL.items() if name != "llama.context_length"}
    length: dict[str, Value] = {} if trained is None else {"llama.context_length": trained}
    (folder / "m.gguf").write_bytes(gguf({**values, **length, "llama.pooling_type": 1}))
    given = options(list(llama_command(settings(context_size=context, llm_concurrency=slots)).argv))
    assert given["--batch-size"] == given["--ubatch-size"] == batch


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
    assert found.argv[:4] == [sys.executable, "-P", "-m", "velesio_worker.engines.llama.embedded"]
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
    [
        (None, "does not exist"),
        (b"", "cut off"),
        (b"GGU", "cut off"),
        (b"PK\x03\x04 zip", "no GGUF model"),
        (gguf()[:100], "cut off"),
        (gguf()[:-1], "cut off.* download it again"),
    ],
)
def test_a_model_that_is_none_is_told_by_its_setting(folder: Path, content: bytes | None, trouble: str) -> None:
    path = folder / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineStartError, match=trouble) as caught:
        llama_command(settings(model_path="bad.gguf"))
    assert "MODEL_PATH=bad.gguf" in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.final


def test_a_model_that_a_job_asked_for_is_told_by_its_name(folder: Path) -> None:
    (folder / "bad.gguf").write_bytes(gguf()[:-1])
    with pytest.raises(EngineStartError, match=r"^bad\.gguf is cut off") as caught:
        llama_command(settings(), Path("bad.gguf"))
    assert "MODEL_PATH" not in str(caught.value)


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


def test_a_whole_model_is_accepted(folder: Path) -> None:
    info = check_model(folder / "m.gguf")
    assert (info.architecture, info.embeds, info.reranks) == ("llama", False, False)


def test_the_engine_sees_its_gpus_and_none_of_its_own_variables() -> None:
    environ = {
        "HOME": "/home/me",
        "LLAMA_ARG_CTX_SIZE": "1",
        "LLAMA_ARG_HOST": "0.0.0.0",  # noqa: S104
        "LLAMA_CACHE": "/cache",
        "CUDA_VISIBLE_DEVICES": "7",
    }
    assert engine_environment(settings(cuda_visible_devices="1,2"), environ, 4242) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HOME": "/home/me",
        "LLAMA_CACHE": "/cache",
        "CUDA_VISIBLE_DEVICES": "1,2",
        "LLAMA_ARG_HOST": "127.0.0.1",
        "LLAMA_ARG_PORT": "4242",
    }


def test_a_server_of_the_workers_own_gets_a_key_of_its_own_at_each_start() -> None:
    keys = {api_key_for(settings()) for _ in range(20)}
    assert len(keys) == 20
    assert all(key is not None and len(key) >= 32 for key in keys)
    assert api_key_for(settings(llama_api_key="mine")) == api_key_for(settings(llama_api_key="mine", llama_open=True))
    assert api_key_for(settings(llama_open=True)) is None


@pytest.mark.parametrize("command", [None, "llama-server --port 4242"])
def test_the_key_stands_in_the_environment_and_in_no_argument(command: str | None, folder: Path) -> None:
    program(folder / "bin" / "llama-server")
    given = settings(startup_command=command, llama_api_key="s3cret")
    assert engine_environment(given, {"LLAMA_API_KEY": "old"}, 4242, "s3cret")["LLAMA_API_KEY"] == "s3cret"
    assert not [word for word in llama_command(given).argv if "s3cret" in word]
    assert "LLAMA_API_KEY" not in engine_environment(settings(), {"LLAMA_API_KEY": "old"}, 4242)


@pytest.mark.parametrize(("mode", "group"), [(0o775, 4242), (0o757, 0), (0o777, 4242)])
@pytest.mark.parametrize("which", ["data/binaries/llama-server", "data/binaries"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to other groups")
def test_a_local_program_that_others_may_write_is_not_started(folder: Path, which: str, mode: int, group: int) -> None:
    program(folder / "data/binaries/llama-server")
    os.chown(folder / which, 0, group)
    (folder / which).chmod(mode)
    with pytest.raises(EngineStartError, match=rf"{which} may be written by .*: chmod go-w {which}") as caught:
        llama_command(settings())
    assert caught.value.final


@pytest.mark.parametrize(("mode", "which"), [(0o1777, "data/binaries"), (0o755, "data/binaries/llama-server")])
def test_a_local_program_that_nobody_else_may_replace_is_started(folder: Path, mode: int, which: str) -> None:
    program(folder / "data/binaries/llama-server")
    (folder / which).chmod(mode)
    assert llama_command(settings()).source == "data/binaries/llama-server"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to the group 0")
def test_the_group_0_may_write_programs_as_in_containers(folder: Path) -> None:
    program(folder / "data/binaries/llama-server", 0o775)
    os.chown(folder / "data/binaries/llama-server", 1000, 0)
    assert llama_command(settings()).source == "data/binaries/llama-server"


def test_the_operator_may_number_the_gpus_otherwise() -> None:
    environ = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    assert engine_environment(settings(), environ, 4242)["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


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


def test_the_end_of_a_connection_of_a_server_that_is_gone_does_not_take_its_port() -> None:
    """As sd-server leaves it: it asks for SO_REUSEPORT, without SO_REUSEADDR."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
    accepted.close()
    with client, socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            probe.bind(("127.0.0.1", port))
    check_port(port)
