"""What image workers have, the settings that there are, and the token in basic authorisation."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.sdapi.catalogue import (
    latent_upscale_modes,
    samplers,
    schedulers,
    sd_models,
    upscalers,
    vaes,
)
from velesio_worker.gateway.sdapi.options import check_unchanged, options
from velesio_worker.gateway.tokens import token_in_basic

INFO: dict[str, Any] = {
    "samplers": ["Euler", "Euler a"],
    "schedulers": ["automatic", "karras"],
    "upscalers": ["Lanczos", "Latent", "Latent (bicubic)", "None"],
    "vaes": ["vae-ft.safetensors"],
}


def test_checkpoints_tell_no_folder_of_the_worker() -> None:
    listing = {"models": [{"name": "sub_tiny", "filename": "/opt/models/sub/tiny.safetensors", "hash": "abc"}]}
    assert sd_models(listing) == [
        {
            "title": "sub_tiny",
            "model_name": "sub_tiny",
            "hash": "abc",
            "sha256": None,
            "filename": "tiny.safetensors",
            "config": None,
        }
    ]


def test_samplers_schedulers_upscalers_and_vaes_have_the_webuis_fields() -> None:
    assert samplers(INFO)[1] == {"name": "Euler a", "aliases": [], "options": {}}
    assert schedulers(INFO)[1].keys() == {"name", "label", "aliases", "default_rho", "need_inner_model"}
    assert [upscaler["name"] for upscaler in upscalers(INFO)] == ["Lanczos", "None"]
    assert upscalers(INFO)[0].keys() == {"name", "model_name", "model_path", "model_url", "scale"}
    assert latent_upscale_modes(INFO) == [{"name": "Latent"}, {"name": "Latent (bicubic)"}]
    assert vaes(INFO) == [{"model_name": "vae-ft.safetensors", "filename": "vae-ft.safetensors"}]


def test_an_engine_that_does_not_tell_has_none() -> None:
    for of in (samplers, schedulers, upscalers, latent_upscale_modes, vaes):
        assert of({"upscalers": None, "vaes": None}) == []
    assert sd_models({}) == []


def test_settings_that_are_so_already_can_be_made() -> None:
    now = options("tiny")
    check_unchanged(now, now, ["tiny", "other"])
    for name in ("tiny", "tiny.safetensors", "tiny.safetensors [abc]"):
        check_unchanged({"sd_model_checkpoint": name}, now, ["tiny", "other"])
    check_unchanged({"samples_format": "png", "no_such": None}, now, [])


@pytest.mark.parametrize(
    ("wanted", "status", "said"),
    [
        ({"sd_model_checkpoint": "other"}, 400, "override_settings"),
        ({"sd_model_checkpoint": "nope"}, 404, "tiny, other"),
        ({"samples_format": "jpg"}, 400, "samples_format"),
        ({"CLIP_stop_at_last_layers": 2}, 400, "CLIP_stop_at_last_layers"),
    ],
)
def test_settings_that_would_change_something_are_refused(wanted: dict[str, Any], status: int, said: str) -> None:
    with pytest.raises(ApiError, match=said) as caught:
        check_unchanged(wanted, options("tiny"), ["tiny", "other"])
    assert caught.value.status == status


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (basic("user:secret"), "secret"),
        (basic(":secret"), "secret"),
        (basic("user:with:colons"), "with:colons"),
        (basic("user:secret").replace("Basic", "basic"), "secret"),
        (basic("no colon"), None),
        ("Bearer secret", None),
        ("Basic %%%", None),
        ("Basic /w==", None),
        ("Basic", None),
        ("", None),
    ],
)
def test_the_password_of_basic_authorisation_is_the_token(header: str, token: str | None) -> None:
    assert token_in_basic(header) == token
