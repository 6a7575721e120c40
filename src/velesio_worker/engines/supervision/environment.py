"""What an engine sees of the worker's environment: all that a program needs, and none of the worker's secrets.

A Stable Diffusion WebUI runs extensions and checkpoints that anybody may have written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from velesio_worker.core.settings import Settings

_GPUS: Final = "CUDA_VISIBLE_DEVICES"
_SETTINGS: Final = frozenset(name.upper() for name in Settings.model_fields) - {_GPUS}
_SECRET: Final = re.compile(
    r"AWS_.*|SSH_AUTH_SOCK"
    r"|(.*_)?(SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|PASS|TOKENS?|CREDENTIALS?|APIKEYS?)(_.*)?"
    r"|.*(TOKEN|SECRET|PASSWORD|KEY|KEYS)|.*_(PWD|PAT|AUTH|KEY_ID|KEY_FILE|DSN)",
    re.IGNORECASE,
)
_LOGIN: Final = re.compile(r"://[^/?#\s]*:[^/?#\s]*@")
"""A URL with a password, under whatever name; those of proxies go on."""

_PROXY: Final = re.compile(r".*_PROXY", re.IGNORECASE)


def engine_variables(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that go on to an engine.

    Left out are the worker's settings, whatever is called as a secret is, and URLs with a password. What
    ``ENGINE_ENV_KEEP`` names goes on nevertheless. GPUs are numbered as NVML numbers them, unless the operator says
    otherwise.
    """
    kept = {name.strip() for name in settings.engine_env_keep.split(",")}
    passed = {name: value for name, value in environ.items() if name in kept or not _is_secret(name, value)}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **passed, _GPUS: settings.cuda_visible_devices}


def _is_secret(name: str, value: str) -> bool:
    if name.upper() in _SETTINGS or _SECRET.fullmatch(name):
        return True
    return _LOGIN.search(value) is not None and not _PROXY.fullmatch(name)
