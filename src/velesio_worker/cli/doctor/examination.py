"""All checks of a worker, side by side, each within its time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio

from velesio_worker.cli.doctor.findings import CheckReport, Finding, Status, Subject
from velesio_worker.cli.doctor.gpu import check_gpu
from velesio_worker.cli.doctor.host import check_folders, check_ports, check_settings, check_system
from velesio_worker.cli.doctor.model import check_model
from velesio_worker.cli.doctor.redis import check_redis
from velesio_worker.cli.doctor.results import check_results
from velesio_worker.cli.doctor.server import check_server
from velesio_worker.cli.doctor.webui import check_webui
from velesio_worker.core.settings import Settings
from velesio_worker.wire.errors import SettingsError

LIMIT_SECONDS: Final = 8.0
"""How long a check may take."""

SETTINGS: Final = "settings"

Check = Callable[[Subject, CheckReport], Awaitable[None]]

CHECKS: Final[Mapping[str, Check]] = {
    SETTINGS: check_settings,
    "Redis": check_redis,
    "model": check_model,
    "llama-server": check_server,
    "GPU": check_gpu,
    "port": check_ports,
    "folders": check_folders,
    "WebUI": check_webui,
    "results": check_results,
    "system": check_system,
}
"""In the order in which their findings are shown."""

_HANGS: Final = {
    "Redis": "see whether Redis, and what lies between, is overloaded: redis-cli --latency -h HOST",
    "model": "see whether the disk that MODEL_PATH lies on answers: ls -l MODEL_PATH",
    "llama-server": "run it by hand and see where it hangs: llama-server --version, or curl LLAMA_SERVER_URL/props",
    "GPU": "a GPU that hangs does not answer NVML: see nvidia-smi, and what dmesg says of it (Xid)",
    "folders": "see whether the disks answer: df",
    "WebUI": "see whether the WebUI answers (curl SD_SERVER_URL/sdapi/v1/sd-models), and the disks of data/sd and "
    "SD_MODEL_PATH: df",
    "results": "see whether RESULT_STORE answers: df for a folder; for s3:// AWS_ENDPOINT_URL, and that "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set",
}


async def examine(settings: Settings, environ: Mapping[str, str], show: Callable[[Finding], None]) -> None:
    """Look at everything that a worker needs.

    All checks run at the same time. None raises, and none takes longer than ``LIMIT_SECONDS``.

    Args:
        settings: the worker's settings.
        environ: the environment that it would be started in.
        show: is given what is found, in the order of :data:`CHECKS`, as soon as it is its turn.
    """
    subject = Subject(settings, environ)
    reports = {name: CheckReport(name) for name in CHECKS}
    ends = {name: anyio.Event() for name in CHECKS}

    async def run(name: str, check: Check) -> None:
        await _bounded(check, subject, reports[name])
        ends[name].set()

    async with anyio.create_task_group() as group:
        for name, check in CHECKS.items():
            group.start_soon(run, name, check)
        for name, report in reports.items():
            await ends[name].wait()
            for finding in report.findings:
                show(finding)


async def _bounded(check: Check, subject: Subject, report: CheckReport) -> None:
    """Run a check; whatever goes wrong with it is a finding, too."""
    try:
        with anyio.fail_after(LIMIT_SECONDS):
            await check(subject, report)
    except TimeoutError:
        remedy = _HANGS.get(report.check, "see what the machine is busy with: top")
        report.error(f"no answer within {LIMIT_SECONDS:g} s", remedy)
    except Exception as error:  # noqa: BLE001 (one check that fails must not hide what the others find)
        report.error(f"the check failed: {type(error).__name__}: {error}", "report this: it is a fault of the doctor's")


def refused(error: SettingsError) -> list[Finding]:
    """Return the findings of a worker whose settings cannot be read: one for each that is wrong."""
    return [
        Finding(SETTINGS, Status.ERROR, line, f"correct {line.partition('=')[0]}, or unset it to have its default")
        for line in str(error).splitlines()
    ]
