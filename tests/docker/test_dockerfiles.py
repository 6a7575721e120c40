from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.dockerfiles import DOCKERFILES, FOLDER, ROOT, Image, copies, filled, read
from tests.docker.ignoring import is_sent
from velesio_worker import __version__
from velesio_worker.core.settings import Settings

IMAGES = {
    "full": Image("Dockerfile"),
    "full-start": Image("Dockerfile", LLAMA_BUILD="start"),
    "lite": Image("Dockerfile.lite"),
    "cpu": Image("Dockerfile.cpu"),
    "demo": Image("Dockerfile.cpu", target="demo"),
}
COMPILERS = {"build-essential", "clang", "cmake", "g++", "gcc", "make", "ninja-build", "python3-dev"}

every_image = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [hadolint, "--config", FOLDER / ".hadolint.yaml", *DOCKERFILES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@every_dockerfile
def test_every_base_has_an_exact_tag(path: Path) -> None:
    defaults, stages = read(path)
    names = {stage.name for stage in stages} | {"scratch", *(f"llama-{when}" for when in ("image", "start"))}
    bases = {filled(stage.base, defaults) for stage in stages} - names
    assert bases
    for base in bases:
        _, _, tag = base.partition(":")
        assert tag.count(".") >= 2, base
        assert "latest" not in tag


@every_dockerfile
def test_what_is_copied_is_there_and_reaches_the_build(path: Path) -> None:
    for stage in read(path)[1]:
        for copy in copies(stage.instructions):
            for source in () if copy.stage else copy.sources:
                place = ROOT / source
                inside = sorted(place.rglob("*.py")) or [place / "README.md"] if place.is_dir() else [place]
                for file in inside:
                    assert file.is_file(), f"{path.name}: COPY {source}"
                    assert is_sent(ROOT / ".dockerignore", str(file.relative_to(ROOT))), f"{file} is ignored"


@every_dockerfile
def test_every_python_package_is_checked_against_its_hash(path: Path) -> None:
    runs = [step.value for stage in read(path)[1] for step in stage.instructions if step.name == "RUN"]
    installs = [step for run in runs for step in run.split("&&") if "pip install" in step]
    assert installs
    assert all("--require-hashes" in step or "--no-index" in step for step in installs), installs


@every_image
def test_it_runs_as_a_numbered_user_who_is_not_root(image: Image) -> None:
    user, _, group = image.last("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


@every_image
def test_any_user_of_group_0_may_write_into_data(image: Image) -> None:
    assert image.last("WORKDIR") == "/app"
    assert any("install -d -o 10001 -g 0 -m 0775 /app/data /app/data/binaries" in run for run in image.all("RUN"))


@every_image
def test_tini_is_its_first_process_and_sigterm_stops_it(image: Image) -> None:
    assert image.entrypoint()[:2] == ["tini", "--"]
    assert any("tini" in run.split() for run in image.all("RUN"))
    assert image.last("STOPSIGNAL") == "SIGTERM"


@every_image
def test_its_health_is_asked_from_the_worker_and_loading_has_time(image: Image) -> None:
    options, _, command = image.last("HEALTHCHECK").partition(" CMD ")
    assert command == '["velesio-worker", "health"]'
    assert any(f"--start-period={period}" in options for period in ("10m", "2h"))


@every_image
def test_its_health_port_is_named_but_closed_to_the_outside(image: Image) -> None:
    assert image.last("EXPOSE") == str(Settings.model_fields["health_port"].default)
    assert image.environment()["HEALTH_HOST"] == "127.0.0.1"


@every_image
def test_its_labels_say_what_it_is(image: Image) -> None:
    labels = image.labels()
    assert {"title", "description", "version", "revision", "source", "licenses"} <= labels.keys()
    assert labels["version"] == __version__
    assert labels["licenses"] == "MIT"


@pytest.mark.parametrize("name", ["full", "lite", "cpu", "demo"])
def test_there_is_no_compiler_in_it(name: str) -> None:
    words = {word for run in IMAGES[name].all("RUN") for word in run.split()}
    assert not words & COMPILERS


def test_only_the_image_that_builds_at_its_first_start_has_a_compiler() -> None:
    assert any("g++" in run.split() for run in IMAGES["full-start"].all("RUN"))
    assert IMAGES["full-start"].base.split(":")[1].endswith("-devel-ubuntu24.04")
    assert IMAGES["full"].base.split(":")[1].endswith("-runtime-ubuntu24.04")


@pytest.mark.parametrize("name", ["full", "full-start", "lite", "cpu"])
def test_there_is_no_model_in_it(name: str) -> None:
    image = IMAGES[name]
    assert not any("gguf" in step.value or "model.txt" in step.value for step in image.instructions)
    assert "MODEL_PATH" not in image.environment()


def test_the_demo_has_the_model_of_the_pinned_wheel(model_path: Path) -> None:
    copy = next(copy for copy in copies(IMAGES["demo"].instructions) if copy.stage == "model")
    assert Path(copy.sources[0]).name == model_path.name
    assert IMAGES["demo"].environment()["MODEL_PATH"] == copy.destination + model_path.name


@every_image
def test_no_setting_but_these_is_made_for_the_operator(image: Image) -> None:
    own = {name.upper() for name in Settings.model_fields} & image.environment().keys()
    assert own <= {"HEALTH_HOST", "GPU_LAYERS", "MODEL_PATH"}
