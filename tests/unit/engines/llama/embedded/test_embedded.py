from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.gguf_files import gguf
from velesio_worker.cli.doctor.server import known_flags
from velesio_worker.core.settings import Settings
from velesio_worker.engines.llama import command
from velesio_worker.engines.llama.embedded import params as embedded_params
from velesio_worker.engines.llama.embedded.__main__ import STOPPING, main
from velesio_worker.engines.llama.embedded.params import (
    KNOWN,
    TESTED,
    ArgumentError,
    WheelError,
    check_wheel,
    read_params,
)

xllamacpp = pytest.importorskip("xllamacpp")
ROOT = Path(__file__).parents[5]


@pytest.fixture(autouse=True)
def _signals_are_put_back() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def params(*argv: str) -> Any:
    return read_params(["-m", "x.gguf", *argv])


def program(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run the server's program to its end; where llama.cpp ends the process by itself the tests must not end, too."""
    argv = (sys.executable, "-m", "velesio_worker.engines.llama.embedded", *argv)
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def wheel(**others: Any) -> Any:
    """A wheel's module that is the installed one but for some things."""
    names = ("__version__", "CommonParams", "xllamacpp")
    return SimpleNamespace(**{name: getattr(xllamacpp, name) for name in names} | others)


def test_the_flags_that_the_worker_gives_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(gguf())

    def server(_name: str) -> str:
        return "/bin/llama-server"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.shutil, "which", server)
    given = {"model_path": model, "context_size": 512, "llm_concurrency": 2, "llama_port": 4242, "gpu_layers": 0}
    argv = command.llama_command(Settings.model_validate(given)).argv
    found = read_params(argv[1:])
    assert (found.model.path, found.n_ctx, found.n_parallel, found.n_gpu_layers) == (str(model), 1024, 2, 0)
    assert (found.hostnames, found.port) == (["127.0.0.1"], 4242)
    assert (found.endpoint_metrics, found.endpoint_slots) == (True, True)
    assert found.cache_ram_mib == command.CACHE_RAM_MIB


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("-ngl 35", "n_gpu_layers", 35),
        ("--gpu-layers all", "n_gpu_layers", -2),
        ("--ctx_size 7 --ctx-size=8", "n_ctx", 8),
        ("-c 0", "fit_params_min_ctx", -1),
        ("-n -1", "n_predict", -1),
        ("--alias --port", "model_alias", {"--port"}),
        ("--slots --no-slots", "endpoint_slots", False),
        ("-nkvo", "no_kv_offload", True),
        ("-fa on", "flash_attn_type.name", "LLAMA_FLASH_ATTN_TYPE_ENABLED"),
        ("-ctv iq4_nl", "cache_type_v.name", "GGML_TYPE_IQ4_NL"),
        ("--pooling cls", "pooling_type.name", "LLAMA_POOLING_TYPE_CLS"),
        ("--rerank", "pooling_type.name", "LLAMA_POOLING_TYPE_RANK"),
        ("--api-key a,b --api-key c", "api_keys", ["a", "b", "c"]),
        ("--seed -1", "sampling.seed", 2**32 - 1),
        ("--temp -1", "sampling.temp", 0.0),
        ("--temp 0.5 --top-k 3", "sampling.user_sampling_config", 2 | 64),
        ("--rope-scale 4", "rope_freq_scale", 0.25),
        ("-to 30", "timeout_write", 30),
        ("-v", "verbosity", 2**31 - 1),
        ("-tb 3", "cpuparams_batch.n_threads", 3),
        ("--spec-draft-n-max 6", "speculative.draft.n_max", 6),
        ("-r stop", "antiprompt", ["stop"]),
    ],
)
def test_flags_set_what_they_set_in_llama_server(line: str, field: str, value: object) -> None:
    assert attrgetter(field)(params(*line.split())) == value


def test_files_and_lists_and_json_are_read(tmp_path: Path) -> None:
    template, keys = tmp_path / "t.jinja", tmp_path / "keys"
    template.write_text("{{ messages }}=é\n")
    keys.write_text("# old ones\n\nc\nd\n")
    found = params(
        *("--chat-template-file", str(template), "--api-key-file", str(keys), "--slot-save-path", str(tmp_path)),
        *("--lora-scaled", "z:0.5", "-ts", "3,1", "--chat-template-kwargs", '{"a": {"b": 1}}'),
    )
    assert (found.chat_template, found.api_keys) == (template.read_text(), ["c", "d"])
    assert found.slot_save_path == f"{tmp_path}/"
    assert [(adapter.path, adapter.scale) for adapter in found.lora_adapters] == [("z", 0.5)]
    assert math.isclose(found.tensor_split[0], 3.0)
    assert found.default_template_kwargs == {"a": '{"b":1}', "preserve_reasoning": "true"}


def test_a_path_need_not_be_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    assert params("--slot-save-path", str(folder)) is not None


def test_defaults_are_llama_servers() -> None:
    found = params()
    assert (found.port, found.n_parallel, found.endpoint_slots, found.endpoint_props) == (8080, -1, True, False)
    assert (found.api_keys, found.sampling.user_sampling_config) == ([], 0)
    assert found.default_template_kwargs == {"preserve_reasoning": "true"}


@pytest.mark.parametrize(("cores", "threads"), [(None, None), (1, 1), (2, 1), (4, 3), (5, None), (64, None)])
def test_on_a_small_machine_a_core_is_left_to_the_others(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int | None
) -> None:
    for count in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(embedded_params.os, count, lambda: cores, raising=False)
    assert embedded_params.default_threads() == threads
    if threads is not None:
        assert params().cpuparams.n_threads == params().cpuparams_batch.n_threads == threads
    assert params("-t", "9").cpuparams.n_threads == 9


def test_the_environment_counts_where_no_flag_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"LLAMA_ARG_HOST": "127.0.0.9", "LLAMA_ARG_PORT": "4242", "LLAMA_API_KEY": "secret"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = params()
    assert (found.hostnames, found.port, found.api_keys) == (["127.0.0.9"], 4242, ["secret"])
    assert params("--port", "1").port == 1
    assert {name: os.environ[name] for name in environ} == environ


def test_a_wrong_value_in_the_environment_is_told_by_its_variable(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_PORT", "many")
    assert main(["-m", "x.gguf"]) == 1
    assert capfd.readouterr().err.startswith('error while handling environment variable "LLAMA_ARG_PORT": ')


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--foo_bar", "1"], "error: invalid argument: --foo-bar\n"),
        (["--para", "4"], "error: invalid argument: --para\n"),
        (["--metrics=on"], "error: invalid argument: on\n"),
        (["stray"], "error: invalid argument: stray\n"),
        ([""], "error: invalid argument: \n"),
        (["--port"], 'error while handling argument "--port": '),
        (["--port", "many"], 'error while handling argument "--port": '),
        (["-np", "0"], 'error while handling argument "-np": '),
        (["-ctk", "q9"], 'error while handling argument "-ctk": '),
        (
            ["--draft-max", "4"],
            'error while handling argument "--draft-max": the argument has been removed. use --spec',
        ),
    ],
)
def test_a_mistake_is_told_in_llama_servers_words_with_exit_code_1(
    capfd: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert main(["-m", "x.gguf", *argv]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert not said.endswith("\n") or err == said


def test_what_ends_the_parser_ends_the_program_with_exit_code_1() -> None:
    found = program("-m", "x.gguf", "--no-jinja", "--chat-template", "{{ none }}")
    assert (found.returncode, found.stdout) == (1, "")
    assert "chat template is not supported" in found.stderr


def test_without_a_model_it_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--metrics"]) == 1
    assert capfd.readouterr().err.startswith("error: --model is required")


@pytest.mark.parametrize(
    "argv",
    [
        ["-hf", "a/b"],
        ["-mu", "http://127.0.0.1:1/m.gguf"],
        ["-dr", "a/b"],
        ["-mmu", "http://127.0.0.1:1/m.gguf"],
        ["-hfd", "a/b"],
        ["--fim-qwen-7b-spec"],
    ],
)
def test_nothing_is_fetched_from_the_network(argv: list[str]) -> None:
    with pytest.raises(ArgumentError, match=r"downloads nothing .*data/binaries/llama-server"):
        params(*argv)


def test_help_goes_to_standard_output_and_is_llama_servers() -> None:
    found = program("--help")
    assert (found.returncode, found.stderr) == (0, "")
    assert {"--model", "--parallel", "--override-kv", "--no-slots"} <= known_flags(found.stdout.splitlines())
    assert re.search(r"--port PORT .*\(default: 8080\)", found.stdout)


def test_the_version_goes_to_standard_error_as_llama_servers_does(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().err.startswith(f"version: xllamacpp {xllamacpp.__version__}\n")


def test_a_missing_wheel_is_told_with_the_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert main(["-m", "x"]) == 1
    assert "pip install xllamacpp" in capfd.readouterr().err


def test_the_wheel_that_fits_is_the_pinned_one_and_is_looked_at_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    assert f"xllamacpp=={TESTED} " in (ROOT / "requirements/xllamacpp.txt").read_text()
    check_wheel(xllamacpp)
    assert capfd.readouterr() == ("", "")


class OtherLayout:
    """A ``CommonParams`` whose fields are not where they are expected."""

    __slots__ = ("n_batch", "n_ctx", "n_predict", "n_ubatch", "speculative")


def always_the_same() -> Any:
    shared = xllamacpp.CommonParams()
    return lambda: shared


@pytest.mark.parametrize("argv", [["-m", "x.gguf"], ["--version"]])
@pytest.mark.parametrize(
    ("installed", "reason"),
    [
        (wheel(CommonParams=OtherLayout), "laid out otherwise"),
        (wheel(CommonParams=object), "no attribute"),
        (wheel(CommonParams=always_the_same()), "does not read a known command line"),
        (wheel(xllamacpp=SimpleNamespace(__file__=None)), "undefined symbol|symbol not found"),
        (wheel(xllamacpp=SimpleNamespace(__file__="/missing.so")), "missing.so"),
        (wheel(xllamacpp=None), "__file__"),
    ],
)
def test_another_wheel_is_refused_with_the_version_that_is_wanted(
    argv: list[str], installed: Any, reason: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", installed)
    assert main(argv) == 1
    said = capfd.readouterr().err
    assert re.search(reason, said)
    assert f"pip install xllamacpp=={TESTED}, or use a llama-server binary" in said


@pytest.mark.parametrize(
    "known",
    [
        {**KNOWN, "--keep 5": ("n_keep", 6)},
        {**KNOWN, "--keep 5": ("n_keep_of_another", 5)},
        {**KNOWN, "--no-such-flag": ("n_keep", 0)},
    ],
)
def test_a_parser_that_reads_otherwise_is_refused(known: dict[str, tuple[str, object]]) -> None:
    with pytest.raises(WheelError, match="too old or too new"):
        check_wheel(xllamacpp, known)


def test_a_number_that_stands_for_another_program_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_params, "SERVER", embedded_params.SERVER + 1)
    with pytest.raises(WheelError, match="does not read a known command line"):
        params()
