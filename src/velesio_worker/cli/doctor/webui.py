"""The Stable Diffusion WebUI: the one that would be started, or the one that runs elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import anyio

from velesio_worker.cli.doctor.findings import CheckReport, has_address, parted
from velesio_worker.cli.doctor.webui_command import look_at_command
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.threads import aside
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.webui.api import WebUIApi
from velesio_worker.engines.webui.catalogue import Catalogue, listed, read_catalogue
from velesio_worker.engines.webui.command import FOLDER, LAUNCH, has_webui
from velesio_worker.engines.webui.start import is_passing
from velesio_worker.queue.keys import Keys
from velesio_worker.wire.errors import JobError
from velesio_worker.wire.jobs import Kind

ANSWER_SECONDS: Final = 5.0
"""How long a WebUI may take to answer all that it is asked."""

_PREFIX: Final = "/sdapi/v1"
_ABSENT: Final = frozenset({404, 405, 501})
_WRONG_METHOD: Final = 405
_NO_OPTIONS: Final = b"[]"
"""A WebUI takes an object: it refuses this before it does anything. ``{}`` would have it write its settings down,
with those that an image in the making has overridden."""

_LOSSES: Final = {
    "progress": "jobs get no progress entries",
    "interrupt": "it makes the image of a cancelled job to its end, and other jobs wait for that",
    "options": "it serves the one model that it has loaded",
}
"""What it means that a WebUI lacks a route."""


async def check_webui(report: CheckReport, limit: float = ANSWER_SECONDS) -> None:
    """Look at the WebUI that the worker would use; in one that runs nothing is changed, and nothing interrupted.

    One that runs may take so many seconds for its answers.
    """
    settings = report.settings
    if not settings.run_sd:
        report.ok("RUN_SD=false: image jobs are left to other workers")
    elif settings.sd_server_url is not None:
        await _look_at_url(settings.sd_server_url, report, limit)
    elif await aside(lambda: has_webui(settings)):
        await aside(lambda: look_at_command(report))
    else:
        _tell_none(report)


def _tell_none(report: CheckReport) -> None:
    settings = report.settings
    missing = (
        f"there is no Stable Diffusion WebUI: {FOLDER / LAUNCH} is missing, and neither SD_STARTUP_COMMAND nor "
        "SD_SERVER_URL is set"
    )
    put = f"put one into {FOLDER}, or name yours with SD_STARTUP_COMMAND or SD_SERVER_URL"
    if settings.run_llm:
        waits = Keys(settings.queue_name).ready(Kind.IMAGE)
        report.warning(f"{missing}: image jobs wait in {waits} for a worker that has one", f"{put}; or RUN_SD=false")
    else:
        report.error(f"RUN_LLM=false, and {missing}: the worker has nothing to run", f"{put}; or RUN_LLM=true")


async def _look_at_url(url: str, report: CheckReport, limit: float) -> None:
    if not await has_address(url, "SD_SERVER_URL", report):
        return
    shown = f"SD_SERVER_URL={hide_password(url)}"
    curl = f"see what answers there: curl {hide_password(url)}{_PREFIX}/sd-models"
    try:
        with anyio.fail_after(limit):
            async with EngineHTTP(url) as http:
                catalogue = await read_catalogue(WebUIApi(http))
                lacks = await _lacks(http)
    except JobError as error:
        _tell_refusal(error, url, curl, report)
    except (ConnectionLostError, TimeoutError) as error:
        report.error(
            f"{shown} does not answer ({str(error) or f'no answer in {limit:g} s'})",
            f"start the WebUI there with --api, or correct SD_SERVER_URL; {curl}",
        )
    else:
        _describe(shown, catalogue, lacks, report)


async def _lacks(http: EngineHTTP) -> Sequence[str]:
    """Find out what a WebUI cannot do, without having it do anything: a GET of a route that takes POST is refused."""
    status, progress = await http.get(f"{_PREFIX}/progress?skip_current_image=true", timeout=ANSWER_SECONDS)
    lacks = ["progress"] if status in _ABSENT or not isinstance(progress, dict) or "state" not in progress else []
    status, _ = await http.get(f"{_PREFIX}/interrupt", timeout=ANSWER_SECONDS)
    lacks += ["interrupt"] if status in _ABSENT - {_WRONG_METHOD} else []
    async with http.post(f"{_PREFIX}/options", _NO_OPTIONS) as response:
        lacks += ["options"] if response.status in _ABSENT else []
    return lacks


def _tell_refusal(error: JobError, url: str, curl: str, report: CheckReport) -> None:
    """Say what a server answered that is not what a WebUI answers when all is well."""
    text, shown = str(error), f"SD_SERVER_URL={hide_password(url)}"
    if is_passing(error):
        report.warning(f"{shown} cannot be used yet ({text}): the worker waits for it", f"wait; {curl}")
    elif "--api-auth" in text and urlsplit(url).username is not None:
        report.error(
            f"{shown}: the WebUI wants another user or password (--api-auth)",
            "correct those in SD_SERVER_URL; %40 stands for @, %3A for a colon, %2F for a slash",
        )
    elif "--api-auth" in text:
        report.error(*parted(f"{shown}: {text}", curl))
    else:
        report.error(f"{shown}: {text}", f"point SD_SERVER_URL at a WebUI that was started with --api; {curl}")


def _describe(shown: str, catalogue: Catalogue, lacks: Sequence[str], report: CheckReport) -> None:
    names = [model.name for model in catalogue.models]
    loaded = None if catalogue.loaded is None else catalogue.loaded.name
    facts = {"source": "SD_SERVER_URL", "models": names, "loaded": loaded, "lacks": list(lacks)}
    many = f"{len(names)} model{'s'[: len(names) != 1]} ({listed(names)})" if names else "no model"
    report.ok(f"{shown}: {many}, {loaded or 'it does not tell which one'} is loaded", **facts)
    if not names:
        report.warning(
            f"{shown} has no model, and can make no image", "put one where that WebUI looks: models/Stable-diffusion"
        )
    if lacks:
        losses = "; ".join(f"no {name}: {_LOSSES[name]}" for name in lacks)
        report.warning(
            f"that WebUI cannot do all that AUTOMATIC1111's can ({losses})",
            "if somebody needs that, point SD_SERVER_URL at AUTOMATIC1111, Forge or SD.Next",
            lacks=list(lacks),
        )
