"""The command line's part for looking before starting: ``velesio-worker doctor``."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Final

import anyio
import typer

from velesio_worker.cli.base import EXIT_FAILED, EXIT_USAGE, harmless, print_json
from velesio_worker.cli.doctor.findings import CheckReport, Finding, Status
from velesio_worker.cli.doctor.gpu import check_gpu
from velesio_worker.cli.doctor.host import check_folders, check_ports, check_results, check_settings, check_system
from velesio_worker.cli.doctor.model import check_model
from velesio_worker.cli.doctor.redis import check_redis
from velesio_worker.cli.doctor.server import check_server
from velesio_worker.cli.doctor.webui import check_webui
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.settings import LogFormat, Settings, load_settings
from velesio_worker.core.terminal import GREEN, RED, YELLOW, painted
from velesio_worker.core.threads import aside
from velesio_worker.wire.errors import SettingsError

LIMIT_SECONDS: Final = 8.0
"""How long a check may take."""

Check = Callable[[CheckReport], Awaitable[None] | None]
"""One that may block is a plain function, and gets a thread that nobody waits for when it hangs."""

_SETTINGS: Final = "settings"
CHECKS: Final[Mapping[str, Check]] = {
    _SETTINGS: check_settings,
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
_COLOURS: Final[Mapping[Status, str]] = {Status.OK: GREEN, Status.WARNING: YELLOW, Status.ERROR: RED}
_STATUS_WIDTH: Final = max(map(len, Status)) + 2
_CHECK_WIDTH: Final = max(map(len, CHECKS)) + 2


def command(*, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> int:
    """Look at all of it; returns the exit code: 0 a worker can work, 1 it cannot, 2 a setting is wrong."""
    configure_logging("CRITICAL", LogFormat.CONSOLE)  # what is logged is found, too
    findings: list[Finding] = []

    def take(finding: Finding) -> None:
        findings.append(finding)
        if not json:
            print(_shown(finding), flush=True)

    try:
        settings = load_settings()
    except SettingsError as error:
        for line in str(error).splitlines():
            advice = f"correct {line.partition('=')[0]}, or unset it to have its default"
            take(Finding(_SETTINGS, Status.ERROR, line, advice))
    else:
        anyio.run(examine, settings, os.environ, take)
    failed = [finding.check for finding in findings if finding.status is Status.ERROR]
    if json:
        print_json([finding.row() for finding in findings])
    elif failed:
        print(f"The worker cannot work: {len(failed)} error{'s'[: len(failed) != 1]}.")
    else:
        print("The worker can work.")
    return EXIT_USAGE if _SETTINGS in failed else EXIT_FAILED if failed else 0


def _shown(finding: Finding) -> str:
    status = painted(finding.status.ljust(_STATUS_WIDTH), _COLOURS[finding.status], sys.stdout)
    line = f"{status}{finding.check.ljust(_CHECK_WIDTH)}{_line(finding.message)}"
    return line if finding.remedy is None else f"{line}\n{' ' * _STATUS_WIDTH}→ {_line(finding.remedy)}"


def _line(text: str) -> str:
    return harmless(" ".join(text.split()))


async def examine(
    settings: Settings,
    environ: Mapping[str, str],
    show: Callable[[Finding], None],
    checks: Mapping[str, Check] = CHECKS,
    limit: float = LIMIT_SECONDS,
) -> None:
    """Look at everything that a worker needs.

    All checks run at the same time. None raises, and none takes longer than the limit.

    Args:
        settings: the worker's settings.
        environ: the environment that it would be started in.
        show: is given what is found, in the order of the checks, as soon as it is its turn.
        checks: what to look at, by name.
        limit: how long each may take, in seconds.
    """
    reports = [(check, CheckReport(name, settings, environ)) for name, check in checks.items()]
    async with anyio.create_task_group() as group:
        for check, report in reports:
            group.start_soon(_bounded, check, report, limit)
        for _, report in reports:
            await report.ended.wait()
            for finding in report.findings:
                show(finding)


async def _bounded(check: Check, report: CheckReport, limit: float) -> None:
    """Run a check; whatever goes wrong with it is a finding, too."""
    try:
        with anyio.fail_after(limit):
            await run_check(check, report)
    except TimeoutError:
        remedy = _HANGS.get(report.check, "see what the machine is busy with: top")
        report.error(f"no answer within {limit:g} s", remedy)
    except Exception as error:  # noqa: BLE001 (one check that fails must not hide what the others find)
        report.error(f"the check failed: {type(error).__name__}: {error}", "report this: it is a fault of the doctor's")
    report.ended.set()


async def run_check(check: Check, report: CheckReport) -> None:
    """Run a check, however long it takes."""
    if inspect.iscoroutinefunction(check):
        await check(report)
    else:
        await aside(partial(check, report))
