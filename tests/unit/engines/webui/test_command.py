"""How the worker's own WebUI is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from velesio_worker.core.settings import Settings
from velesio_worker.engines.webui.command import credentials_of, has_webui, webui_command, webui_environment
from velesio_worker.wire.errors import EngineStartError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**more: Any) -> Settings:
    return Settings.model_validate(more)


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


@pytest.fixture
def home(here: Path) -> Path:
    """A WebUI in its folder, installed."""
    program(here / "data/sd/launch.py")
    program(here / "data/sd/venv/bin/python")
    return here / "data/sd"


def following(argv: Any, flag: str) -> str:
    return list(argv)[list(argv).index(flag) + 1]


def test_there_is_a_webui_where_one_is_named_or_lies_in_its_folder(here: Path) -> None:
    assert not has_webui(settings())
    assert has_webui(settings(sd_server_url="http://127.0.0.1:7860"))
    assert has_webui(settings(sd_startup_command="sd-server"))
    program(here / "data/sd/launch.py")
    assert has_webui(settings())


def test_the_webui_in_its_folder_is_started_for_this_machine_alone(home: Path) -> None:
    command = webui_command(settings(sd_port=7900, sd_model_path="models/image"))
    assert command.argv[:2] == [str(home / "venv/bin/python"), "launch.py"]
    assert {"--api", "--nowebui"} < set(command.argv)
    assert following(command.argv, "--server-name") == "127.0.0.1"
    assert following(command.argv, "--port") == "7900"
    assert following(command.argv, "--ckpt-dir") == str(home.parents[1] / "models/image")
    assert "--listen" not in command.argv
    assert command.folder == home
    assert command.url == "http://127.0.0.1:7900"


def test_further_arguments_come_last(home: Path) -> None:
    command = webui_command(settings(sd_args="--medvram --vae-path 'my vae.pt'"))
    assert command.argv[-3:] == ["--medvram", "--vae-path", "my vae.pt"]
    assert command.folder == home


@pytest.mark.usefixtures("home")
def test_a_port_among_the_further_arguments_is_where_it_listens() -> None:
    assert webui_command(settings(sd_args="--port 7999")).port == 7999
    assert webui_command(settings(sd_args="--medvram")).port == 7860


def test_no_webui_at_all_is_told_with_what_to_do() -> None:
    with pytest.raises(EngineStartError, match=r"data/sd.*SD_STARTUP_COMMAND.*SD_SERVER_URL.*RUN_SD=false") as caught:
        webui_command(settings())
    assert caught.value.final


def test_a_webui_that_is_not_installed_is_told_with_what_to_do(here: Path) -> None:
    program(here / "data/sd/launch.py")
    with pytest.raises(EngineStartError, match=r"venv/bin/python: make it there .*SD_STARTUP_COMMAND") as caught:
        webui_command(settings())
    assert caught.value.final


@pytest.mark.parametrize(
    ("words", "port"),
    [
        ("webui --port 9000", 9000),
        ("webui --port=9000", 9000),
        ("sd-server --listen-port 9000", 9000),
        ("sd-server --listen-port=9000", 9000),
        ("webui --port 9000 --port 9001", 9001),
        ("webui --nowebui", 7861),
        ("webui --port 9000 --nowebui", 9000),
        ("webui --nowebui --port 9000", 9000),
        ("webui", 7860),
        ("webui --port", 7860),
        ("webui --port auto", 7860),
        ("webui --port ²", 7860),
        ("webui --portable 9000", 7860),
    ],
)
def test_a_command_listens_where_it_says_or_where_such_a_program_does(words: str, port: int) -> None:
    command = webui_command(settings(sd_startup_command=words))
    assert command.port == port
    assert command.source == "SD_STARTUP_COMMAND"


def test_a_command_without_a_port_listens_on_the_settings() -> None:
    assert webui_command(settings(sd_startup_command="webui", sd_port=7900)).url == "http://127.0.0.1:7900"


def test_a_command_is_split_as_a_shell_does() -> None:
    command = webui_command(settings(sd_startup_command="python 'my server.py' --api"))
    assert command.argv == ["python", "my server.py", "--api"]


def test_a_command_runs_in_the_webuis_folder_if_there_is_one(home: Path) -> None:
    for words in ("python launch.py", "venv/bin/python launch.py", f"{home}/venv/bin/python launch.py", "/bin/sh x.sh"):
        assert webui_command(settings(sd_startup_command=words)).folder == home
    program(home / "webui.sh")
    assert webui_command(settings(sd_startup_command="./webui.sh")).folder == home


def test_a_command_runs_here_if_there_is_no_such_folder_or_its_program_is_only_here(here: Path) -> None:
    assert webui_command(settings(sd_startup_command="python launch.py")).folder is None
    program(here / "data/sd/launch.py")
    program(here / "bin/run-sd.sh")
    assert webui_command(settings(sd_startup_command="bin/run-sd.sh")).folder is None


def test_the_environment_is_the_workers_with_the_gpus_that_it_may_see() -> None:
    environ = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "7", "PYTHONUNBUFFERED": "0"}
    made = webui_environment(settings(cuda_visible_devices="1"), environ)
    assert made == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONUNBUFFERED": "0",
    }
    assert environ["CUDA_VISIBLE_DEVICES"] == "7"


@pytest.mark.parametrize(
    ("argv", "user"),
    [
        (["webui", "--api-auth", "me:secret"], "me:secret"),
        (["webui", "--api-auth=me:secret"], "me:secret"),
        (["webui", "--api-auth", "me:secret,you:other"], "me:secret"),
        (["webui", "--api-auth", "me:se:cret"], "me:se:cret"),
        (["webui", "--api-auth"], None),
        (["webui", "--api-auth", "nonsense"], None),
        (["webui", "--gradio-auth", "me:secret"], None),
        (["webui"], None),
    ],
)
def test_the_user_that_a_webui_asks_for_is_read_off_its_command(argv: list[str], user: str | None) -> None:
    assert credentials_of(argv) == user
