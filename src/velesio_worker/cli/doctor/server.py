"""llama-server: the program that would be started, or the server that runs elsewhere."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import anyio

from velesio_worker.cli.doctor.findings import TEXT_ELSEWHERE, CheckReport, Subject, parted, unknown_hosts
from velesio_worker.cli.doctor.flags import known_flags, split_command, unknown_flags
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings import Settings
from velesio_worker.core.threads import aside
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.llama.command import engine_environment, find_program, own_arguments
from velesio_worker.engines.llama.engine import read_properties
from velesio_worker.engines.llama.sizing import sized
from velesio_worker.engines.models.gguf import GgufError, GgufInfo, read_gguf
from velesio_worker.engines.supervision.process import running
from velesio_worker.wire.errors import EngineRefusedError, EngineStartError

RUN_SECONDS: Final = 6.0
_UPDATE: Final = "take a newer llama-server (https://github.com/ggml-org/llama.cpp/releases)"
_BUILT: Final = "check that it is built for this machine and finds its libraries: ldd"


@dataclass(frozen=True, slots=True)
class _Said:
    """How a program ended, and what it wrote."""

    code: int
    how: str
    lines: Sequence[str]


async def check_server(subject: Subject, report: CheckReport) -> None:
    """Look at the llama-server that the worker would use."""
    settings = subject.settings
    if not settings.run_llm:
        report.ok(TEXT_ELSEWHERE)
    elif settings.llama_server_url is not None:
        await _look_at_url(settings, settings.llama_server_url, report)
    elif settings.startup_command is not None:
        await _look_at_command(subject, shlex.split(settings.startup_command), report)
    else:
        try:
            program, source = await aside(find_program)
        except EngineStartError as error:
            what, _, rest = str(error).partition(". ")  # the one with several remedies; others have a colon
            report.error(*(parted(str(error), "") if not rest else (what, rest)))
            return
        await _ask(subject, program, await _own_arguments(settings), source, report)


async def _own_arguments(settings: Settings) -> Sequence[str]:
    info: GgufInfo | None = None
    with suppress(GgufError, OSError):  # the model's own check tells
        info = await aside(partial(read_gguf, settings.model_path))
    sizing = sized(settings.gpu_sizing, None, settings.gpu_layers, settings.context_size)
    return own_arguments(settings, settings.model_path, info, sizing)


async def _look_at_command(subject: Subject, argv: Sequence[str], report: CheckReport) -> None:
    path = await aside(lambda: shutil.which(argv[0], path=subject.environ.get("PATH")))
    if path is None:
        report.error(
            f"STARTUP_COMMAND: {argv[0]!r} is no program that can be run here",
            f"name one, with its path: command -v {shlex.quote(argv[0])}; chmod +x makes a file one",
        )
        return
    split = split_command(argv)
    if split is None:
        report.ok(
            f"STARTUP_COMMAND starts {argv[0]}, and whatever that starts: its flags cannot be checked",
            program=path,
            source="STARTUP_COMMAND",
        )
        return
    program, arguments = split
    await _ask(subject, program, arguments, "STARTUP_COMMAND", report)


async def _ask(
    subject: Subject, program: Sequence[str], arguments: Sequence[str], source: str, report: CheckReport
) -> None:
    """Have a program tell its version and its flags."""
    answers: dict[str, _Said | str] = {}

    async def ask(flag: str) -> None:
        try:
            answers[flag] = await _say(subject, [*program, flag])
        except EngineStartError as error:
            answers[flag] = str(error)
        except TimeoutError:
            answers[flag] = f"{shlex.join([*program, flag])} did not end within {RUN_SECONDS:g} s: run it by hand"

    async with anyio.create_task_group() as group:
        group.start_soon(ask, "--version")
        group.start_soon(ask, "--help")
    version = answers["--version"]
    if isinstance(version, str):
        report.error(*parted(version, _BUILT), source=source)
        return
    if version.code:
        last = version.lines[-1] if version.lines else "(nothing)"
        how = f"{shlex.join(program)} --version {version.how}. It said: {last}"
        report.error(how, f"{_BUILT} {program[0]}", source=source)
        return
    told = next((line.partition("version: ")[2] for line in version.lines if "version: " in line), "")
    report.ok(
        f"{program[0] if source == 'STARTUP_COMMAND' else source}, version {told or 'unknown'}",
        program=program[0],
        source=source,
        version=told or None,
    )
    _compare(subject.settings, program, arguments, answers["--help"], report)


async def _say(subject: Subject, command: Sequence[str]) -> _Said:
    """Run a program to its end.

    Raises:
        EngineStartError: it cannot be run.
        TimeoutError: it does not end.
    """
    settings, lines = subject.settings, list[str]()
    remedy = "check STARTUP_COMMAND" if settings.startup_command else "check that it is built for this machine"
    environment = engine_environment(settings, subject.environ, settings.llama_port)
    async with running(command, env=environment, on_line=lines.append, remedy=remedy) as process:
        try:
            with anyio.fail_after(RUN_SECONDS):
                code = await process.wait()
                await process.drained()
        finally:
            process.kill()  # the gentle way takes longer than a check may
    return _Said(code, process.how_it_ended(), lines)


def _compare(
    settings: Settings, program: Sequence[str], arguments: Sequence[str], told: _Said | str, report: CheckReport
) -> None:
    """Compare the flags that a program gets with those that it knows."""
    known = frozenset[str]() if isinstance(told, str) else known_flags(told.lines)
    if not {"--model", "--port"} <= known:
        report.warning(
            f"{shlex.join(program)} --help does not tell its flags: whether it knows those it gets is not known",
            "run it by hand; llama-server tells them",
        )
        return
    for flag in unknown_flags(arguments, known):
        report.error(
            f"llama-server does not know the flag {flag}, and would not start", _advice(settings, flag), flag=flag
        )


def _advice(settings: Settings, flag: str) -> str:
    """Say how to get rid of a flag that a llama-server does not know."""
    if settings.startup_command is not None:
        return f"take {flag} out of STARTUP_COMMAND, or {_UPDATE}"
    if unknown_flags(shlex.split(settings.llama_args or ""), frozenset()).count(flag):
        return f"take {flag} out of LLAMA_ARGS, or {_UPDATE}"
    if flag == "--fit":
        return f"GPU_SIZING=caps, or {_UPDATE}"
    return f"{_UPDATE}, or name a command without it: STARTUP_COMMAND"


async def _look_at_url(settings: Settings, url: str, report: CheckReport) -> None:
    shown = f"LLAMA_SERVER_URL={hide_password(url)}"
    curl = f"see what answers there: curl {hide_password(url)}"
    if unknown := await unknown_hosts([urlsplit(url).hostname or ""]):
        (host, reason), *_ = unknown.items()
        report.error(f"{shown}: the host {host!r} is not known ({reason})", "correct LLAMA_SERVER_URL")
        return
    try:
        async with EngineHTTP(url, api_key=settings.llama_api_key) as http:
            properties = await read_properties(http)
    except ConnectionLostError as error:
        report.error(
            f"{shown} does not answer ({error})", f"start that server, or correct LLAMA_SERVER_URL; {curl}/health"
        )
        return
    except EngineRefusedError as error:
        message, advice = parted(str(error), f"point LLAMA_SERVER_URL at a llama-server; {curl}/props")
        report.error(f"{shown}: {message}", advice)
        return
    if properties is None:
        report.warning(f"{shown} still loads its model: the worker waits for it", f"wait; {curl}/health")
        return
    report.ok(
        f"{shown}: {properties.model}, {properties.slots} slots of {properties.context_length} tokens",
        source="LLAMA_SERVER_URL",
        model=properties.model,
        slots=properties.slots,
        context_length=properties.context_length,
    )
    if (settings.llm_concurrency or 0) > properties.slots:
        report.warning(
            f"LLM_CONCURRENCY={settings.llm_concurrency}, and that server has {properties.slots} slots",
            f"start it with --parallel {settings.llm_concurrency}, or LLM_CONCURRENCY={properties.slots}",
        )
