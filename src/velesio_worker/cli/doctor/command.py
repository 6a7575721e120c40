"""The command line's part for looking before starting: ``velesio-worker doctor``."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import anyio
import orjson

from velesio_worker.cli.base import Commands
from velesio_worker.cli.doctor.examination import CHECKS, SETTINGS, examine, refused
from velesio_worker.cli.doctor.findings import Finding, Status
from velesio_worker.core.logs import configure_logging
from velesio_worker.core.settings import LogFormat, load_settings
from velesio_worker.wire.errors import SettingsError

EXIT_CANNOT_WORK: Final = 1
EXIT_SETTINGS: Final = 2

_COLOURS: Final[Mapping[Status, str]] = {Status.OK: "32", Status.WARNING: "33", Status.ERROR: "31"}
_STATUS_WIDTH: Final = max(map(len, Status)) + 2
_CHECK_WIDTH: Final = max(map(len, CHECKS)) + 2


def add_parser(commands: Commands) -> None:
    """Add ``doctor`` to the command line."""
    doctor = commands.add_parser("doctor", help="look whether a worker could work here, and what to do if not")
    doctor.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run ``velesio-worker doctor``; returns the exit code: 0 a worker can work, 1 it cannot, 2 a setting is wrong."""
    configure_logging("CRITICAL", LogFormat.CONSOLE)  # what is logged is found, too
    findings: list[Finding] = []

    def take(finding: Finding) -> None:
        findings.append(finding)
        if not arguments.json:
            print(_shown(finding, colours=_has_colours()), flush=True)

    try:
        settings = load_settings()
    except SettingsError as error:
        for finding in refused(error):
            take(finding)
    else:
        anyio.run(examine, settings, os.environ, take)
    if arguments.json:
        print(orjson.dumps([finding.row() for finding in findings], default=str, option=orjson.OPT_INDENT_2).decode())
    else:
        print(_verdict(findings))
    return _exit_code(findings)


def _has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _shown(finding: Finding, *, colours: bool) -> str:
    status = finding.status.ljust(_STATUS_WIDTH)
    if colours:
        status = f"\x1b[{_COLOURS[finding.status]}m{status}\x1b[0m"
    line = f"{status}{finding.check.ljust(_CHECK_WIDTH)}{_line(finding.message)}"
    return line if finding.remedy is None else f"{line}\n{' ' * _STATUS_WIDTH}→ {_line(finding.remedy)}"


def _line(text: str) -> str:
    """Make one line of a text that may hold what a server or a file says, and that no terminal obeys."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in " ".join(text.split()))


def _verdict(findings: Sequence[Finding]) -> str:
    errors = Counter(finding.status for finding in findings)[Status.ERROR]
    return f"The worker cannot work: {errors} error{'s'[: errors != 1]}." if errors else "The worker can work."


def _exit_code(findings: Sequence[Finding]) -> int:
    failed = {finding.check for finding in findings if finding.status is Status.ERROR}
    return EXIT_SETTINGS if SETTINGS in failed else EXIT_CANNOT_WORK if failed else 0
