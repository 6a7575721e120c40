"""The gateway's settings: each mistake is one line, and no token is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from velesio_worker.core.settings import Settings
from velesio_worker.core.settings_list import describe, misspelt
from velesio_worker.gateway.settings import GatewaySettings, load_gateway_settings, origins_of
from velesio_worker.wire.errors import SettingsError


@pytest.fixture(autouse=True)
def _none_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name in (*GatewaySettings.model_fields, "api_tokens_file"):
        monkeypatch.delenv(name.upper(), raising=False)


def test_by_default_it_listens_for_this_host_alone_and_asks_for_nothing() -> None:
    settings = load_gateway_settings()
    assert (settings.gateway_host, settings.gateway_port, settings.api_tokens) == ("127.0.0.1", 8080, None)
    assert (settings.redis_url, settings.queue_name) == (Settings().redis_url, Settings().queue_name)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MAX_BODY_BYTES", "64MiB", 64 * 1024**2),
        ("RATE_LIMIT", "5/second; 1000 per day", "5/second; 1000 per day"),
        ("RATE_LIMIT", "100/15minutes", "100/15minutes"),
        ("CORS_ORIGINS", "*", "*"),
        ("CONCURRENCY_LIMIT", "4", 4),
        ("API_TOKENS", "a=b,c", "a=b,c"),
        ("LOG_LEVEL", "debug", "DEBUG"),
    ],
)
def test_a_setting_is_read(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(load_gateway_settings(), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("GATEWAY_PORT", "0", "GATEWAY_PORT='0': must be greater than or equal to 1"),
        ("MAX_QUEUE", "0", "MAX_QUEUE='0'"),
        ("MAX_BODY_BYTES", "big", "MAX_BODY_BYTES='big': must be a number of bytes"),
        ("RATE_LIMIT", "60", "RATE_LIMIT='60': must be requests per time, such as 60/minute"),
        ("RATE_LIMIT", "0/minute", "RATE_LIMIT='0/minute'"),
        ("CORS_ORIGINS", "chat.example.org", "CORS_ORIGINS='chat.example.org': must be origins such as https://"),
        ("CORS_ORIGINS", "https://a.example/path", "CORS_ORIGINS"),
        ("API_TOKENS", "hunter2,hunter2", "API_TOKENS='***': must be tokens that differ"),
        ("DRAIN_SECONDS", "-1", "DRAIN_SECONDS='-1'"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, said: str
) -> None:
    monkeypatch.setenv(name, text)
    monkeypatch.setenv("QUEUE_NAME", "a b")
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings()
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert any(line.startswith(said) for line in lines), lines
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "gateway.example"])  # noqa: S104
def test_another_address_than_loopback_takes_tokens(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("GATEWAY_HOST", host)
    with pytest.raises(SettingsError, match="set API_TOKENS"):
        load_gateway_settings()
    monkeypatch.setenv("API_TOKENS", "a")
    assert load_gateway_settings().gateway_host == host


def test_tokens_stand_in_a_file_and_are_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("alice=hunter2\nbob=hunter3\n")
    monkeypatch.setenv("API_TOKENS_FILE", str(tmp_path / "tokens"))
    settings = load_gateway_settings()
    assert settings.api_tokens == "alice=hunter2\nbob=hunter3"
    [row] = [row for row in describe(settings, os.environ) if row["name"] == "API_TOKENS"]
    assert (row["value"], row["source"]) == ("***", "file")


def test_no_setting_of_the_gateway_looks_like_a_slip_to_a_worker_nor_the_other_way_round() -> None:
    names = [name.upper() for model in (Settings, GatewaySettings) for name in model.model_fields]
    assert misspelt([*names, "API_TOKENS_FILE"]) == []
    assert misspelt(names, GatewaySettings) == []
    assert misspelt(["GATEWAY_PROT"], GatewaySettings) == [("GATEWAY_PROT", "GATEWAY_PORT")]


def test_origins_are_read() -> None:
    assert origins_of(" https://a.example , http://localhost:3000/ ,") == ["https://a.example", "http://localhost:3000"]
    assert origins_of("http://[::1]:3000") == ["http://[::1]:3000"]
    assert origins_of("") == []
    for wrong in ("a.example", "https://", "https://a.example/x", "https://u:p@a.example", "https://a.example:x"):
        with pytest.raises(ValueError, match="origins such as"):
            origins_of(wrong)
