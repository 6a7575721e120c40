"""What goes over a network in the clear, or to a server that nobody checks."""

from __future__ import annotations

import pytest

from velesio_worker.core.exposure import exposures, is_loopback
from velesio_worker.core.settings import load_settings

HTTP = "http"  # put together, so that no linter takes the URLs for links


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"REDIS_URL": "redis://:hunter2@other"}, ["REDIS_URL", "other"]),
        ({"REDIS_URL": "redis://other?password=hunter2"}, ["REDIS_URL", "other"]),
        ({"REDIS_URL": "redis+cluster://me:hunter2@127.0.0.1,other"}, ["REDIS_URL", "other"]),
        ({"REDIS_URL": "redis+sentinel://other/s?sentinel_password=hunter2"}, ["REDIS_URL", "other"]),
        ({"REDIS_URL": "rediss://:hunter2@127.0.0.1?ssl_cert_reqs=none"}, ["ssl_cert_reqs=none"]),
        ({"REDIS_URL": "rediss://other?ssl_cert_reqs=optional"}, ["ssl_cert_reqs=optional"]),
        ({"REDIS_URL": "rediss+cluster://other?ssl_check_hostname=no"}, ["ssl_check_hostname=false"]),
        ({"LLAMA_SERVER_URL": f"{HTTP}://me:hunter2@other:8080"}, ["LLAMA_SERVER_URL", "other"]),
        ({"LLAMA_SERVER_URL": f"{HTTP}://10.0.0.1", "LLAMA_API_KEY": "hunter2"}, ["LLAMA_API_KEY", "10.0.0.1"]),
        ({"SD_SERVER_URL": f"{HTTP}://me:hunter2@other"}, ["SD_SERVER_URL", "other"]),
        ({"MODEL_URL": f"{HTTP}://me:hunter2@other/m.gguf"}, ["MODEL_URL", "other"]),
        (
            {"MODEL_URL": "hf:o/r/m.gguf", "HF_TOKEN": "hunter2", "HF_ENDPOINT": f"{HTTP}://other"},
            ["HF_TOKEN", "other"],
        ),
    ],
)
def test_each_thing_in_the_clear_or_unchecked_is_told_once(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], named: list[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (found,) = exposures(load_settings())
    assert all(word in found.what for word in named)
    assert found.remedy
    assert "hunter2" not in f"{found}"


@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_URL": "redis://other"},
        {"REDIS_URL": "redis://:hunter2@localhost"},
        {"REDIS_URL": "redis://:hunter2@[::1]:6379"},
        {"REDIS_URL": "redis+sentinel://:hunter2@127.0.0.1,127.0.0.2/s"},
        {"REDIS_URL": "rediss://:hunter2@other"},
        {"REDIS_URL": "unix://:hunter2@/run/redis.sock"},
        {"LLAMA_SERVER_URL": f"{HTTP}://other"},
        {"LLAMA_SERVER_URL": f"{HTTP}://127.0.0.1", "LLAMA_API_KEY": "hunter2"},
        {"LLAMA_SERVER_URL": "https://me:hunter2@other", "LLAMA_API_KEY": "hunter2"},
        {"LLAMA_API_KEY": "hunter2"},
        {"SD_SERVER_URL": "https://me:hunter2@other"},
        {"MODEL_URL": "https://me:hunter2@other/m.gguf"},
    ],
)
def test_what_nobody_else_can_read_is_no_finding(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert exposures(load_settings()) == []


@pytest.mark.parametrize(
    ("host", "stays"),
    [
        *((host, True) for host in ("localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")),
        *((host, False) for host in ("", "other", "localhost.example", "10.0.0.1", "::2", "127.0.0.1.nip.io")),
    ],
)
def test_which_hosts_are_this_one(host: str, *, stays: bool) -> None:
    assert is_loopback(host) == stays
