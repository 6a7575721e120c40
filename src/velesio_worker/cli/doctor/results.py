"""Where the images of large results go."""

from __future__ import annotations

from typing import Final

from velesio_worker.cli.doctor.findings import CheckReport, Subject, parted
from velesio_worker.core.secrets import hide_password
from velesio_worker.execution.results.images import CHECK_NAME, check, open_store
from velesio_worker.wire.errors import SettingsError

_S3: Final = "s3://"


async def check_results(subject: Subject, report: CheckReport) -> None:
    """Look whether RESULT_STORE can be written: a small file is put there."""
    settings = subject.settings
    where = settings.result_store
    if where is None:
        images = settings.run_sd
        report.ok("RESULT_STORE is not set: images stay in their results" if images else "no images are made here")
        return
    try:
        store = open_store(settings)
        if store is None or not settings.run_sd:
            report.ok("RUN_SD=false: nothing is put into RESULT_STORE")
            return
        await check(store)
    except SettingsError as error:
        report.error(*_explained(str(error)))
        return
    shown = hide_password(where)
    report.ok(f"RESULT_STORE={shown} can be written ({CHECK_NAME} lies there now)", store=shown)
    if settings.result_store_url is None and not where.startswith(_S3):
        report.warning(
            f"RESULT_STORE={shown} is a folder and RESULT_STORE_URL is not set: the results' file:// URLs are of use "
            "on this host only",
            "have a web server show that folder, and set RESULT_STORE_URL to where it does",
        )


def _explained(text: str) -> tuple[str, str]:
    """Part an error's text; one that says what a variable must be is left whole."""
    name = text.partition("=")[0]
    return (text, f"correct {name}, or unset it") if ": must be " in text else parted(text, "correct RESULT_STORE")
