"""``velesio-worker doctor``, the image side: a WebUI elsewhere, one that would be started, and where results go."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.engine import EngineDouble, document
from tests.doubles.nvml import ONE, Device, Nvml, error
from tests.doubles.webui import Setup, WebUIDouble
from tests.support.examined import GIB, look, only, program, remedy, told
from tests.support.gguf_files import gguf
from tests.support.servers import free_port
from velesio_worker.cli.doctor.command import CHECKS
from velesio_worker.cli.doctor.findings import Finding
from velesio_worker.cli.doctor.gpu import check_gpu
from velesio_worker.cli.doctor.host import check_folders, check_ports, check_results
from velesio_worker.cli.doctor.model import check_model
from velesio_worker.cli.doctor.server import check_server
from velesio_worker.cli.doctor.webui import check_webui
from velesio_worker.engines import gpu
from velesio_worker.execution.results.images import CHECK_NAME

pytestmark = pytest.mark.anyio

MODELS = "/sdapi/v1/sd-models"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small text model, and no WebUI."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "m.gguf").write_bytes(gguf())
    return tmp_path


@pytest.fixture
def home(folder: Path) -> Path:
    """A WebUI in its folder, with a venv and a model."""
    home = folder / "data/sd"
    program(home / "venv/bin/python", "exit 9")
    (home / "launch.py").touch()
    (folder / "data/models/image/sub").mkdir(parents=True)
    (folder / "data/models/image/sub/a.safetensors").touch()
    return home


async def images(**settings: Any) -> list[Finding]:
    """Look at the WebUI of a worker that runs image jobs."""
    return await look(check_webui, None, run_sd=True, **settings)


# None


async def test_image_jobs_may_be_left_to_others() -> None:
    assert told(await look(check_webui)) == ["ok"]


async def test_without_a_webui_image_jobs_wait_for_another_worker() -> None:
    (finding,) = await images()
    assert (finding.status, "{llama_queue}:image" in finding.message) == ("warning", True)
    for word in ("data/sd", "SD_STARTUP_COMMAND", "SD_SERVER_URL", "RUN_SD=false"):
        assert word in remedy(finding)


async def test_without_text_jobs_and_without_a_webui_there_is_nothing_to_run() -> None:
    (finding,) = await images(run_llm=False)
    assert (finding.status, "nothing to run" in finding.message) == ("error", True)
    assert "RUN_LLM=true" in remedy(finding)


# Elsewhere


async def test_a_webui_elsewhere_is_described_and_nothing_is_changed_there() -> None:
    with WebUIDouble(Setup(models=("a", "b", "c"))) as double:
        (finding,) = await images(sd_server_url=double.url)
        assert finding.status == "ok"
        assert finding.message == f"SD_SERVER_URL={double.url}: 3 models (a, b, c), a is loaded"
        assert (finding.facts["models"], finding.facts["loaded"], finding.facts["lacks"]) == (["a", "b", "c"], "a", [])
        assert (double.requests, double.interrupts, double.loads) == ([], [], ["a"])


@pytest.mark.parametrize(
    ("route", "loss"),
    [("progress", "no progress entries"), ("interrupt", "cancelled job"), ("options", "one model that it has loaded")],
)
async def test_what_a_webui_elsewhere_lacks_is_told_with_what_that_means(route: str, loss: str) -> None:
    with WebUIDouble(Setup(missing=frozenset({route}))) as double:
        found = await images(sd_server_url=double.url)
    assert told(found) == ["ok", "warning"]
    assert found[1].facts["lacks"] == [route]
    assert loss in found[1].message


async def test_a_webui_without_models_is_warned_of() -> None:
    with WebUIDouble(Setup(models=())) as double:
        finding = only(await images(sd_server_url=double.url), "warning")
    assert "has no model" in finding.message


@pytest.mark.parametrize(
    ("user", "what", "advice"),
    [
        ("", "wants a user and a password", "put them into SD_SERVER_URL"),
        ("me:wr0ng@", "wants another user or password", "correct those in SD_SERVER_URL"),
    ],
)
async def test_a_webui_that_wants_another_user_is_an_error(user: str, what: str, advice: str) -> None:
    with WebUIDouble(Setup(api_auth="me:s3cret")) as double:
        (finding,) = await images(sd_server_url=double.url.replace("://", f"://{user}"))
        assert told(await images(sd_server_url=double.url.replace("://", "://me:s3cret@"))) == ["ok"]
    assert finding.status == "error"
    assert what in finding.message
    assert remedy(finding).startswith(advice)
    assert "wr0ng" not in str(finding)


@pytest.mark.parametrize(
    ("answer", "status", "what", "advice"),
    [
        (document({}, 404), "error", "is no Stable Diffusion WebUI", "--api"),
        (document({}), "error", "is no Stable Diffusion WebUI", "--api"),
        (document({}, 418), "error", "status 418", "point SD_SERVER_URL at"),
        (document({}, 503), "warning", "cannot be used yet", "wait"),
    ],
)
async def test_what_is_no_webui_or_none_yet_is_told(
    double: EngineDouble, answer: Any, status: str, what: str, advice: str
) -> None:
    double.answers[MODELS] = [answer]
    (finding,) = await images(sd_server_url=double.url)
    assert finding.status == status
    assert what in finding.message
    assert advice in remedy(finding)
    assert f"curl {double.url}{MODELS}" in remedy(finding)


async def test_a_webui_that_is_not_there_or_says_nothing_is_an_error(free_url: str) -> None:
    (finding,) = await images(sd_server_url=free_url)
    assert (finding.status, "does not answer" in finding.message) == ("error", True)
    assert "SD_SERVER_URL" in remedy(finding)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (finding,) = await look(partial(check_webui, limit=0.1), run_sd=True, sd_server_url=url)
    assert (finding.status, "no answer in 0.1 s" in finding.message) == ("error", True)


# The worker's own


async def test_a_webui_in_its_folder_is_described(home: Path) -> None:
    found = await images(sd_port=7999)
    assert told(found) == ["ok", "ok"]
    assert (found[0].facts["program"], found[0].facts["port"]) == (str(home / "venv/bin/python"), 7999)
    assert found[0].facts["folder"] == str(home)
    assert "SD_MODEL_PATH" in found[1].message


async def test_a_webui_without_its_venv_is_an_error(home: Path) -> None:
    python = home / "venv/bin/python"
    python.chmod(0o644)
    (finding,) = await images()
    assert (finding.status, "make the venv" in remedy(finding)) == ("error", True)
    python.unlink()
    (finding,) = await images()
    assert (finding.status, "venv/bin/python" in finding.message) == ("error", True)
    assert "python3.10 -m venv venv" in remedy(finding)


def without_folder(folder: Path) -> None:
    (folder / "data/models/image/sub/a.safetensors").unlink()
    (folder / "data/models/image/sub").rmdir()
    (folder / "data/models/image").rmdir()


def without_model(folder: Path) -> None:
    (folder / "data/models/image/sub/a.safetensors").rename(folder / "data/models/image/a.vae.safetensors")


@pytest.mark.parametrize(
    ("change", "what", "advice"),
    [(without_folder, "is no folder", "mkdir -p"), (without_model, "holds no model", "put one there")],
)
async def test_a_webui_without_models_to_start_with_is_warned_of(
    home: Path, folder: Path, change: Callable[[Path], None], what: str, advice: str
) -> None:
    change(folder)
    finding = only(await images(), "warning")
    assert what in finding.message
    assert remedy(finding).startswith(advice)
    assert told(await images(sd_args="--ckpt-dir /elsewhere")) == ["ok"]
    models = home / "models/Stable-diffusion"
    models.mkdir(parents=True)
    (models / "b.ckpt").touch()
    assert told(await images()) == ["ok", "ok"]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("wbui --port 1 --api", "command -v wbui"),
        ("./webui.sh --port 1 --api", "command -v webui.sh"),
        ("./plain.sh --port 1 --api", "chmod +x "),
        ("ready.sh --port 1 --api", "SD_STARTUP_COMMAND='./ready.sh"),
    ],
)
async def test_a_command_that_is_no_program_is_an_error(home: Path, command: str, advice: str) -> None:
    program(home / "plain.sh", "", 0o644)
    program(home / "ready.sh", "")
    (finding,) = await images(sd_startup_command=command)
    assert (finding.status, "is no program that can be run" in finding.message) == ("error", True)
    assert advice in remedy(finding)
    assert "in /" in finding.message or not command.startswith("./")


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("python3.10 -u launch.py --api", "launch.py"),
        ("sh webui.sh --api", "webui.sh"),
        ("python3.10 /opt/none/launch.py --api", "/opt/none/launch.py"),
        ("python3.10 here.py --api", None),
        ("python3.10 -m launch --api", None),
        ("sh -c './none.sh --api'", None),
        ("env launch.py --api", None),
    ],
)
async def test_a_script_that_an_interpreter_would_not_find_is_an_error(
    folder: Path, command: str, missing: str | None
) -> None:
    for name in ("python3.10", "sh", "env"):
        program(folder / "bin" / name, "")
    (folder / "here.py").touch()
    found = await images(sd_startup_command=f"{command} --port 7000")
    assert told(found) == (["ok", "error"] if missing else ["ok"])
    assert missing is None or f"there is no {missing} in {folder}" in found[1].message
    assert missing is None or "data/sd/launch.py" in remedy(found[1])


async def test_a_command_runs_in_the_webuis_folder(home: Path) -> None:
    program(home / "webui.sh", f"touch {home}/ran")
    (finding,) = await images(sd_startup_command="./webui.sh --api --port 7000", sd_model_path="none")
    assert finding.status == "ok"
    assert (finding.facts["program"], finding.facts["port"]) == (str(home / "webui.sh"), 7000)
    assert not (home / "ran").exists()


@pytest.mark.parametrize(
    ("command", "settings", "port", "warned"),
    [
        ("webui.sh --api --port=7000", {}, 7000, None),
        ("webui.sh --api", {}, 7860, None),
        ("webui.sh --api", {"sd_port": 7001}, 7001, "add --port 7001"),
        ("webui.sh --nowebui --server-name 127.0.0.1", {"sd_port": 7001}, 7861, None),
        ("sd-server -m x", {}, 7860, "add --listen-port 7860"),
        ("sd-server -m x --listen-port 1234", {}, 1234, None),
        ("webui.sh --port 7000", {}, 7000, "add --api"),
    ],
)
async def test_the_port_that_the_worker_looks_on_is_told(
    folder: Path, command: str, settings: dict[str, Any], port: int, warned: str | None
) -> None:
    program(folder / "bin/webui.sh", "")
    program(folder / "bin/sd-server", "")
    found = await images(sd_startup_command=command, **settings)
    assert found[0].facts["port"] == port
    assert f"port {port}" in found[0].message
    assert ("without --port" in found[0].message) == ("--nowebui" in command)
    assert told(found) == (["ok", "warning"] if warned else ["ok"])
    assert warned is None or remedy(found[1]).startswith(warned)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("webui.sh --listen", "anybody on the network"),
        ("webui.sh --server-name 0.0.0.0", "on 0.0.0.0"),
        ("webui.sh --server-name=192.168.1.2", "on 192.168.1.2"),
        ("webui.sh --nowebui", "--nowebui does that"),
        ("sh -c './webui.sh --listen'", "anybody on the network"),
        ("webui.sh --share", "internet"),
        ("sd-server -l 0.0.0.0", "on 0.0.0.0"),
        ("webui.sh --listen --server-name 127.0.0.1", None),
        ("webui.sh --listen --api-auth me:s3cret", None),
        ("webui.sh --nowebui --server-name localhost", None),
        ("docker run webui --listen", None),
        ("sh -l webui.sh", None),
        ("sd-server -m x", None),
    ],
)
async def test_a_webui_that_anybody_can_use_is_warned_of(folder: Path, command: str, what: str | None) -> None:
    for name in ("webui.sh", "sd-server", "docker", "sh"):
        program(folder / "bin" / name, "")
    port = " --listen-port 7000" if "sd-server" in command else " --port 7000 --api"
    found = await images(sd_startup_command=command + port)
    assert told(found) == (["ok", "warning"] if what else ["ok"])
    assert what is None or what in found[1].message
    assert what is None or "SD_STARTUP_COMMAND" in remedy(found[1])
    assert what is None or ("--api-auth" in remedy(found[1])) == ("sd-server" not in command)  # which knows no users
    assert "s3cret" not in str(found)


@pytest.mark.usefixtures("home")
async def test_what_sd_args_opens_is_warned_of() -> None:
    finding = only(await images(sd_args="--listen --server-name 0.0.0.0"), "warning")
    assert "SD_ARGS" in remedy(finding)
    assert told(await images(sd_args="--listen")) == ["ok", "ok"]


# Ports


async def test_the_webuis_port_counts_only_where_one_would_be_started() -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        chosen: dict[str, Any] = {"llama_port": free, "sd_port": port, "run_sd": True}
        assert told(await look(check_ports, **chosen)) == ["ok"], "there is no WebUI"
        assert told(await look(check_ports, **chosen, sd_server_url=f"http://127.0.0.1:{port}")) == ["ok"]
        chosen["sd_startup_command"] = "webui.sh"
        assert told(await look(check_ports, None, **{**chosen, "run_sd": False})) == ["ok"]
        finding = only(await look(check_ports, **chosen), "error")
        assert finding.facts["port"] == port
        assert f"SD_SERVER_URL=http://127.0.0.1:{port}" in remedy(finding)
        assert f"sport = :{port}" in remedy(finding)
        (finding,) = await look(check_ports, **chosen, run_llm=False)
        assert finding.status == "error"
        chosen["sd_startup_command"] = f"webui.sh --port {free_port()}"
        assert told(await look(check_ports, **chosen)) == ["ok", "ok"], "the command's port, not SD_PORT"


async def test_two_engines_on_one_port_are_an_error() -> None:
    port = free_port()
    found = await look(check_ports, llama_port=port, sd_port=port, run_sd=True, sd_startup_command="webui.sh")
    assert "both listen" in only(found, "error").message


# Without text jobs


async def test_a_worker_of_images_alone_needs_nothing_of_the_text_side(free_url: str) -> None:
    for check in (check_model, check_server, check_ports):
        (finding,) = await look(check, run_llm=False, run_sd=True, model_path="none", sd_server_url=free_url)
        assert (finding.status, finding.remedy) == ("ok", None)
    found = await look(check_folders, run_llm=False, model_path="/proc/none/x.gguf", model_url="hf:o/r/x.gguf")
    assert "error" not in told(found)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    double = Nvml(Device(ONE, free=20 * GIB))
    monkeypatch.setattr(gpu, "pynvml", double)
    return double


async def test_gpus_are_told_of_without_what_llama_server_would_get(nvml: Nvml) -> None:
    nvml.devices[0].free = 1000
    assert told(await look(check_gpu, run_llm=False)) == ["ok"]


@pytest.mark.parametrize(
    ("settings", "status", "what"),
    [
        ({"sd_startup_command": "x"}, "warning", "text runs on the CPU and images are made on the CPU"),
        ({"sd_startup_command": "x", "run_llm": False}, "warning", "images are made on the CPU"),
        ({"sd_startup_command": "x", "run_llm": False, "cuda_visible_devices": "-1"}, "ok", "images are made on"),
        ({"sd_server_url": "http://x", "run_llm": False}, "ok", "none is needed here"),
        ({"sd_startup_command": "x", "llama_server_url": "http://x"}, "warning", "images are made on the CPU"),
    ],
)
async def test_without_nvml_whoever_would_use_a_gpu_is_told(
    nvml: Nvml, settings: dict[str, Any], status: str, what: str
) -> None:
    nvml.init = error("LIBRARY_NOT_FOUND")
    (finding,) = await look(check_gpu, run_sd=True, **settings)
    assert finding.status == status
    assert finding.message.startswith(what) or what in finding.message


# Results


async def test_a_store_that_is_not_set_is_fine() -> None:
    for run_sd in (True, False):
        assert told(await look(check_results, run_sd=run_sd)) == ["ok"]


async def test_a_folder_for_results_is_written_to_and_its_urls_are_warned_of(folder: Path) -> None:
    store = folder / "out"
    store.mkdir()
    found = await look(check_results, run_sd=True, result_store=str(store))
    assert told(found) == ["ok", "warning"]
    assert os.listdir(store) == [CHECK_NAME]  # noqa: PTH208 (names are enough)
    assert "RESULT_STORE_URL" in remedy(found[1])
    found = await look(check_results, run_sd=True, result_store=str(store), result_store_url="https://x/out")
    assert told(found) == ["ok"]


async def test_a_store_is_left_alone_where_no_images_are_made(folder: Path) -> None:
    (folder / "out").mkdir()
    (finding,) = await look(check_results, result_store="out")
    assert (finding.status, "RUN_SD=false" in finding.message) == ("ok", True)
    assert not any((folder / "out").iterdir())


@pytest.mark.parametrize(
    ("store", "what", "advice"),
    [
        ("none", "takes no file", "make the folder"),
        ("ftp://host", "must be a folder, or s3://", "correct RESULT_STORE"),
        ("s3://", "must be a folder, or s3://", "correct RESULT_STORE"),
    ],
)
async def test_a_store_that_cannot_be_used_is_an_error(store: str, what: str, advice: str) -> None:
    (finding,) = await look(check_results, run_sd=True, result_store=store)
    assert finding.status == "error"
    assert what in finding.message
    assert remedy(finding).startswith(advice)


def test_results_are_among_the_checks() -> None:
    assert CHECKS["results"] is check_results
