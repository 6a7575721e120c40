"""``velesio-worker health``: asks the worker of this host, or container, how it is. Made for HEALTHCHECK."""

from __future__ import annotations

import argparse
import http.client
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final, NoReturn, cast

import orjson

from velesio_worker.cli.base import harmless, print_json
from velesio_worker.core.settings import load_settings
from velesio_worker.wire.errors import SettingsError

SECONDS: Final = 5.0
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (not bound, but asked)
_OK: Final = 200
LIVE_HELP: Final = "Ask only whether it lives, whatever Redis or an engine do."
JSON_HELP: Final = "Print all that the worker knows of itself."


def main(arguments: Sequence[str], limit: float = SECONDS) -> int:
    """Run the command by itself; returns the exit code. The worker has so many seconds to answer."""
    parser = _Parser(prog="velesio-worker health", description="Ask the worker of this host how it is.")
    parser.add_argument("--live", action="store_true", help=LIVE_HELP)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    parsed = parser.parse_args(arguments)
    return ask(live=parsed.live, json=parsed.json, limit=limit)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; HEALTHCHECK allows no exit code but 0 and 1."""
        print(f"{message}: there are --live and --json")
        raise SystemExit(1)


def ask(*, live: bool, json: bool, limit: float = SECONDS) -> int:
    """Ask, and print one line; returns 0 or 1, since HEALTHCHECK allows no other exit code."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(harmless(str(error).replace("\n", "; ")))
        return 1
    if not settings.health_port:
        print("HEALTH_PORT=0: this worker serves no health; set HEALTH_PORT to a port")
        return 1
    host = _EVERYWHERE.get(settings.health_host, settings.health_host)
    where = f"{host}:{settings.health_port}"
    try:
        worker = http.client.HTTPConnection(host, settings.health_port, timeout=limit)
        status, answer = _ask(worker, "/livez", "alive") if live else _ask(worker, "/readyz", "ready")
        if json:
            print_json(_ask(worker, "/health", "worker")[1])
            return int(status != _OK)
    except (orjson.JSONDecodeError, TypeError):
        print(f"what answers at {where} is no worker: check HEALTH_PORT")
        return 1
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = harmless(" ".join(str(error).split()))
        print(f"no worker answers at {where} ({why}): is one running here, with this HEALTH_HOST and HEALTH_PORT?")
        return 1
    print(harmless(" ".join(_line(status, answer, live=live).split())))
    return int(status != _OK)


def _ask(worker: http.client.HTTPConnection, path: str, field: str) -> tuple[int, dict[str, Any]]:
    """Ask; TypeError if there is no such field in the answer, which then is no worker's."""
    with closing(worker):
        worker.request("GET", path)
        response = worker.getresponse()
        answer: Any = orjson.loads(response.read())
    if not isinstance(answer, dict) or field not in answer:
        raise TypeError
    return response.status, cast("dict[str, Any]", answer)


def _line(status: int, answer: dict[str, Any], *, live: bool) -> str:
    if status == _OK:
        engines = ", ".join(f"{kind} engine {state}" for kind, state in answer.get("engines", {}).items())
        return "alive" if live else f"ready: {engines}"
    reasons = "; ".join(answer.get("reasons") or [f"status {status}"])
    return f"not {'alive' if live else 'ready'}: {reasons}"
