from __future__ import annotations

from pathlib import Path

import pytest

from velesio_worker.engines import command
from velesio_worker.engines.embedded import main, parser
from velesio_worker.settings import Settings


def test_the_flags_that_the_worker_gives_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")

    def server(_name: str) -> str:
        return "/bin/llama-server"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.shutil, "which", server)
    values = {"model_path": model, "context_size": 512, "llm_concurrency": 2, "llama_port": 4242, "gpu_layers": 0}
    argv = command.llama_command(Settings.model_validate(values)).argv
    flags = parser().parse_args(list(argv[1:]))
    assert (flags.model, flags.ctx_size, flags.parallel, flags.gpu_layers) == (str(model), 1024, 2, 0)
    assert (flags.host, flags.port, flags.metrics, flags.slots) == ("127.0.0.1", 4242, True, True)
    assert flags.cache_ram == command.CACHE_RAM_MIB


@pytest.mark.parametrize("name", ["-ngl", "--gpu-layers", "--n-gpu-layers"])
@pytest.mark.parametrize(("text", "layers"), [("35", 35), ("0", 0), ("auto", -1), ("all", -2)])
def test_layers_are_a_number_or_auto_or_all(name: str, text: str, layers: int) -> None:
    assert parser().parse_args(["-m", "x", name, text]).gpu_layers == layers


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "x", "--mlock"],
        ["-m", "x", "--draft-max", "4"],
        ["-m", "x", "--para", "4"],
        ["-m", "x", "--n-gpu-layers", "many"],
        ["-m", "x", "--port"],
        ["-m", "x", "stray"],
        [],
    ],
)
def test_an_argument_that_is_not_understood_ends_it_as_the_binary_does(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 1
    assert "invalid argument" in capsys.readouterr().err


def test_host_and_port_come_from_the_environment_where_no_flag_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_HOST", "127.0.0.9")
    monkeypatch.setenv("LLAMA_ARG_PORT", "4242")
    flags = parser().parse_args(["-m", "x"])
    assert (flags.host, flags.port) == ("127.0.0.9", 4242)
    flags = parser().parse_args(["-m", "x", "--host", "127.0.0.1", "--port", "1"])
    assert (flags.host, flags.port) == ("127.0.0.1", 1)
