"""llama-server: the program that would be started, or the server that runs elsewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Final

import anyio

from velesio_worker.cli.doctor.findings import TEXT_ELSEWHERE, CheckReport, has_address, parted
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

_FLAG: Final = re.compile(r"(?<![\w-])--?[A-Za-z][A-Za-z0-9_-]*")
_ENTRY: Final = re.compile(r" {0,4}-")
_REMOVED: Final = "argument has been removed"
_SERVER: Final = re.compile(r"llama-server[\w-]*")
_EMBEDDED: Final = ["-m", "velesio_worker.engines.llama.embedded"]
_TRANSPARENT: Final = frozenset({"chrt", "env", "ionice", "nice", "numactl", "setsid", "stdbuf", "taskset"})
"""Programs that do no more than start another on this machine: with --help behind it, that one shows its help."""


async def check_server(report: CheckReport, limit: float = RUN_SECONDS) -> None:
    """Look at the llama-server that the worker would use; a program may run for so many seconds."""
    settings = report.settings
    if not settings.run_llm:
        report.ok(TEXT_ELSEWHERE)
    elif settings.llama_server_url is not None:
        await _look_at_url(settings.llama_server_url, report)
    elif (command := await aside(lambda: _command(report))) is not None:
        await _ask(*command, report, limit)


def _command(report: CheckReport) -> tuple[list[str], list[str], str] | None:
    """Return what starts llama-server, its arguments, and where it is from; None if that was told of."""
    settings = report.settings
    if settings.startup_command is not None:
        return _startup_command(shlex.split(settings.startup_command), report)
    try:
        program, source = find_program()
    except EngineStartError as error:
        what, _, rest = str(error).partition(". ")  # the one with several remedies; others have a colon
        report.error(*((what, rest) if rest else parted(str(error), "")))
        return None
    info: GgufInfo | None = None
    with suppress(GgufError, OSError):  # the model's own check tells
        info = read_gguf(settings.model_path)
    sizing = sized(settings.gpu_sizing, None, settings.gpu_layers, settings.context_size)
    return program, own_arguments(settings, settings.model_path, info, sizing), source


def _startup_command(argv: Sequence[str], report: CheckReport) -> tuple[list[str], list[str], str] | None:
    path = shutil.which(argv[0], path=report.environ.get("PATH"))
    split = split_command(argv)
    if path is None:
        report.error(
            f"STARTUP_COMMAND: {argv[0]!r} is no program that can be run here",
            f"name one, with its path: command -v {shlex.quote(argv[0])}; chmod +x makes a file one",
        )
    elif split is None:
        report.ok(
            f"STARTUP_COMMAND starts {argv[0]}, and whatever that starts: its flags cannot be checked",
            program=path,
            source="STARTUP_COMMAND",
        )
    else:
        return *split, "STARTUP_COMMAND"
    return None


async def _ask(
    program: Sequence[str], arguments: Sequence[str], source: str, report: CheckReport, limit: float
) -> None:
    answers: dict[str, tuple[Sequence[str], tuple[str, str] | None]] = {}

    async def ask(flag: str) -> None:
        answers[flag] = await _say([*program, flag], report, limit)

    async with anyio.create_task_group() as group:
        group.start_soon(ask, "--version")
        group.start_soon(ask, "--help")
    lines, trouble = answers["--version"]
    if trouble is not None:
        report.error(*trouble, source=source)
        return
    told = next((line.partition("version: ")[2] for line in lines if "version: " in line), "")
    shown = program[0] if source == "STARTUP_COMMAND" else source
    report.ok(f"{shown}, version {told or 'unknown'}", program=program[0], source=source, version=told or None)
    known = known_flags(answers["--help"][0])
    if not {"--model", "--port"} <= known:
        report.warning(
            f"{shlex.join(program)} --help does not tell its flags: whether it knows those it gets is not known",
            "run it by hand; llama-server tells them",
        )
        return
    for flag in unknown_flags(arguments, known):
        advice = _advice(report.settings, flag)
        report.error(f"llama-server does not know the flag {flag}, and would not start", advice, flag=flag)


async def _say(
    command: Sequence[str], report: CheckReport, limit: float
) -> tuple[Sequence[str], tuple[str, str] | None]:
    """Run a program to its end; returns what it wrote, and what is the matter and what to do if it failed."""
    settings, lines = report.settings, list[str]()
    remedy = "check STARTUP_COMMAND" if settings.startup_command else "check that it is built for this machine"
    environment = engine_environment(settings, report.environ, settings.llama_port)
    try:
        async with running(command, env=environment, on_line=lines.append, remedy=remedy) as process:
            try:
                with anyio.fail_after(limit):
                    code = await process.wait()
                    await process.drained()
            finally:
                process.kill()  # the gentle way takes longer than a check may
    except EngineStartError as error:
        return lines, parted(str(error), _BUILT)
    except TimeoutError:
        return lines, (f"{shlex.join(command)} did not end within {limit:g} s", "run it by hand")
    if not code:
        return lines, None
    last = lines[-1] if lines else "(nothing)"
    return lines, (f"{shlex.join(command)} {process.how_it_ended()}. It said: {last}", f"{_BUILT} {command[0]}")


def _advice(settings: Settings, flag: str) -> str:
    if settings.startup_command is not None:
        return f"take {flag} out of STARTUP_COMMAND, or {_UPDATE}"
    if flag in unknown_flags(shlex.split(settings.llama_args or ""), frozenset()):
        return f"take {flag} out of LLAMA_ARGS, or {_UPDATE}"
    if flag == "--fit":
        return f"GPU_SIZING=caps, or {_UPDATE}"
    return f"{_UPDATE}, or name a command without it: STARTUP_COMMAND"


async def _look_at_url(url: str, report: CheckReport) -> None:
    if not await has_address(url, "LLAMA_SERVER_URL", report):
        return
    shown = f"LLAMA_SERVER_URL={hide_password(url)}"
    curl = f"see what answers there: curl {hide_password(url)}"
    try:
        async with EngineHTTP(url, api_key=report.settings.llama_api_key, ca_file=report.settings.ca_file) as http:
            properties = await read_properties(http)
    except ConnectionLostError as error:
        remedy = f"start that server, or correct LLAMA_SERVER_URL; {curl}/health"
        report.error(f"{shown} does not answer ({error})", remedy)
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
    wanted = report.settings.llm_concurrency
    if (wanted or 0) > properties.slots:
        report.warning(
            f"LLM_CONCURRENCY={wanted}, and that server has {properties.slots} slots",
            f"start it with --parallel {wanted}, or LLM_CONCURRENCY={properties.slots}",
        )


def split_command(argv: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Part a command into what starts llama-server, and llama-server's arguments.

    Returns:
        both; None for a command that may start anything, so that it cannot be asked for its help: a shell, a script,
        a container, another machine.
    """
    for count in (1, 2):  # with -P, which keeps the working folder's modules out, or without
        if list(argv[count : count + 2]) == _EMBEDDED and list(argv[1:count]) in ([], ["-P"]):
            return list(argv[: count + 2]), list(argv[count + 2 :])
    for index, word in enumerate(argv):
        if _SERVER.fullmatch(PurePath(word).name):
            plain = index == 0 or PurePath(argv[0]).name in _TRANSPARENT
            return (list(argv[: index + 1]), list(argv[index + 1 :])) if plain else None
    return None


def known_flags(help_lines: Sequence[str]) -> frozenset[str]:
    """Return the flags that a llama-server's help tells of, without those that it tells were removed."""
    entries: list[list[str]] = [[]]
    for line in help_lines:
        if _ENTRY.match(line):
            entries.append([])
        entries[-1].append(line)
    texts = (" ".join(" ".join(entry).split()) for entry in entries)
    return frozenset(flag for text in texts if _REMOVED not in text for flag in _FLAG.findall(text))


def unknown_flags(arguments: Sequence[str], known: frozenset[str]) -> list[str]:
    """Return the flags among arguments that are not known, each once; in long ones ``_`` goes for ``-``."""
    found: list[str] = []
    for word in arguments:
        flag = word.partition("=")[0]
        name = flag.replace("_", "-") if flag.startswith("--") else flag
        if _FLAG.fullmatch(flag) and name not in known and flag not in found:
            found.append(flag)
    return found
