from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.docker.dockerfiles import FOLDER, Image
from tests.support.servers import free_port, wait_until
from velesio_worker.core.redis_url import parse_redis_url
from velesio_worker.core.settings import Settings
from velesio_worker.engines.models.wheels import redis_server

COMPOSE = FOLDER / "compose.yaml"
FILE: Any = yaml.safe_load(COMPOSE.read_text())
SERVICES: Any = FILE["services"]
WORKERS = ("worker", "worker-cpu")
OURS = (*WORKERS, "gateway")
AWKWARD = "p@ss/w:rd #1"

every_worker = pytest.mark.parametrize("name", WORKERS)
every_one_of_ours = pytest.mark.parametrize("name", OURS)


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """Fill ``${A}``, ``${A:-default}`` and ``${A:?message}`` in, inner ones first, as Compose does."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match[1], match[2], match[3]
        if operator == ":?" and not values.get(name):
            raise ValueError(rest)
        return values.get(name) or (rest if operator == ":-" else "")

    while (filled := re.sub(r"\$\{(\w+)(?:(:[-?])([^${}]*))?\}", value, text)) != text:
        text = filled
    return text


def test_it_is_valid_by_the_compose_specification() -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    command = [check, "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stdout


@every_one_of_ours
def test_workers_can_be_scaled(name: str) -> None:
    assert not {"container_name", "ports", "hostname", "network_mode"} & SERVICES[name].keys()


def test_nothing_is_published_to_the_network_but_nginx_and_that_to_this_host() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"nginx"}
    [port] = SERVICES["nginx"]["ports"]
    assert interpolated(port, {}) == "127.0.0.1:8080:8080"
    assert interpolated(port, {"GATEWAY_BIND": "8443"}) == "8443:8080"


@every_one_of_ours
def test_a_worker_is_given_time_to_drain(name: str) -> None:
    seconds = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert seconds >= Settings.model_fields["drain_seconds"].default + 20


@every_one_of_ours
def test_a_worker_waits_for_redis_and_is_started_again(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert "healthcheck" in SERVICES["redis"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@every_one_of_ours
def test_tini_is_not_doubled(name: str) -> None:
    assert "init" not in SERVICES[name]


def test_each_profile_starts_its_own_worker_and_redis_is_in_both() -> None:
    assert {name: SERVICES[name].get("profiles") for name in SERVICES} == {
        "redis": None,
        "worker": ["gpu"],
        "worker-cpu": ["cpu"],
        "gateway": ["gateway"],
        "nginx": ["gateway"],
    }


def test_the_gpu_worker_reserves_a_gpu_and_the_other_none() -> None:
    devices = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "deploy" not in SERVICES["worker-cpu"]


def test_models_are_mounted_read_only_and_binaries_are_kept() -> None:
    workdir = Image("Dockerfile").last("WORKDIR")
    assert SERVICES["worker"]["volumes"] == [
        f"../data/models:{workdir}/data/models:ro",
        f"../data/binaries:{workdir}/data/binaries:${{BINARIES:-ro}}",
    ]


@every_one_of_ours
def test_the_images_are_built_from_this_checkout(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (FOLDER / build["context"]).resolve() == FOLDER.parent
    dockerfile = interpolated(build["dockerfile"], {})
    assert Path(dockerfile).parent.name == FOLDER.name
    Image(Path(dockerfile).name, build.get("target"))


def test_the_cpu_worker_brings_its_model() -> None:
    assert SERVICES["worker-cpu"]["build"]["target"] == "demo"
    assert "volumes" not in SERVICES["worker-cpu"]


def test_redis_keeps_its_data_and_never_drops_a_job() -> None:
    words = SERVICES["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]
    assert options["--requirepass"].startswith("${REDIS_PASSWORD:?")


def test_nothing_starts_without_a_password() -> None:
    text = COMPOSE.read_text()
    with pytest.raises(ValueError, match="set REDIS_PASSWORD"):
        interpolated(text, {})
    with pytest.raises(ValueError, match="set REDIS_PASSWORD"):
        interpolated(text, {"REDIS_PASSWORD": ""})


@every_one_of_ours
def test_the_worker_has_the_password_in_its_url(name: str) -> None:
    url = SERVICES[name]["environment"]["REDIS_URL"]
    assert password_in(interpolated(url, {"REDIS_PASSWORD": "9f3c"})) == "9f3c"
    own = f"redis://:{quote(AWKWARD, safe='')}@redis:6379/0"
    assert password_in(interpolated(url, {"REDIS_PASSWORD": AWKWARD, "REDIS_URL": own})) == AWKWARD


def password_in(url: str) -> str | None:
    """The password that a worker with this ``REDIS_URL`` logs in with."""
    redis_class: Any = redis.Redis  # its from_url has no types
    client = redis_class.from_url(parse_redis_url(url).plain)
    return client.connection_pool.connection_kwargs.get("password")


def test_a_real_redis_takes_the_command_and_refuses_whoever_has_no_password(tmp_path: Path) -> None:
    program, port = redis_server(), free_port()
    assert program is not None
    command = [interpolated(word, {"REDIS_PASSWORD": AWKWARD}) for word in SERVICES["redis"]["command"][1:]]
    with subprocess.Popen(
        [program, *command, "--port", str(port), "--bind", "127.0.0.1", "--dir", tmp_path], stdout=subprocess.DEVNULL
    ) as process:
        once = Retry(NoBackoff(), 0)  # by itself it waits longer with each try
        stranger: Any = redis.Redis(port=port, retry=once)
        friend: Any = redis.Redis(port=port, password=AWKWARD, decode_responses=True, retry=once)
        try:
            wait_until(friend.ping, "Redis answers")
            assert friend.config_get("maxmemory-policy", "appendonly") == {
                "maxmemory-policy": "noeviction",
                "appendonly": "yes",
            }
            with pytest.raises(redis.AuthenticationError):
                stranger.ping()
        finally:
            stranger.close()
            friend.close()
            process.kill()


@pytest.mark.parametrize("name", ["redis", "nginx"])
def test_every_image_has_an_exact_tag(name: str) -> None:
    assert SERVICES[name]["image"].split(":")[1].count(".") == 2


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_taken_over_can_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 (a container's own)
    assert int(interpolated(str(service["pids_limit"]), {})) > 0
    memory = service["mem_limit"]
    assert interpolated(memory, {}) == "0"
    variable = "WORKER_MEMORY" if name in WORKERS else f"{name.upper()}_MEMORY"
    assert interpolated(memory, {variable: "8g"}) == "8g"


def test_no_worker_puts_another_engine_where_all_find_it() -> None:
    volumes = {interpolated(volume, {}) for volume in SERVICES["worker"]["volumes"]}
    assert volumes == {"../data/models:/app/data/models:ro", "../data/binaries:/app/data/binaries:ro"}
    built = {interpolated(volume, {"BINARIES": "rw"}) for volume in SERVICES["worker"]["volumes"]}
    assert "../data/binaries:/app/data/binaries:rw" in built


def test_the_gateway_starts_with_tokens_only_and_the_rest_without() -> None:
    tokens = SERVICES["gateway"]["environment"]["API_TOKENS"]
    assert interpolated(tokens, {}) == ""
    assert interpolated(tokens, {"API_TOKENS": "anne=a,ben=b"}) == "anne=a,ben=b"
    assert Image("Dockerfile.gateway").environment()["GATEWAY_HOST"] == "0.0.0.0"  # noqa: S104 (its container's)


def test_nginx_waits_for_a_gateway_and_sends_its_requests_there() -> None:
    nginx = SERVICES["nginx"]
    assert nginx["depends_on"] == {"gateway": {"condition": "service_healthy"}}
    port = SERVICES["gateway"]["environment"]["GATEWAY_PORT"]
    assert f"set $gateways http://gateway:{port};" in (FOLDER / "nginx.conf").read_text()
    assert nginx["volumes"] == ["./nginx.conf:/etc/nginx/nginx.conf:ro"]
    user, _, group = nginx["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_nginx_may_write_where_it_says_that_it_does() -> None:
    text = (FOLDER / "nginx.conf").read_text()
    written = re.findall(r"^\s*(?:pid|\w+_temp_path)\s+(\S+);", text, re.MULTILINE)
    assert len(written) == 6
    assert all(path.startswith("/tmp/") for path in written)  # noqa: S108 (a container's own)
    assert not re.search(r"^\s*user\s", text, re.MULTILINE)
