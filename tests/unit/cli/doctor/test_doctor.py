"""``velesio-worker doctor``: each check by itself, the bounds that hold them together, and what is printed."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import json
import os
import resource
import shutil
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from tests.doubles.engine import LOADING, EngineDouble, document
from tests.doubles.nvml import ONE, Device, Nvml, error
from tests.support.examined import GIB, HELP, look, only, program, remedy, told
from tests.support.gguf_files import MODEL, gguf
from tests.support.servers import free_port
from velesio_worker.cli.doctor import findings
from velesio_worker.cli.doctor.command import CHECKS, Check, examine
from velesio_worker.cli.doctor.findings import CheckReport, Finding, parted
from velesio_worker.cli.doctor.gpu import check_gpu
from velesio_worker.cli.doctor.host import check_folders, check_ports, check_settings, check_system
from velesio_worker.cli.doctor.model import check_model
from velesio_worker.cli.doctor.redis import check_redis
from velesio_worker.cli.doctor.server import check_server, known_flags, split_command, unknown_flags
from velesio_worker.cli.doctor.webui import check_webui
from velesio_worker.cli.main import main
from velesio_worker.core.settings import Settings
from velesio_worker.engines import gpu
from velesio_worker.engines.models.part_file import Origin, PartFile

pytestmark = pytest.mark.anyio
WITHOUT_CACHE = "\n".join(line for line in HELP.splitlines() if "--cache-ram" not in line)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small model, and no llama-server anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def nowhere(_name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nowhere)
    (tmp_path / "m.gguf").write_bytes(gguf())
    return tmp_path


def llama_server(folder: Path, help_text: str = HELP, version: str = "version: 4567 (abcdef0)") -> Path:
    script = f'case "$1" in --version) echo "{version}" >&2;; --help) echo "{help_text}";; *) exit 9;; esac'
    return program(folder / "bin/llama-server", script)


@pytest.mark.parametrize(
    ("text", "what", "advice"),
    [
        ("m.gguf is a folder: point there", "m.gguf is a folder", "point there"),
        ("port 1 is taken (a: b): stop it, or use http://x", "port 1 is taken (a: b)", "stop it, or use http://x"),
        ("is cut off: it has 1, needs 2: get it anew", "is cut off: it has 1, needs 2", "get it anew"),
        ("no colon at all.", "no colon at all", "else"),
        ("only (in: brackets)", "only (in: brackets)", "else"),
    ],
)
def test_an_errors_text_is_parted_from_its_remedy(text: str, what: str, advice: str) -> None:
    assert parted(text, "else") == (what, advice)


# Settings


async def test_secrets_are_hidden_and_slips_pointed_out() -> None:
    environ = {"REDIS_URL": "redis://:s3cret@host", "LLAMA_API_KEY": "s3cret", "LLM_CONCURENCY": "3"}
    found = await look(check_settings, environ, redis_url="redis://:s3cret@host", llama_api_key="s3cret")
    assert told(found) == ["ok", "warning", "warning"]
    assert "s3cret" not in str(found)
    assert found[2].message == "the password in REDIS_URL goes to host in the clear"
    assert found[0].message == "from the environment: REDIS_URL, LLAMA_API_KEY"
    assert found[0].facts["environment"] == {"REDIS_URL": "redis://:***@host", "LLAMA_API_KEY": "***"}
    assert (found[1].facts["found"], remedy(found[1])) == ("LLM_CONCURENCY", "did you mean LLM_CONCURRENCY?")


async def test_a_worker_with_nothing_to_do_is_an_error_of_its_settings() -> None:
    found = await look(check_settings, {}, run_llm=False)
    assert "RUN_LLM=false and RUN_SD=false" in only(found, "error").message
    assert remedy(found[1]) == "set one of them to true"
    assert told(await look(check_settings, {}, run_llm=False, run_sd=True)) == ["ok"]


async def test_a_token_that_cannot_be_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e4")
    found = await look(check_settings, {}, model_url="hf:o/r/m.gguf")
    assert only(found, "error").message.startswith("HF_TOKEN")


# The model


async def test_a_whole_model_is_described() -> None:
    (finding,) = await look(check_model)
    assert finding.status == "ok"
    assert finding.message.startswith("m.gguf: llama, 0.00 B parameters, 0 MiB, trained for 2048 tokens")
    assert finding.facts["training_context_length"] == 2048
    assert finding.facts["chat_template"] is True


@pytest.mark.parametrize(
    ("content", "what", "advice"),
    [
        (None, "does not exist", "velesio-worker models pull"),
        (gguf()[:-10], "is cut off", "download it again"),
        (b"PK\x03\x04", "is no GGUF model", "llama.cpp needs a .gguf file"),
    ],
    ids=["missing", "truncated", "no model"],
)
async def test_a_model_that_cannot_be_used_is_an_error(
    folder: Path, content: bytes | None, what: str, advice: str
) -> None:
    if content is not None:
        (folder / "x.gguf").write_bytes(content)
    (finding,) = await look(check_model, model_path="x.gguf")
    assert finding.status == "error"
    assert "MODEL_PATH=x.gguf" in finding.message
    assert what in finding.message
    assert advice in remedy(finding)


async def test_more_context_than_the_model_knows_is_warned_of() -> None:
    found = await look(check_model, context_size=4096)
    assert remedy(only(found, "warning")) == "CONTEXT_SIZE=2048"


@pytest.mark.parametrize(
    ("changes", "arguments", "expected"),
    [
        ({}, None, ["ok", "warning"]),
        ({}, "--chat-template chatml", ["ok"]),
        ({"llama.pooling_type": 1}, None, ["ok"]),
    ],
    ids=["none", "given", "it makes embeddings"],
)
async def test_a_model_without_chat_template_is_warned_of(
    folder: Path, changes: dict[str, Any], arguments: str | None, expected: list[str]
) -> None:
    values = {name: value for name, value in MODEL.items() if name != "tokenizer.chat_template"}
    (folder / "m.gguf").write_bytes(gguf({**values, **changes}))
    found = await look(check_model, llama_args=arguments)
    assert told(found) == expected
    assert len(found) == 1 or "--chat-template" in remedy(found[1])


async def test_a_model_that_will_be_downloaded_is_no_error() -> None:
    (finding,) = await look(check_model, model_path="none/x.gguf", model_url="hf:o/r/x.gguf")
    assert finding.status == "ok"
    assert "will be downloaded" in finding.message
    assert finding.facts["free"] > 0


async def test_too_little_room_for_a_download_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def little(_path: object) -> object:
        return SimpleNamespace(free=1000)

    monkeypatch.setattr(shutil, "disk_usage", little)
    (finding,) = await look(check_model, model_path="x.gguf", model_url="hf:o/r/x.gguf")
    assert (finding.status, "make room" in remedy(finding)) == ("warning", True)
    async with PartFile(Path("x.gguf")) as part:
        await part.begin(Origin("https://host/x.gguf", total=5000))
        await part.add(b"x" * 100)
    (finding,) = await look(check_model, model_path="x.gguf", model_url="hf:o/r/x.gguf")
    assert (finding.status, finding.facts["missing"]) == ("error", 4900)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("llama-server -m x.gguf", "error"),
        ("env A=1 llama-server -m x.gguf", "error"),
        ("docker run llama-server -m x.gguf", "warning"),
        ("python -m velesio_worker.engines.llama.embedded --model m.gguf", "ok"),
        ("numactl -m 0 llama-server --model=x.gguf", "error"),
        ("llama-server -m m.gguf", "ok"),
        ("llama-server -hf o/r", "ok"),
    ],
)
async def test_the_model_of_a_command_is_looked_at_where_it_can_be_seen(command: str, status: str) -> None:
    (finding,) = await look(check_model, startup_command=command)
    assert finding.status == status
    assert "MODEL_PATH" not in finding.message


async def test_a_server_elsewhere_needs_no_model_no_gpu_and_no_port_here() -> None:
    for check in (check_model, check_ports, check_gpu):
        (finding,) = await look(check, llama_server_url="http://127.0.0.1:1", model_path="none")
        assert (finding.status, "LLAMA_SERVER_URL" in finding.message) == ("ok", True)


# llama-server


def test_the_help_tells_the_flags_without_those_that_were_removed() -> None:
    known = known_flags(HELP.splitlines())
    assert {"-m", "--model", "-ngl", "--n-gpu-layers", "--cache-ram", "--no-slots"} <= known
    assert not known & {"--draft", "--draft-max"}


def test_flags_are_told_from_values() -> None:
    words = ["--model", "-x.gguf", "--ctx_size", "-1", "-ngl", "--fit", "on", "--port=1", "--fit", "off", "--new=1"]
    assert unknown_flags(words, known_flags(HELP.splitlines())) == ["--fit", "--new"]


@pytest.mark.parametrize(
    ("argv", "program_length"),
    [
        (["/opt/llama-server", "-m", "x"], 1),
        (["env", "A=1", "nice", "llama-server-cuda", "-m", "x"], 4),
        (["python", "-m", "velesio_worker.engines.llama.embedded", "-m", "x"], 3),
        (["sh", "-c", "exec llama-server"], None),
        (["docker", "run", "image", "llama-server", "-m", "x"], None),
        (["./llama-server.sh"], None),
        (["server"], None),
    ],
)
def test_only_what_is_llama_server_for_sure_is_asked_for_its_help(argv: list[str], program_length: int | None) -> None:
    expected = None if program_length is None else (argv[:program_length], argv[program_length:])
    assert split_command(argv) == expected


async def test_a_server_that_runs_and_knows_its_flags_is_fine(folder: Path) -> None:
    path = llama_server(folder)
    (finding,) = await look(check_server)
    assert finding.status == "ok"
    assert finding.message == f"{path}, version 4567 (abcdef0)"
    assert finding.facts == {"program": str(path), "source": str(path), "version": "4567 (abcdef0)"}


@pytest.mark.parametrize(
    ("help_text", "settings", "flag", "advice"),
    [
        (WITHOUT_CACHE, {}, "--cache-ram", "take a newer llama-server"),
        (HELP, {"gpu_sizing": "fit"}, "--fit", "GPU_SIZING=caps"),
        (HELP, {"llama_args": "--ctx-size 3 --lora x"}, "--lora", "take --lora out of LLAMA_ARGS"),
        (HELP, {"startup_command": "llama-server --draft 5"}, "--draft", "take --draft out of STARTUP_COMMAND"),
    ],
)
async def test_a_flag_that_the_server_lacks_is_an_error(
    folder: Path, help_text: str, settings: dict[str, Any], flag: str, advice: str
) -> None:
    llama_server(folder, help_text)
    finding = only(await look(check_server, **settings), "error")
    assert f"does not know the flag {flag}" in finding.message
    assert finding.facts["flag"] == flag
    assert remedy(finding).startswith(advice)


async def test_flags_are_checked_without_a_model_too(folder: Path) -> None:
    llama_server(folder, WITHOUT_CACHE)
    found = await look(check_server, model_path="none.gguf")
    assert only(found, "error").facts["flag"] == "--cache-ram"


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("echo 'error while loading shared libraries: libcudart.so.12' >&2; exit 127", "libcudart.so.12"),
        ("kill -ILL $$", "was ended by SIGILL"),
    ],
)
async def test_a_server_that_does_not_run_is_an_error(folder: Path, script: str, what: str) -> None:
    path = program(folder / "bin/llama-server", script)
    (finding,) = await look(check_server)
    assert finding.status == "error"
    assert what in finding.message
    assert f"ldd {path}" in remedy(finding)


async def test_a_server_that_hangs_is_given_up_and_killed(folder: Path) -> None:
    program(folder / "bin/llama-server", "trap '' TERM; exec /bin/sleep 60")
    began = anyio.current_time()
    (finding,) = await look(partial(check_server, limit=0.5))
    assert anyio.current_time() < began + 5
    assert (finding.status, "did not end within 0.5 s" in finding.message) == ("error", True)


async def test_a_file_that_is_no_program_is_an_error(folder: Path) -> None:
    path = folder / "bin/llama-server"
    path.parent.mkdir()
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    (finding,) = await look(check_server)
    assert (finding.status, "cannot be run" in finding.message) == ("error", True)
    assert remedy(finding) == "check that it is built for this machine"


async def test_a_help_that_tells_no_flags_is_a_warning(folder: Path) -> None:
    llama_server(folder, "no help")
    assert told(await look(check_server)) == ["ok", "warning"]


async def test_without_a_server_the_remedy_lists_the_choices() -> None:
    (finding,) = await look(check_server)
    assert (finding.status, finding.message) == ("error", "No llama-server was found")
    assert all(name in remedy(finding) for name in ("data/binaries", "PATH", "STARTUP_COMMAND", "LLAMA_SERVER_URL"))


async def test_a_binary_that_may_not_be_run_is_told_with_its_cure(folder: Path) -> None:
    program(folder / "data/binaries/llama-server", "", 0o644)
    (finding,) = await look(check_server)
    assert (finding.status, remedy(finding)) == ("error", "chmod +x data/binaries/llama-server")


async def test_a_command_that_is_no_program_is_an_error() -> None:
    (finding,) = await look(check_server, startup_command="lama-server -m x")
    assert (finding.status, "'lama-server'" in finding.message) == ("error", True)


async def test_a_wrapper_is_not_run(folder: Path) -> None:
    program(folder / "bin/start.sh", f"touch {folder}/ran")
    (finding,) = await look(check_server, startup_command="start.sh --model m.gguf")
    assert (finding.status, "cannot be checked" in finding.message) == ("ok", True)
    assert not (folder / "ran").exists()


async def test_a_server_elsewhere_is_described(double: EngineDouble) -> None:
    found = await look(check_server, llama_server_url=double.url, llm_concurrency=3, llama_api_key="s3cret")
    assert told(found) == ["ok", "warning"]
    assert (found[0].facts["model"], found[0].facts["slots"], found[0].facts["context_length"]) == (
        "tiny.Q4_1",
        2,
        2048,
    )
    assert "--parallel 3" in remedy(found[1])
    assert "s3cret" not in str(found)


@pytest.mark.parametrize(
    ("path", "answer", "status", "what", "advice"),
    [
        ("/health", document(LOADING, 503), "warning", "still loads its model", "wait"),
        ("/props", document({"error": {}}, 401), "error", "another API key", "set LLAMA_API_KEY"),
        ("/props", document({}, 404), "error", "answers /props with status 404", "point LLAMA_SERVER_URL at"),
        ("/props", document({}, 500), "error", "does not answer (status 500)", "start that server"),
    ],
)
async def test_what_is_wrong_with_a_server_elsewhere_is_told(
    double: EngineDouble, path: str, answer: Any, status: str, what: str, advice: str
) -> None:
    double.answers[path] = [answer]
    (finding,) = await look(check_server, llama_server_url=double.url)
    assert finding.status == status
    assert what in finding.message
    assert remedy(finding).startswith(advice)


async def test_a_server_elsewhere_that_is_not_there_is_an_error(free_url: str) -> None:
    (finding,) = await look(check_server, llama_server_url=free_url)
    assert (finding.status, f"curl {free_url}/health" in remedy(finding)) == ("error", True)


# GPUs


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    double = Nvml(Device(ONE, free=20 * GIB))
    monkeypatch.setattr(gpu, "pynvml", double)
    return double


async def test_gpus_are_described_with_what_llama_server_gets(nvml: Nvml) -> None:
    assert nvml
    found = await look(check_gpu)
    assert told(found) == ["ok", "ok"]
    assert found[0].message == "0 NVIDIA H100: 20,480 MiB of 81,920 MiB free; driver 570.86.15"
    assert found[0].facts["gpus"] == [
        {"index": 0, "uuid": ONE, "name": "NVIDIA H100", "total": 80 * GIB, "free": 20 * GIB}
    ]
    assert (found[1].facts["layers"], found[1].facts["context"]) == (35, 512)


async def test_a_sizing_below_what_is_configured_is_warned_of(nvml: Nvml) -> None:
    nvml.devices[0].free = 3 * GIB
    finding = only(await look(check_gpu, context_size=4096), "warning")
    assert (finding.facts["layers"], finding.facts["context"]) == (20, 2048)
    assert "GPU_SIZING=fit" in remedy(finding)


@pytest.mark.parametrize(
    ("layers", "sizing", "expected"), [(35, "off", ["warning"]), (1, "off", []), (35, "fit", []), (0, "off", [])]
)
async def test_a_model_larger_than_the_free_memory_is_warned_of(
    nvml: Nvml, layers: int, sizing: str, expected: list[str]
) -> None:
    nvml.devices[0].free = len(gguf()) // 2
    found = await look(check_gpu, gpu_layers=layers, gpu_sizing=sizing)
    assert told(found) == ["ok", "ok", *expected]
    assert not expected or "lower GPU_LAYERS" in remedy(found[2])


@pytest.mark.parametrize(
    ("settings", "status"), [({}, "warning"), ({"gpu_layers": 0}, "ok"), ({"cuda_visible_devices": "-1"}, "ok")]
)
async def test_without_nvml_text_runs_on_the_cpu(nvml: Nvml, settings: dict[str, Any], status: str) -> None:
    nvml.init = error("LIBRARY_NOT_FOUND")
    (finding,) = await look(check_gpu, **settings)
    assert (finding.status, finding.facts["gpus"]) == (status, [])
    assert "text runs on the CPU" in finding.message
    assert (finding.remedy is None) == (status == "ok")


async def test_a_choice_of_gpus_that_names_none_is_an_error(nvml: Nvml) -> None:
    assert nvml
    (finding,) = await look(check_gpu, cuda_visible_devices="7")
    assert (finding.status, "CUDA_VISIBLE_DEVICES='7'" in finding.message, ONE in finding.message) == (
        "error",
        True,
        True,
    )
    assert "nvidia-smi -L" in remedy(finding)


# This machine


async def test_a_taken_port_is_an_error_that_says_who_to_ask() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ways: list[dict[str, Any]] = [{"llama_port": port}, {"startup_command": f"llama-server --port {port}"}]
        for settings in ways:
            (finding,) = await look(check_ports, **settings)
            assert (finding.status, finding.facts["port"]) == ("error", port)
            assert f"LLAMA_SERVER_URL=http://127.0.0.1:{port}" in remedy(finding)
            assert f"sport = :{port}" in remedy(finding)
    assert told(await look(check_ports, llama_port=port)) == ["ok"]


@pytest.mark.parametrize(
    ("asked", "status"), [({"health_port": 9090}, "error"), ({}, "warning")], ids=["asked-for", "by-default"]
)
async def test_a_taken_health_port_matters_where_it_was_asked_for(
    asked: dict[str, Any], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listen(_host: str, _port: int) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr("velesio_worker.cli.doctor.host.HealthListener", listen)
    elsewhere = {"llama_server_url": "http://127.0.0.1:1", "run_sd": False}
    report = CheckReport("port", Settings.model_validate(elsewhere | asked), {})
    check_ports(report)
    finding = report.findings[0]
    assert finding.status == status
    assert "HEALTH_PORT=9090" in finding.message
    assert "sport = :9090" in remedy(finding)


async def test_a_free_health_port_is_said_to_be_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = await look(check_ports, health_port=port, llama_server_url="http://127.0.0.1:1")
    assert told(found) == ["ok", "ok"]
    assert f"HEALTH_PORT={port} is free" in found[0].message


@pytest.fixture
def temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    path = folder / "tmp"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


async def test_folders_are_described(temporary: Path) -> None:
    (finding,) = await look(check_folders)
    assert (finding.status, finding.facts["temporary"]) == ("ok", str(temporary))
    assert not [path async for path in anyio.Path(temporary).iterdir()]


async def test_a_notes_folder_that_cannot_be_used_is_warned_of(temporary: Path) -> None:
    (temporary / f"velesio-worker-{os.getuid()}").write_text("no folder")
    (finding,) = await look(check_folders)
    assert (finding.status, "TMPDIR=" in remedy(finding)) == ("warning", True)


async def test_folders_that_may_not_be_written_to_are_told(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary

    def refused(_path: object, _mode: int) -> bool:
        return False

    monkeypatch.setattr(os, "access", refused)
    found = await look(check_folders, model_path="models/x.gguf", model_url="hf:o/r/x.gguf")
    assert told(found) == ["error", "warning"]
    assert "chown" in remedy(found[0])
    assert told(await look(check_folders, model_url="hf:o/r/m.gguf")) == ["warning"]  # the model is there


async def test_little_room_for_temporary_files_is_warned_of(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def little(_path: object) -> object:
        return SimpleNamespace(free=1000)

    monkeypatch.setattr(shutil, "disk_usage", little)
    (finding,) = await look(check_folders)
    assert (finding.status, remedy(finding)) == ("warning", f"make room: df -h {temporary}")


async def test_what_is_installed_is_a_fact_and_few_files_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def limits(_which: int) -> tuple[int, int]:
        return 256, 4096

    def missing(_name: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(resource, "getrlimit", limits)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    found = await look(check_system)
    assert told(found) == ["ok", "warning"]
    assert found[0].message.startswith("Python 3.")
    assert "velesio-worker[fast]" in found[0].message
    assert (found[0].facts["uvloop"], found[0].facts["open_files"]) == (None, 256)
    assert "ulimit -n" in remedy(found[1])


# All together


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    """What blocks until the test is over."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_check_that_blocks_or_fails_is_a_finding_among_the_others(blocked: threading.Event) -> None:
    def blocks(report: CheckReport) -> None:
        report.ok("begun")
        blocked.wait()

    async def hangs(report: CheckReport) -> None:
        report.ok("begun")
        await anyio.sleep_forever()

    async def fails(_: CheckReport) -> None:
        raise ValueError("a slip")

    def works(report: CheckReport) -> None:
        report.ok("fine")

    checks: dict[str, Check] = {"blocks": blocks, "hangs": hangs, "fails": fails, "works": works}
    shown: list[Finding] = []
    with anyio.fail_after(60):
        await examine(Settings(), {}, shown.append, checks, limit=0.5)
    assert [(finding.check, finding.status) for finding in shown] == [
        ("blocks", "ok"),
        ("blocks", "error"),
        ("hangs", "ok"),
        ("hangs", "error"),
        ("fails", "error"),
        ("works", "ok"),
    ]
    assert shown[1].message == shown[3].message == "no answer within 0.5 s"
    assert "ValueError: a slip" in shown[4].message


async def test_checks_run_side_by_side_and_are_shown_in_order() -> None:
    last_ran = anyio.Event()

    async def waits(report: CheckReport) -> None:
        await last_ran.wait()
        report.ok("first")

    async def comes(report: CheckReport) -> None:
        report.ok("last")
        last_ran.set()

    shown: list[Finding] = []
    await examine(Settings(), {}, shown.append, {"one": waits, "two": comes})
    assert [finding.message for finding in shown] == ["first", "last"]


async def test_a_name_server_that_does_not_answer_holds_up_nothing(
    blocked: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(*_: object, **__: object) -> list[Any]:
        blocked.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    monkeypatch.setattr(findings, "RESOLVE_SECONDS", 0.2)
    asking: list[tuple[Check, dict[str, Any]]] = [
        (check_redis, {"redis_url": "redis+sentinel://one,two/m"}),
        (check_server, {"llama_server_url": "http://one"}),
        (check_webui, {"run_sd": True, "sd_server_url": "http://one"}),
    ]
    for check, settings in asking:
        found = await look(check, **settings)
        assert all("no name server answered" in finding.message for finding in found)


async def test_a_host_without_address_is_told_with_an_example() -> None:
    (finding,) = await look(check_redis, redis_url="redis://:s3cret@redis.invalid")
    assert finding.status == "error"
    assert "the host 'redis.invalid' of REDIS_URL=redis://:***@redis.invalid is not known" in finding.message
    assert "REDIS_URL=redis://127.0.0.1:6379" in remedy(finding)


# The command


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that lacks nearly everything."""
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@127.0.0.1:1")
    monkeypatch.setenv("MODEL_PATH", "none.gguf")
    monkeypatch.setenv("GPU_LAYERS", "0")
    monkeypatch.setenv("LLAMA_PORT", str(free_port()))


@pytest.mark.usefixtures("broken")
def test_there_is_a_line_for_each_finding_with_its_remedy_below(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("ok       settings      from the environment: ")
    index = next(index for index, line in enumerate(lines) if line.startswith("error    Redis         Redis at"))
    assert lines[index + 1].startswith("         → check REDIS_URL")
    assert lines[-1] == "The worker cannot work: 3 errors."
    assert "\x1b" not in captured.out
    assert "s3cret" not in captured.out
    assert captured.err == ""


@pytest.mark.usefixtures("broken")
def test_a_program_reads_a_list_of_objects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert list(dict.fromkeys(row["check"] for row in rows)) == list(CHECKS)
    for row in rows:
        assert row["status"] in {"ok", "warning", "error"}
        assert row["message"]
        assert (row["remedy"] is None) == (row["status"] == "ok")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_wrong_settings_are_findings_and_end_with_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "http://:s3cret@host")
    monkeypatch.setenv("LLAMA_PORT", "x")
    assert main(["doctor", *form]) == 2
    captured = capsys.readouterr()
    assert "s3cret" not in captured.out
    if form:
        first, second = json.loads(captured.out)
        assert (first["check"], first["status"], first["remedy"].split(",")[0]) == (
            "settings",
            "error",
            "correct REDIS_URL",
        )
        assert second["message"] == "LLAMA_PORT='x': must be a whole number"
    else:
        assert captured.out.endswith("The worker cannot work: 2 errors.\n")


def test_what_files_and_servers_say_cannot_steer_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(folder / "m.gguf"))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    llama_server(folder, version="version: \x1b[2J1")
    main(["doctor"])
    output = capsys.readouterr().out
    assert "\\u001b[2J1" in output
    assert "\x1b" not in output
