"""Which settings each part of ``serve`` gets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from velesio_worker.cli.serve import plan as module
from velesio_worker.cli.serve.images import Images
from velesio_worker.cli.serve.plan import Plan, choose_port, model_settings
from velesio_worker.wire.errors import VelesioError

NONE: Final = Images((), runs=False, said="")
PLAN: Final = Plan("redis://here", "127.0.0.1", 8080, 1, {"MODEL_PATH": "m.gguf"}, NONE, own_redis=True, environ={})


def test_what_the_user_has_set_holds() -> None:
    said = {"GPU_LAYERS": "7", "CONTEXT_SIZE": "512", "LLM_CONCURRENCY": "3", "DRAIN_SECONDS": "9", "REDIS_URL": "no"}
    env = replace(PLAN, environ=said).worker(1)
    assert {name: env[name] for name in said} == said | {"REDIS_URL": "redis://here"}
    assert env["MODEL_PATH"] == "m.gguf"


def test_a_file_with_another_redis_is_not_read() -> None:
    assert "REDIS_URL_FILE" not in replace(PLAN, environ={"REDIS_URL_FILE": "/run/secret"}).worker(1)


def test_with_a_redis_of_its_own_what_is_lost_goes_on_soon_and_nothing_is_waited_for_at_the_end() -> None:
    assert (PLAN.worker(1)["LEASE_SECONDS"], PLAN.gateway()["DRAIN_SECONDS"]) == ("5", "0")
    there = replace(PLAN, own_redis=False).worker(1)
    assert "LEASE_SECONDS" not in there
    assert "DRAIN_SECONDS" not in there


def test_workers_do_not_get_in_each_others_way() -> None:
    said = {"LLAMA_PORT": "1337", "HEALTH_PORT": "9090"}
    alone = replace(PLAN, environ=said).worker(1)
    assert (alone["LLAMA_PORT"], alone["HEALTH_PORT"]) == ("1337", "9090")
    first, second = (replace(PLAN, environ=said, workers=2).worker(number) for number in (1, 2))
    assert first["LLAMA_PORT"] != second["LLAMA_PORT"]
    assert (first["HEALTH_PORT"], second["HEALTH_PORT"]) == ("9090", "0")
    assert PLAN.worker(1)["HEALTH_PORT"] == "0"


def test_one_worker_alone_has_the_image_engine() -> None:
    images = Images(("sd-server", "--model", "a b"), runs=True, said="")
    first, second = (replace(PLAN, images=images, workers=2).worker(number, lambda: 77) for number in (1, 2))
    assert first["SD_STARTUP_COMMAND"] == "sd-server --model 'a b' --listen-port 77"
    assert "RUN_SD" not in first
    assert (second["RUN_SD"], PLAN.worker(1)["RUN_SD"]) == ("false", "false")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),  # noqa: S104 (not bound)
        ("::", "http://[::1]:8080"),
    ],
)
def test_the_address_is_one_that_a_browser_here_reaches(host: str, address: str) -> None:
    assert replace(PLAN, host=host).address == address
    assert replace(PLAN, host=host).gateway()["GATEWAY_HOST"] == host


def test_a_model_is_a_file_or_where_one_is_to_be_had(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.touch()
    assert model_settings(str(file), {"MODEL_URL": "https://x/y.gguf"}) == {"MODEL_PATH": str(file), "MODEL_URL": ""}
    for source in ("hf:a/b/c.gguf", "https://host/c.gguf"):
        assert model_settings(source, {}) == {"MODEL_URL": source, "MODEL_PATH": "data/models/text/c.gguf"}


@pytest.mark.parametrize("named", ["nowhere.gguf", "hf:a", "ftp://host/x.gguf", "https://host/page"])
def test_a_model_that_is_none_is_told(named: str) -> None:
    with pytest.raises(VelesioError, match="--model"):
        model_settings(named, {})


def test_without_a_model_the_small_one_is_served_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "small_model", lambda: Path("/wheel/small.gguf"))
    assert model_settings(None, {}) == {"MODEL_PATH": "/wheel/small.gguf", "GPU_LAYERS": "0"}
    assert model_settings(None, {"GPU_LAYERS": "9"})["GPU_LAYERS"] == "9"
    for name in ("MODEL_PATH", "MODEL_URL", "LLAMA_SERVER_URL", "STARTUP_COMMAND"):
        assert model_settings(None, {name: "mine"}) == {}
    monkeypatch.setattr(module, "small_model", lambda: None)
    with pytest.raises(VelesioError, match="--model"):
        model_settings(None, {})


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_wanted_port_that_is_taken_is_told_and_the_default_moves_on(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VelesioError, match=rf"port {taken} on 127.0.0.1 .* --port"):
        choose_port("127.0.0.1", taken)
    monkeypatch.setattr(module, "PORT", taken)
    assert taken < choose_port("127.0.0.1", None) < taken + module.NEXT_PORTS
    monkeypatch.setattr(module, "NEXT_PORTS", 1)
    with pytest.raises(VelesioError, match="--port"):
        choose_port("127.0.0.1", None)


def test_a_host_that_is_not_this_one_is_told() -> None:
    with pytest.raises(VelesioError, match=r"192\.0\.2\.1"):
        choose_port("192.0.2.1", 8080)
