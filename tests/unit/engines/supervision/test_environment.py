from __future__ import annotations

from collections.abc import Mapping

import pytest

from velesio_worker.core.settings import Settings
from velesio_worker.engines.llama.command import engine_environment
from velesio_worker.engines.webui.command import webui_environment


def seen(environ: Mapping[str, str], **values: object) -> tuple[dict[str, str], dict[str, str]]:
    """What of an environment a llama-server and a WebUI see."""
    settings = Settings.model_validate(values)
    made = engine_environment(settings, environ, 4242), webui_environment(settings, environ)
    return tuple({name: env[name] for name in environ if name in env} for env in made)  # pyright: ignore[reportReturnType]


SECRETS = (
    *("REDIS_URL", "redis_url", "LLAMA_API_KEY", "MODEL_URL", "SD_SERVER_URL", "LLAMA_SERVER_URL", "RESULT_STORE"),
    *("QUEUE_NAME", "STARTUP_COMMAND", "ENGINE_ENV_KEEP"),
    *(
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "GITHUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
    ),
    *("RUNPOD_API_KEY", "OPENAI_API_KEY", "DB_PASSWORD", "PGPASSWORD", "MYSQL_PWD", "CLIENT_SECRET", "REDISCLI_AUTH"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "SSH_AUTH_SOCK", "GITHUB_PAT", "SENTRY_DSN", "APIKEY", "SECRET_FILE"),
)
PLAIN = {
    "PATH": "/bin",
    "HOME": "/root",
    "PWD": "/srv",
    "OLDPWD": "/",
    "LANG": "C.UTF-8",
    "LC_ALL": "C",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute",
    "CUDA_HOME": "/usr/local/cuda",
    "HSA_OVERRIDE_GFX_VERSION": "10.3.0",
    "ROCR_VISIBLE_DEVICES": "0",
    "GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HOME": "/cache",
    "TMPDIR": "/scratch",
    "VIRTUAL_ENV": "/venv",
    "HTTPS_PROXY": "http://me:pw@proxy:3128",
    "XDG_CACHE_HOME": "/cache",
}


@pytest.mark.parametrize("name", SECRETS)
def test_an_engine_sees_no_secret_of_the_worker(name: str) -> None:
    assert seen({name: "s3cret"}) == ({}, {})


def test_an_engine_sees_what_a_program_needs() -> None:
    assert seen(PLAIN) == (PLAIN, PLAIN)


@pytest.mark.parametrize("url", ["postgres://me:s3cret@db/x", "amqp://:s3cret@broker", "see https://a:b@c/d"])
def test_an_engine_sees_no_url_with_a_password(url: str) -> None:
    assert seen({"BROKER": url}) == ({}, {})
    assert seen({"BROKER": "https://host:8080/a@b"})[0] == {"BROKER": "https://host:8080/a@b"}


def test_what_an_engine_needs_all_the_same_is_kept_by_name() -> None:
    environ = {"HF_TOKEN": "a", "MY_KEY": "b", "OTHER_KEY": "c"}
    kept = {"HF_TOKEN": "a", "MY_KEY": "b"}
    assert seen(environ, engine_env_keep="HF_TOKEN, MY_KEY") == (kept, kept)
