"""The Stable Diffusion WebUI: this release has no image engine, and says who runs image jobs then."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from velesio_worker.doctor.findings import Report, Subject, unknown_hosts
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.jobs import Kind
from velesio_worker.queue.keys import Keys
from velesio_worker.settings import hide_password

MODELS: Final = "/sdapi/v1/sd-models"
ANSWER_SECONDS: Final = 5.0
_OK: Final = 200


async def check_webui(subject: Subject, report: Report) -> None:
    """Say what becomes of image jobs and, where a WebUI is named, whether it answers."""
    settings = subject.settings
    if not settings.run_sd:
        report.ok("RUN_SD=false: image jobs are left to other workers")
        return
    waits = Keys(settings.queue_name).ready(Kind.IMAGE)
    none = f"this release has no image engine: image jobs wait in {waits} for a worker that has one"
    if settings.sd_server_url is None:
        report.warning(none, "RUN_SD=false says that this is known")
        return
    url = hide_password(settings.sd_server_url)
    status, trouble = await _ask(settings.sd_server_url)
    if status == _OK:
        report.ok(f"SD_SERVER_URL={url} answers; {none}", url=url, http_status=status)
    else:
        report.warning(
            f"SD_SERVER_URL={url} {trouble}; {none}",
            f"start the WebUI with --api, or correct SD_SERVER_URL (user and password go into it): curl {url}{MODELS}",
            url=url,
            http_status=status,
        )


async def _ask(url: str) -> tuple[int | None, str]:
    """Ask a WebUI for its models; returns the status, None without an answer, and what is the matter with it."""
    if unknown := await unknown_hosts([urlsplit(url).hostname or ""]):
        (host, reason), *_ = unknown.items()
        return None, f"does not answer: the host {host!r} is not known ({reason})"
    try:
        async with EngineHTTP(url) as http:
            status, _ = await http.get(MODELS, timeout=ANSWER_SECONDS)
    except ConnectionLostError as error:
        return None, f"does not answer ({error})"
    return status, f"answers {MODELS} with status {status}, which is not the WebUI's way"
