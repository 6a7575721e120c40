"""Secrets that stand in files: REDIS_URL_FILE and the like."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from velesio_worker.core.model_source import hub_token
from velesio_worker.core.secret_files import FILED
from velesio_worker.core.settings import load_settings
from velesio_worker.core.settings_list import describe, misspelt
from velesio_worker.wire.errors import SettingsError

SECRET = "hunter2"
VALUES = {
    "REDIS_URL": f"redis://:{SECRET}@127.0.0.1:6379",
    "LLAMA_API_KEY": SECRET,
    "LLAMA_SERVER_URL": f"http://me:{SECRET}@127.0.0.1:8080",
    "SD_SERVER_URL": f"http://me:{SECRET}@127.0.0.1:7860",
    "MODEL_URL": f"https://me:{SECRET}@models.example/m.gguf",
}


def test_every_secret_setting_has_a_file() -> None:
    assert sorted(VALUES) == list(FILED)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("name", VALUES)
def test_a_secret_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: str) -> None:
    (tmp_path / "secret").write_text(VALUES[name] + end, newline="")
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    settings = load_settings()
    assert getattr(settings, name.lower()) == VALUES[name]
    row = next(row for row in describe(settings, os.environ) if row["name"] == name)
    assert row["source"] == "file"
    assert SECRET not in str(row)
    assert misspelt(os.environ) == []


@pytest.mark.parametrize("name", VALUES)
def test_a_secret_that_is_given_twice_is_refused_with_both_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "secret").write_text(VALUES[name])
    monkeypatch.setenv(name, VALUES[name])
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match=f"unset one of {name} and {name}_FILE") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


def test_a_file_that_cannot_be_used_is_told_with_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")  # which would be waited for
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    for name, why in {
        "missing": "No such file",
        "pipe": "no regular file",
        "empty": "is empty",
        "binary": "UTF-8",
        "large": "more than 65536 bytes",
        ".": "",
    }.items():
        monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / name))
        with pytest.raises(SettingsError) as caught:
            load_settings()
        assert str(caught.value).startswith(f"REDIS_URL_FILE={str(tmp_path / name)!r}: ")
        assert why in str(caught.value)


def test_a_wrong_value_in_a_file_is_told_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(f"redis:/:{SECRET}@h")
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match=r"^REDIS_URL='redis:\*\*\*'") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


def test_the_hubs_token_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path / "secret"))
    assert hub_token() == SECRET
    monkeypatch.setenv("HF_TOKEN", "other")
    with pytest.raises(SettingsError, match="unset one of HF_TOKEN and HF_TOKEN_FILE"):
        hub_token()
