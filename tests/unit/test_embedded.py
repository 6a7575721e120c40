from __future__ import annotations

import math
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gguf_files import gguf
from velesio_worker.engines import command, embedded_params
from velesio_worker.engines.embedded import STOPPING, main
from velesio_worker.engines.embedded_arguments import ArgumentError, make_params, read_arguments, usage
from velesio_worker.engines.embedded_flags import ELSEWHERE, FLAGS, REMOVED, Flag
from velesio_worker.engines.embedded_params import new_params
from velesio_worker.settings import Settings

NAMES = [name for flag in FLAGS for name in (*flag.names.split(), *flag.off.split())]
VALUES = ("none", "1", "on", "auto", "linear", "distribute", "layer", "f16", "FNAME:0.5", "{}")
"""One of these is a value of any flag that takes no file."""


@pytest.fixture(autouse=True)
def _signals_are_put_back() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def values(*argv: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a command line; the last value of each flag, by its last name."""
    return {argument.flag.names.split()[-1]: argument.value for argument in read_arguments(argv, environ or {})}


def params(*argv: str) -> Any:
    """Read a command line into the wheel's CommonParams."""
    pytest.importorskip("xllamacpp")
    return make_params(read_arguments(argv, {}))


def mistake(*argv: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ArgumentError) as caught:
        read_arguments(argv, environ or {})
    return str(caught.value)


def a_value(flag: Flag, folder: Path) -> str:
    """A value that the flag takes."""
    assert flag.read is not None
    file = folder / "file"
    file.write_text("text")
    for text in (*VALUES, str(file), str(folder)):
        try:
            flag.read(text)
        except (ValueError, OSError):
            continue
        return text
    raise AssertionError(flag)


def test_the_flags_that_the_worker_gives_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(gguf())

    def server(_name: str) -> str:
        return "/bin/llama-server"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.shutil, "which", server)
    given = {"model_path": model, "context_size": 512, "llm_concurrency": 2, "llama_port": 4242, "gpu_layers": 0}
    argv = command.llama_command(Settings.model_validate(given)).argv
    found = params(*argv[1:])
    assert (found.model.path, found.n_ctx, found.n_parallel, found.n_gpu_layers) == (str(model), 1024, 2, 0)
    assert (found.hostnames, found.port) == (["127.0.0.1"], 4242)
    assert (found.endpoint_metrics, found.endpoint_slots) == (True, True)
    assert found.cache_ram_mib == command.CACHE_RAM_MIB


def test_no_name_stands_for_two_flags() -> None:
    names = [*NAMES, *ELSEWHERE, *(name for names in REMOVED for name in names.split())]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.names.split()[-1])
def test_every_flag_under_each_of_its_names_sets_what_the_wheel_has(flag: Flag, tmp_path: Path) -> None:
    value = [] if flag.read is None else [a_value(flag, tmp_path)]
    for name in (*flag.names.split(), *flag.off.split()):
        assert params(name, *value) is not None


@pytest.mark.parametrize("name", ["-ngl", "--gpu-layers", "--n-gpu-layers"])
@pytest.mark.parametrize(("text", "layers"), [("35", 35), ("0", 0), ("auto", -1), ("all", -2)])
def test_layers_are_a_number_or_auto_or_all(name: str, text: str, layers: int) -> None:
    assert values(name, text) == {"--n-gpu-layers": layers}


def test_a_long_name_may_have_underscores_and_its_value_after_an_equals_sign() -> None:
    assert values("--ctx_size", "7", "--port=1", "--chat-template=a=b_c") == {
        "--ctx-size": 7,
        "--port": 1,
        "--chat-template": "a=b_c",
    }


def test_a_value_may_look_like_a_flag() -> None:
    assert values("-n", "-1", "--alias", "--port") == {"--n-predict": -1, "--alias": ["--port"]}


def test_the_last_of_a_flag_counts() -> None:
    assert values("-c", "1", "--slots", "--ctx-size", "2", "--no-slots") == {"--ctx-size": 2, "--slots": False}


def test_host_port_and_key_come_from_the_environment_where_no_flag_names_them() -> None:
    environ = {"LLAMA_ARG_HOST": "127.0.0.9", "LLAMA_ARG_PORT": "4242", "LLAMA_API_KEY": "secret"}
    assert values(environ=environ) == {"--host": ["127.0.0.9"], "--port": 4242, "--api-key": ["secret"]}
    assert values("--host", "127.0.0.1", "--port", "1", environ=environ)["--port"] == 1


def test_a_wrong_value_in_the_environment_is_told_by_its_variable() -> None:
    assert '"LLAMA_ARG_PORT"' in mistake(environ={"LLAMA_ARG_PORT": "many"})


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--foo"], "--foo"),
        (["--foo_bar", "1"], "--foo-bar"),
        (["--foo=1"], "--foo=1"),
        (["--mlock"], "--mlock"),
        (["--para", "4"], "--para"),
        (["-c4096"], "-c4096"),
        (["-c=4096"], "-c=4096"),
        (["--metrics=on"], "--metrics=on"),
        (["stray"], "stray"),
        ([""], ""),
    ],
)
def test_a_flag_that_is_none_is_told_in_llama_servers_words(argv: list[str], said: str) -> None:
    assert mistake("-m", "x", *argv) == f"error: invalid argument: {said}"


@pytest.mark.parametrize(
    "argv",
    [
        ["--port"],
        ["--port", "many"],
        ["--port", ""],
        ["--port", "99999999999"],
        ["-np", "0"],
        ["-ngl", "many"],
        ["-fa", "maybe"],
        ["-ctk", "q9"],
        ["--pooling", "max"],
        ["--temp", "nan"],
        ["--rope-scale", "0"],
        ["--repeat-penalty", "-1"],
        ["--reasoning-budget", "-2"],
        ["--host", ","],
        ["--lora-scaled", "adapter.gguf"],
        ["--lora-scaled", "a:b:1"],
        ["--chat-template-kwargs", "[]"],
        ["--chat-template-kwargs", "{"],
        ["--chat-template-file", "missing.jinja"],
        ["--slot-save-path", "missing"],
        ["--spec-type", "magic"],
        ["--seed", "one"],
        ["-ts", "1,,x"],
    ],
)
def test_a_wrong_value_is_told_with_its_flag_and_how_it_is_used(argv: list[str]) -> None:
    said = mistake(*argv)
    assert said.startswith(f'error while handling argument "{argv[0]}": ')
    assert "usage:\n" in said
    assert "to show complete usage, run with -h" in said


@pytest.mark.parametrize("argv", [["--samplers", "\udcff"], ["-mmdev", "gpu9"], ["-ts", ",".join("1" * 200)]])
def test_a_value_that_the_wheel_refuses_is_told_with_its_flag(argv: list[str]) -> None:
    with pytest.raises(ArgumentError, match=f'argument "{argv[0]}"'):
        params(*argv)


@pytest.mark.parametrize("name", ["--rpc", "-hf", "--override-kv", "--spec-draft-device", "--fim-qwen-3b-default"])
def test_a_flag_that_only_the_binary_can_take_is_told_with_the_remedy(name: str) -> None:
    said = mistake(name, "x")
    assert said.startswith(f"error: {name}: ")
    assert "data/binaries/llama-server" in said


def test_a_flag_that_llama_server_has_removed_is_told_with_its_successor() -> None:
    assert "--spec-draft-n-max" in mistake("--draft-max", "4")


def test_a_field_that_this_wheel_does_not_have_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __slots__ = ()

    monkeypatch.setattr("velesio_worker.engines.embedded_arguments.new_params", Old)
    with pytest.raises(ArgumentError, match=r"--props.*data/binaries/llama-server"):
        make_params(read_arguments(["--props"], {}))


@pytest.mark.parametrize("argv", [["-m", "x", "--foo"], ["-m", "x", "--rpc", "y"], ["--metrics"]])
def test_what_is_not_understood_ends_it_with_exit_code_1(capfd: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert main(argv) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")


def test_help_goes_to_standard_output_and_names_every_flag(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.strip() == usage()
    assert set(NAMES) <= set(out.replace(",", " ").split())


def test_the_version_goes_to_standard_error_as_llama_servers_does(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("xllamacpp")
    assert main(["--version"]) == 0
    assert capfd.readouterr().err.startswith("version: ")


def test_a_missing_wheel_is_told_with_the_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise ModuleNotFoundError("No module named 'xllamacpp'")

    monkeypatch.setattr(embedded_params, "extension", missing)
    assert main(["-m", "x"]) == 1
    assert "pip install xllamacpp" in capfd.readouterr().err


def test_defaults_are_llama_servers() -> None:
    found = params()
    assert (found.port, found.n_parallel, found.endpoint_slots, found.endpoint_props) == (8080, -1, True, False)
    assert found.default_template_kwargs == {"preserve_reasoning": "true"}


@pytest.mark.parametrize(("cores", "threads"), [(None, None), (1, 1), (2, 1), (4, 3), (5, None), (64, None)])
def test_on_a_small_machine_a_core_is_left_to_the_others(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int | None
) -> None:
    for count in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(embedded_params.os, count, lambda: cores, raising=False)
    assert embedded_params.default_threads() == threads


def test_switches_set_and_unset() -> None:
    found = params("--no-warmup", "-nkvo", "--no-perf", "--no-slots", "--jinja", "--no-mmproj")
    assert (found.warmup, found.endpoint_slots, found.use_jinja) == (False, False, True)
    assert (found.no_kv_offload, found.no_perf, found.sampling.no_perf, found.no_mmproj) == (True, True, True, True)
    assert params("--kv-offload").no_kv_offload is False


def test_a_context_of_the_models_own_size_is_not_fitted_to_the_memory() -> None:
    assert params("-c", "4096").fit_params_min_ctx == 4096
    assert params("-c", "0").fit_params_min_ctx == -1


def test_enumerations_are_found_by_llama_servers_words() -> None:
    found = params(
        *("-fa", "on", "-ctk", "q8_0", "-ctv", "iq4_nl", "--pooling", "cls", "-sm", "row", "--rope-scaling", "yarn"),
        *("--reasoning-format", "deepseek-legacy", "-lm", "mmap+mlock", "--spec-type", "draft-simple,ngram-mod"),
    )
    assert [
        value.name.split("TYPE_")[-1]
        for value in (found.flash_attn_type, found.cache_type_k, found.cache_type_v, found.pooling_type)
    ] == ["ENABLED", "Q8_0", "IQ4_NL", "CLS"]
    assert found.split_mode.name.endswith("ROW")
    assert found.rope_scaling_type.name.endswith("YARN")
    assert found.reasoning_format.name.endswith("DEEPSEEK_LEGACY")
    assert found.load_mode.name.endswith("MMAP_MLOCK")
    assert [kind.name.split("TYPE_")[-1] for kind in found.speculative.types] == ["NONE", "DRAFT_SIMPLE", "NGRAM_MOD"]


def test_reranking_is_embedding_with_ranks() -> None:
    found = params("--reranking")
    assert (found.embedding, found.pooling_type.name) == (True, "LLAMA_POOLING_TYPE_RANK")


def test_adapters_and_keys_add_up(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# old ones\n\nc\nd\n")
    found = params("--api-key", "a,b", "--api-key-file", str(keys), "--lora", "x,y", "--lora-scaled", "z:0.5")
    assert found.api_keys == ["a", "b", "c", "d"]
    assert [(adapter.path, adapter.scale) for adapter in found.lora_adapters] == [("x", 1.0), ("y", 1.0), ("z", 0.5)]


def test_lists_for_devices_are_filled_up() -> None:
    found = params("-ts", "3,1", "-fitt", "512")
    assert [*found.tensor_split[:3], len(found.tensor_split)] == [3.0, 1.0, 0.0, len(new_params().tensor_split)]
    assert set(found.fit_params_target) == {512 * 2**20}
    two, *rest = params("-fitt", "1,2").fit_params_target[1:]
    assert (two, set(rest)) == (2 * 2**20, {2**30})


def test_sampling_that_was_asked_for_is_marked_so_that_the_models_own_does_not_replace_it() -> None:
    assert params().sampling.user_sampling_config == 0
    found = params("--temp", "-1", "--repeat-last-n", "100")
    temperature, last = 64, 128
    assert found.sampling.user_sampling_config == temperature | last
    assert (found.sampling.temp, found.sampling.penalty_last_n, found.sampling.n_prev) == (0.0, 100, 100)


def test_reasoning_is_told_to_the_template() -> None:
    found = params("--reasoning", "off", "--reasoning-effort", "high", "--no-reasoning-preserve")
    assert found.enable_reasoning == 0
    assert found.default_template_kwargs == {
        "enable_thinking": "false",
        "reasoning_effort": '"high"',
        "preserve_reasoning": "false",
    }
    undone = params("--reasoning-effort", "high", "--reasoning-effort", "default")
    assert "reasoning_effort" not in undone.default_template_kwargs
    assert params("--chat-template-kwargs", '{"a": {"b": 1}}').default_template_kwargs["a"] == '{"b": 1}'


def test_numbers_mean_what_they_mean_to_llama_server() -> None:
    found = params("-s", "-1", "--rope-scale", "4", "-to", "30", "-v", "-tb", "3")
    assert (found.sampling.seed, found.rope_freq_scale) == (2**32 - 1, 0.25)
    assert (found.timeout_read, found.timeout_write, found.verbosity) == (30, 30, 2**31 - 1)
    assert found.cpuparams_batch.n_threads == 3
    assert math.isclose(params("--temp", "0.3").sampling.temp, 0.3, rel_tol=1e-6)
    assert params("-t", "0").cpuparams.n_threads >= 1


def test_texts_are_read_from_files(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}\n")
    found = params("--chat-template-file", str(template), "--slot-save-path", str(tmp_path), "--alias", "a, b")
    assert (found.chat_template, found.slot_save_path) == ("{{ messages }}\n", f"{tmp_path}/")
    assert found.model_alias == {"a", "b"}
