"""What checks find, and what they share."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import anyio

from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings import Settings
from velesio_worker.core.threads import aside

MEBIBYTE: Final = 1024 * 1024
RESOLVE_SECONDS: Final = 4.0
TEXT_ELSEWHERE: Final = "RUN_LLM=false: text jobs are left to other workers"

_BRACKETS: Final = re.compile(r"\([^()]*\)")


class Status(StrEnum):
    """How a check came out. With an error the worker could not work; with a warning it could, and somebody may mind."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Attributes:
        message: what was found, for people; one line.
        remedy: what to do about it; None if there is nothing to do.
        facts: the same and more for programs: values that JSON can carry.
    """

    check: str
    status: Status
    message: str
    remedy: str | None = None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def row(self) -> dict[str, Any]:
        """Return it as one flat JSON object."""
        fixed = {"check": self.check, "status": self.status, "message": self.message, "remedy": self.remedy}
        return fixed | self.facts


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What one check is given, and collects.

    Attributes:
        check: the check's name.
        settings: those of the worker that is looked at, which does not run yet.
        environ: the environment that it would be started in.
        findings: what was found so far.
        ended: set once that is all.
    """

    check: str
    settings: Settings
    environ: Mapping[str, str]
    findings: list[Finding] = field(default_factory=list[Finding])
    ended: anyio.Event = field(default_factory=anyio.Event)

    def ok(self, message: str, **facts: Any) -> None:  # noqa: ANN401 (JSON)
        """Note that something is as it should be."""
        self.findings.append(Finding(self.check, Status.OK, message, None, facts))

    def warning(self, message: str, remedy: str, **facts: Any) -> None:  # noqa: ANN401 (JSON)
        """Note what the worker can work with, and somebody may mind."""
        self.findings.append(Finding(self.check, Status.WARNING, message, remedy, facts))

    def error(self, message: str, remedy: str, **facts: Any) -> None:  # noqa: ANN401 (JSON)
        """Note what the worker cannot work with."""
        self.findings.append(Finding(self.check, Status.ERROR, message, remedy, facts))


def parted(text: str, otherwise: str) -> tuple[str, str]:
    """Part an error's text, ``what is the matter: what to do``, at the last colon that stands outside of brackets.

    Args:
        text: the error's text.
        otherwise: what to do if the text does not say.
    """
    bare = _BRACKETS.sub(lambda found: "_" * len(found.group()), text)
    at = bare.rfind(": ")
    return (text[:at], text[at + 2 :]) if at > 0 else (text.rstrip("."), otherwise)


async def unknown_hosts(hosts: Iterable[str]) -> dict[str, str]:
    """Return those of the host names that have no address, each with the reason.

    Clients ask for addresses in threads that are waited for at the end, however long a name server takes; hence they
    are asked for names only that have been found here.
    """
    unknown: dict[str, str] = {}

    async def look_up(host: str) -> None:
        try:
            with anyio.fail_after(RESOLVE_SECONDS):
                await aside(lambda: socket.getaddrinfo(host, None))
        except TimeoutError:
            unknown[host] = f"no name server answered in {RESOLVE_SECONDS:g} s"
        except (OSError, UnicodeError) as error:
            unknown[host] = getattr(error, "strerror", None) or str(error)

    async with anyio.create_task_group() as group:
        for host in set(hosts):
            group.start_soon(look_up, host)
    return unknown


async def has_address(url: str, setting: str, report: CheckReport) -> bool:
    """Whether the host of a setting's URL has an address; it is an error if not."""
    unknown = await unknown_hosts([urlsplit(url).hostname or ""])
    for host, reason in unknown.items():
        report.error(f"{setting}={hide_password(url)}: the host {host!r} is not known ({reason})", f"correct {setting}")
    return not unknown


def mebibytes(size: float) -> str:
    """Show a number of bytes."""
    return f"{size / MEBIBYTE:,.0f} MiB"
