from __future__ import annotations

import pytest

from velesio_worker.core.model_source import ModelSource, hub_token, parse_model_source
from velesio_worker.wire.errors import SettingsError

SUM = "0123456789abcdef" * 4
HUB = "https://huggingface.co"


@pytest.fixture(autouse=True)
def _no_hub_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("https://host/a/m.gguf", ModelSource("https://host/a/m.gguf", "m.gguf")),
        ("http://host:8080/m.gguf?sig=1", ModelSource("http://host:8080/m.gguf?sig=1", "m.gguf")),
        ("https://host/a%20b.gguf", ModelSource("https://host/a%20b.gguf", "a b.gguf")),
        (f"https://host/m.gguf#sha256={SUM.upper()}", ModelSource("https://host/m.gguf", "m.gguf", SUM)),
        ("hf:o/r/m.gguf", ModelSource(f"{HUB}/o/r/resolve/main/m.gguf", "m.gguf", hub=True)),
        ("hf:o/r/q 4/m.gguf", ModelSource(f"{HUB}/o/r/resolve/main/q%204/m.gguf", "m.gguf", hub=True)),
        ("hf:o/r@refs/m.gguf", ModelSource(f"{HUB}/o/r/resolve/refs/m.gguf", "m.gguf", hub=True)),
        ("hf:o/r@v1.0/blob/m.gguf", ModelSource(f"{HUB}/o/r/resolve/v1.0/blob/m.gguf", "m.gguf", hub=True)),
        (f"hf:o/r/m.gguf#sha256={SUM}", ModelSource(f"{HUB}/o/r/resolve/main/m.gguf", "m.gguf", SUM, hub=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_source_is_read(text: str, source: ModelSource) -> None:
    assert parse_model_source(text) == source


def test_a_hub_page_out_of_a_browser_is_taken_for_its_file() -> None:
    source = parse_model_source(f"{HUB}/o/r/blob/main/m.gguf")
    assert source == ModelSource(f"{HUB}/o/r/resolve/main/m.gguf", "m.gguf", hub=True)
    elsewhere = "https://host/o/r/blob/main/m.gguf"
    assert parse_model_source(elsewhere) == ModelSource(elsewhere, "m.gguf")


@pytest.mark.parametrize(
    "url", [f"{HUB}.evil.com/o/m.gguf", "https://huggingface.co:8443/o/m.gguf", f"http{HUB[5:]}/m.gguf"]
)
def test_only_the_very_hub_is_the_hub_and_gets_the_token(url: str) -> None:
    assert not parse_model_source(url).hub


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m.gguf",
        "/models/m.gguf",
        "https://host/",
        "https://host/m.safetensors",
        "https:///m.gguf",
        "https://host:x/m.gguf",
        "https://host:0/m.gguf",
        "https://[::1/m.gguf",
        "https://host/a%0Ab.gguf",
        "https://host/%00.gguf",
        "ftp://host/m.gguf",
        "file:///m.gguf",
        "hf:m.gguf",
        "hf:o/m.gguf",
        "hf:o/r/",
        "hf:/r/m.gguf",
        "hf:o//m.gguf",
        "hf:o/r/m.bin",
    ],
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"https://host/model\.gguf, or hf:owner/repo/model\.gguf"):
        parse_model_source(text)


@pytest.mark.parametrize("fragment", ["x", "sha256=", "sha256=12", f"sha256={SUM}0", f"md5={SUM}"])
def test_a_checksum_that_is_none_is_refused(fragment: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        parse_model_source(f"https://host/m.gguf#{fragment}")


def test_another_hub_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror:8080/hf/")
    source = parse_model_source("hf:o/r/m.gguf")
    assert source == ModelSource("http://mirror:8080/hf/o/r/resolve/main/m.gguf", "m.gguf", hub=True)
    assert not parse_model_source(f"{HUB}/o/r/resolve/main/m.gguf").hub


def test_a_hub_that_is_no_url_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "mirror")
    with pytest.raises(ValueError, match="HF_ENDPOINT"):
        parse_model_source("hf:o/r/m.gguf")
    assert parse_model_source("https://host/m.gguf").url == "https://host/m.gguf"


def test_an_empty_hub_is_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert parse_model_source("hf:o/r/m.gguf").url.startswith(HUB)


@pytest.mark.parametrize(("value", "token"), [("hf_1", "hf_1"), (" hf_1\n", "hf_1"), ("", None), (" ", None)])
def test_the_token_is_read(monkeypatch: pytest.MonkeyPatch, value: str, token: str | None) -> None:
    assert hub_token() is None
    monkeypatch.setenv("HF_TOKEN", value)
    assert hub_token() == token


@pytest.mark.parametrize("value", ["hf_\n1", "hf_ü"])
def test_a_token_that_is_none_is_pointed_out_and_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_TOKEN", value)
    with pytest.raises(SettingsError, match="HF_TOKEN") as caught:
        hub_token()
    assert value not in str(caught.value)
