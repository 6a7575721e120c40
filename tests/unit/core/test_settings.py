from __future__ import annotations

import re
import ssl
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.support.tls import TLS
from velesio_worker.cli.main import main
from velesio_worker.core.redis_url import parse_redis_url
from velesio_worker.core.secrets import hide_password, unread
from velesio_worker.core.settings import LogFormat, Settings, load_settings
from velesio_worker.core.settings_list import describe, misspelt
from velesio_worker.wire.errors import SettingsError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("redis_url", "redis://redis:6379"),
        ("queue_name", "llama_queue"),
        ("run_llm", True),
        ("run_sd", True),
        ("model_path", Path("./data/models/text/model.gguf")),
        ("gpu_layers", 35),
        ("context_size", 4096),
        ("cuda_visible_devices", "0"),
        ("llm_concurrency", None),
        ("startup_command", None),
        ("llama_server_url", None),
        ("llama_port", 1337),
        ("sd_model_path", Path("./data/models/image/")),
        ("sd_concurrency", 1),
        ("sd_startup_command", None),
        ("sd_server_url", None),
        ("worker_timeout", 600),
        ("drain_seconds", 30),
        ("engine_memory_limit", 0),
        ("lease_seconds", 15),
        ("result_ttl", 3600),
        ("stream_ttl", 3600),
        ("max_job_bytes", 32 * 1024 * 1024),
        ("log_level", "INFO"),
        ("log_format", LogFormat.CONSOLE),
    ],
)
def test_an_unset_variable_has_the_documented_default(name: str, default: object) -> None:
    assert getattr(load_settings(), name) == default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("REDIS_URL", "redis://:pw@cache:6380/2", "redis://:pw@cache:6380/2"),
        ("REDIS_URL", "rediss://cache", "rediss://cache"),
        ("REDIS_URL", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("QUEUE_NAME", "jobs:eu-1", "jobs:eu-1"),
        ("ENGINE_MEMORY_LIMIT", "24GiB", 24 * 1024**3),
        ("ENGINE_MEMORY_LIMIT", "1.5 g", 3 * 1024**3 // 2),
        ("ENGINE_MEMORY_LIMIT", "512mb", 512 * 1024**2),
        ("ENGINE_MEMORY_LIMIT", "1000000", 1_000_000),
        ("RUN_LLM", "false", False),
        ("RUN_SD", "0", False),
        ("MODEL_PATH", "/models/a.gguf", Path("/models/a.gguf")),
        ("GPU_LAYERS", "0", 0),
        ("CONTEXT_SIZE", "8192", 8192),
        ("CUDA_VISIBLE_DEVICES", "1,2", "1,2"),
        ("LLM_CONCURRENCY", "8", 8),
        ("STARTUP_COMMAND", "llama-server --port 9", "llama-server --port 9"),
        ("LLAMA_SERVER_URL", "http://gpu:8080/", "http://gpu:8080"),
        ("LLAMA_PORT", "65535", 65535),
        ("WORKER_TIMEOUT", "2.5", 2.5),
        ("DRAIN_SECONDS", "0", 0),
        ("RESULT_TTL", "60", 60),
        ("MAX_JOB_BYTES", "1024", 1024),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("LOG_FORMAT", "JSON", LogFormat.JSON),
    ],
)
def test_a_variable_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(load_settings(), name.lower()) == value


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_an_empty_string_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    assert load_settings() == Settings()
    rows = {row["name"]: row for row in describe(load_settings(), {name: ""})}
    assert rows[name]["source"] == "default"


WRONG = [
    ("ENGINE_MEMORY_LIMIT", "much", "a number of bytes, such as 24GiB or 512MiB, or 0"),
    ("ENGINE_MEMORY_LIMIT", "-1", "a number of bytes, such as 24GiB or 512MiB, or 0"),
    ("REDIS_URL", "http://redis:6379", "redis://"),
    ("REDIS_URL", "redis:6379", "redis://"),
    ("REDIS_URL", "redis://", "redis://"),
    ("REDIS_URL", "redis://[::1", "redis://"),
    ("REDIS_URL", "redis://redis:port", "redis://"),
    ("QUEUE_NAME", "llama queue", "A-Z a-z 0-9 . _ : -"),
    ("QUEUE_NAME", "{q}", "A-Z a-z 0-9 . _ : -"),
    ("RUN_LLM", "maybe", "true or false"),
    ("RUN_SD", "2", "true or false"),
    ("GPU_LAYERS", "-1", "greater than or equal to 0"),
    ("GPU_LAYERS", "all", "number"),
    ("GPU_LAYERS", "3.5", "whole number"),
    ("CONTEXT_SIZE", "1", "greater than or equal to 64"),
    ("LLM_CONCURRENCY", "0", "greater than or equal to 1"),
    ("SD_CONCURRENCY", "-3", "greater than or equal to 1"),
    ("STARTUP_COMMAND", "llama-server 'open", "balanced quotes"),
    ("SD_STARTUP_COMMAND", "  ", "a command line"),
    ("LLAMA_SERVER_URL", "gpu:8080", "http://127.0.0.1:8080"),
    ("LLAMA_SERVER_URL", "http://", "http://127.0.0.1:8080"),
    ("LLAMA_SERVER_URL", "http://gpu:port", "http://127.0.0.1:8080"),
    ("LLAMA_SERVER_URL", "http://gpu:99999", "http://127.0.0.1:8080"),
    ("SD_SERVER_URL", "http://[::1", "http://127.0.0.1:8080"),
    ("LLAMA_PORT", "0", "greater than or equal to 1"),
    ("LLAMA_PORT", "65536", "less than or equal to 65535"),
    ("WORKER_TIMEOUT", "0", "greater than 0"),
    ("WORKER_TIMEOUT", "nan", "finite"),
    ("WORKER_TIMEOUT", "soon", "number"),
    ("DRAIN_SECONDS", "-1", "greater than or equal to 0"),
    ("LEASE_SECONDS", "0.5", "whole number"),
    ("RESULT_TTL", "0", "greater than or equal to 1"),
    ("STREAM_TTL", "inf", "number"),
    ("MAX_JOB_BYTES", "32M", "number"),
    ("GPU_LAYERS", "-1", "0 for none, 999 for all"),
    ("GPU_LAYERS", "9" * 30, "less than or equal to 2147483647"),
    ("LLM_CONCURRENCY", "999999999999", "less than or equal to 2147483647"),
    ("RESULT_TTL", "9" * 20, "less than or equal to 1000000000"),
    ("WORKER_TIMEOUT", "1e300", "less than or equal to 1000000000"),
    ("WORKER_TIMEOUT", "10m", "a number of seconds"),
    ("STREAM_TTL", "1h", "a whole number of seconds"),
    ("MAX_JOB_BYTES", "32MB", "a whole number of bytes"),
    ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ("LOG_FORMAT", "xml", "'json' or 'console'"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_a_wrong_value_is_told_with_its_variable_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert "\n" not in message
    shown = unread(value) if name in {"REDIS_URL", "LLAMA_SERVER_URL", "SD_SERVER_URL", "MODEL_URL"} else value
    assert message.startswith(f"{name}={shown!r}: ")
    assert allowed in message.removeprefix(f"{name}={shown!r}: ")


@pytest.mark.parametrize("key", ["a\nb", "k\u00e9y"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", key)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith("LLAMA_API_KEY='***': must be printable ASCII characters")


def test_several_mistakes_give_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {name: value for name, value, _ in reversed(WRONG)}
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    lines = str(caught.value).splitlines()
    assert sorted(line.partition("=")[0] for line in lines) == sorted(wrong)


SECRETS = [
    ("REDIS_URL", f"redis://:{SECRET}@redis:6379/0"),
    ("REDIS_URL", f"redis://worker:{SECRET}@redis"),
    ("REDIS_URL", f"redis://redis:6379/0?password={SECRET}"),
    ("LLAMA_SERVER_URL", f"https://me:{SECRET}@gpu:8080"),
    ("SD_SERVER_URL", f"http://me:{SECRET}@gpu"),
    ("STARTUP_COMMAND", f"llama-server --api-key {SECRET} --port 9"),
    ("STARTUP_COMMAND", f"llama-server --api-key={SECRET}"),
    ("STARTUP_COMMAND", f"llama-server --api-key  {SECRET}"),
    ("STARTUP_COMMAND", f"llama-server --api-key 'open sesame {SECRET}'"),
    ("SD_STARTUP_COMMAND", f"webui.sh --api --api-auth me:{SECRET}"),
    ("SD_STARTUP_COMMAND", f"webui.sh --gradio-auth=me:{SECRET}"),
]


@pytest.mark.parametrize(("name", "value"), SECRETS)
def test_the_listing_hides_secrets(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    row = next(row for row in describe(load_settings(), {name: value}) if row["name"] == name)
    assert SECRET not in str(row)
    assert "***" in row["value"]
    assert row["value"].split("***")[0] in value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", f"http://:{SECRET}@redis:6379"),
        ("REDIS_URL", f"redis://:{SECRET}@[::1"),
        ("REDIS_URL", f"redis://:{SECRET}#x@redis"),
        ("LLAMA_SERVER_URL", f"ftp://me:{SECRET}@gpu"),
        ("LLAMA_SERVER_URL", f"http://me:{SECRET}@gpu:port"),
        ("STARTUP_COMMAND", f"llama-server --api-key {SECRET} 'open"),
    ],
)
def test_complaints_hide_secrets(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert name in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://redis:6379", "redis://worker@redis", "unix:///run/redis.sock", "nonsense"])
def test_a_url_without_password_stays_as_it_is(url: str) -> None:
    assert hide_password(url) == url


def test_the_listing_tells_where_each_value_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"GPU_LAYERS": "35", "WORKER_TIMEOUT": "1234567", "RUN_SD": "no"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    rows = {row["name"]: row for row in describe(load_settings(), environ)}
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    assert {name for name, row in rows.items() if row["source"] == "environment"} == set(environ)
    assert all(row["description"] for row in rows.values())
    shown = {name: (row["value"], row["default"]) for name, row in rows.items()}
    assert shown["GPU_LAYERS"] == ("35", "35")
    assert shown["WORKER_TIMEOUT"] == ("1234567", "600")
    assert shown["RUN_SD"] == ("false", "true")
    assert shown["STARTUP_COMMAND"] == (None, None)


def test_a_misspelt_variable_is_found() -> None:
    environ = ["LLM_CONCURENCY", "REDIS_URL", "PATH", "REDIS_PORT", "MODEL"]
    assert misspelt(environ) == [("LLM_CONCURENCY", "LLM_CONCURRENCY")]
    assert misspelt([name.upper() for name in Settings.model_fields]) == []


UNREAD = (
    f"redis:/:{SECRET}@h",
    f"redis+sentinel://u:{SECRET}@127.0.0.1:1?sentinel_passwort={SECRET}",
    f"redis://[{SECRET}",
    SECRET,
    f"{SECRET}://h",
    f"{SECRET}:x@h",
    f"redis://{SECRET}:port",
    f"redis://h/{SECRET}",
    f"redis://h?{SECRET}=1",
    f"redis://h\n{SECRET}",
    f"'redis://:{SECRET}@h'",
    f"ftp://{SECRET}",
    f"http://{SECRET}:port",
    f"//{SECRET}",
)


@pytest.mark.parametrize("url", UNREAD)
@pytest.mark.parametrize("name", ["REDIS_URL", "LLAMA_SERVER_URL", "SD_SERVER_URL", "MODEL_URL", "RESULT_STORE_URL"])
def test_of_a_url_that_is_not_understood_nothing_but_its_scheme_is_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert re.match(rf"{name}='(redis://|redis:|redis\+sentinel://|http://)?\*\*\*': must be", str(caught.value))


@pytest.mark.parametrize("command", ["settings", "doctor", "run", "health", "submit"])
@pytest.mark.parametrize("url", UNREAD[:4])
def test_no_command_prints_a_url_that_is_not_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, url: str
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    assert main([command, *(["hi"] if command == "submit" else [])]) in {1, 2}
    output = capsys.readouterr()
    assert "***" in output.out + output.err
    assert SECRET not in output.out + output.err


def test_a_model_that_is_pulled_from_no_url_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", f"http:/me:{SECRET}@h/m.gguf"]) == 2
    assert SECRET not in capsys.readouterr().err


def test_an_authority_of_your_own_goes_to_redis_unless_its_url_names_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "own authority.pem"
    file.write_text(ssl.DER_cert_to_PEM_cert(TLS.get_ca_certs(binary_form=True)[0]))
    monkeypatch.setenv("CA_FILE", str(file))
    for url, named in {
        "rediss://a": str(file),
        "rediss+cluster://a?db=0": str(file),
        f"rediss://a?ssl_ca_certs={file}": str(file),
        "redis://a": None,
        "unix:///run/redis.sock": None,
    }.items():
        monkeypatch.setenv("REDIS_URL", url)
        options = dict(parse_qsl(urlsplit(parse_redis_url(load_settings().redis_url).plain).query))
        assert options.get("ssl_ca_certs") == named


def test_a_file_without_certificates_is_no_authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("nothing")
    for name in ("a", "missing"):
        monkeypatch.setenv("CA_FILE", str(tmp_path / name))
        with pytest.raises(SettingsError, match=r"CA_FILE=.*must be a file of PEM certificates"):
            load_settings()
