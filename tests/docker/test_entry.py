from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.docker.dockerfiles import Image
from tests.docker.images import ImageProcess, Layout
from tests.docker.pythons import may_become_others
from tests.support.servers import free_port, wait_until

pytestmark = pytest.mark.engine

Enter = Callable[..., ImageProcess]
OWN_USER = (10001, 10001)


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that any user may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="velesio-image-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def enter(redis_url: str, tmp_path: Path) -> Iterator[Enter]:
    """Run images' entry commands; all that they started is gone afterwards."""
    made: list[ImageProcess] = []

    def run(layout: Layout, user: tuple[int, int] = OWN_USER, **settings: str) -> ImageProcess:
        operator = {
            "REDIS_URL": redis_url,
            "HEALTH_PORT": str(free_port()),
            "LLM_CONCURRENCY": "1",
            "CONTEXT_SIZE": "512",
        }
        process = ImageProcess(tmp_path / "image.log", layout, operator | settings, user)
        made.append(process)
        process.start()
        return process

    yield run
    for process in made:
        process.end()


def assert_serves_and_ends(process: ImageProcess, image: Image) -> None:
    process.wait_for("worker_ready")
    _, _, command = image.last("HEALTHCHECK").partition(" CMD ")
    assert process.run(*json.loads(command)) == 0, process.log_text()
    family = psutil.Process(process.pid).children(recursive=True)
    assert process.stop() == 0, process.log_text()
    wait_until(lambda: not any(member.is_running() for member in family), "no process is left")


def test_the_demo_serves_with_its_own_model(root: Path, enter: Enter, model_path: Path) -> None:
    image = Image("Dockerfile.cpu", target="demo")
    process = enter(Layout(image, root, model_path))
    assert process.wait_for("engine_starting")["message"].endswith("the xllamacpp wheel")
    assert_serves_and_ends(process, image)


def test_the_cpu_image_serves_the_operators_model(root: Path, enter: Enter, model_path: Path) -> None:
    image = Image("Dockerfile.cpu")
    assert_serves_and_ends(enter(Layout(image, root, model_path)), image)


def test_the_lite_image_serves_with_the_server_that_was_put_in(root: Path, enter: Enter, model_path: Path) -> None:
    image = Image("Dockerfile.lite")
    layout = Layout(image, root, model_path)
    layout.lay_llama_server()
    process = enter(layout, GPU_LAYERS="0")
    assert process.wait_for("engine_starting")["message"].endswith("/opt/llama/bin/llama-server")
    assert_serves_and_ends(process, image)


def test_the_full_image_serves_with_the_server_that_was_compiled(root: Path, enter: Enter, model_path: Path) -> None:
    image = Image("Dockerfile")
    layout = Layout(image, root, model_path)
    layout.lay_llama_server()
    process = enter(layout, GPU_LAYERS="0")
    assert process.wait_for("engine_starting")["message"].endswith("/opt/llama/bin/llama-server")
    assert_serves_and_ends(process, image)


def test_the_first_start_builds_into_the_volume_and_the_next_finds_it(
    root: Path, enter: Enter, model_path: Path
) -> None:
    image = Image("Dockerfile", LLAMA_BUILD="start")
    layout = Layout(image, root, model_path)
    layout.lay_toolchain()
    process = enter(layout, GPU_LAYERS="0", GGML_CUDA="OFF")
    assert process.wait_for("engine_starting")["message"].endswith("data/binaries/llama-server")
    assert_serves_and_ends(process, image)
    built = (layout.workdir / "data/binaries/llama-server").stat()

    again = enter(layout, GPU_LAYERS="0", GGML_CUDA="OFF")
    again.wait_for("worker_ready", count=2)
    assert again.stop() == 0
    assert (layout.workdir / "data/binaries/llama-server").stat() == built
    assert "data/binaries/llama-server is there" in again.log_text()


def test_a_mounted_server_goes_before_the_built_one(root: Path, enter: Enter, model_path: Path) -> None:
    layout = Layout(Image("Dockerfile"), root, model_path)
    layout.lay_llama_server()
    shutil.copy(root / "opt/llama/bin/llama-server", layout.workdir / "data/binaries")
    process = enter(layout, GPU_LAYERS="0")
    assert process.wait_for("engine_starting")["message"].endswith("data/binaries/llama-server")


@pytest.mark.skipif(not may_become_others(), reason="only root may become another user")
def test_it_runs_as_a_user_of_the_hosts_choice(root: Path, enter: Enter, model_path: Path) -> None:
    image = Image("Dockerfile", LLAMA_BUILD="start")
    layout = Layout(image, root, model_path)
    layout.lay_toolchain()
    process = enter(layout, user=(1000660000, 0), GPU_LAYERS="0", GGML_CUDA="OFF")
    process.wait_for("worker_ready")
    assert psutil.Process(process.pid).uids().real == 1000660000
    assert (layout.workdir / "data/binaries/llama-server").stat().st_uid == 1000660000


@pytest.mark.parametrize("reason", ["RUN_LLM=false", "LLAMA_SERVER_URL=http://127.0.0.1:9", "LLAMA_BUILD=image"])
def test_nothing_is_built_where_nothing_is_needed(root: Path, enter: Enter, model_path: Path, reason: str) -> None:
    layout = Layout(Image("Dockerfile", LLAMA_BUILD="start"), root, model_path)
    layout.lay_toolchain()
    name, _, value = reason.partition("=")
    process = enter(layout, **{name: value, "SD_SERVER_URL": "http://127.0.0.1:9"})
    process.wait_for("worker_up")
    assert not (layout.workdir / "data/binaries/llama-server").exists()
    assert "==>" not in process.log_text()
