"""The command line's part for dead letters: ``velesio-worker dead [list | show | retry | drop]``."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated, Any, Final

import anyio
import orjson
import typer

from velesio_worker.cli.base import EXIT_FAILED, harmless, print_json, print_table
from velesio_worker.cli.redis_trouble import run_with_redis
from velesio_worker.core.settings import Settings
from velesio_worker.queue.connection import PAYLOAD_SECONDS, connect
from velesio_worker.queue.dead import REFERENCE_BYTES, DeadLetters, Letter, utc
from velesio_worker.queue.keys import Keys
from velesio_worker.wire.errors import VelesioError
from velesio_worker.wire.payload import is_job_id

_LIMIT: Final = 50
_LINE: Final = 80
"""How much of a reason the list shows, in characters."""

_TYPE: Final = 20
_MOMENT_SECONDS: Final = 1.0
_KIBI: Final = 1024


app = typer.Typer(add_completion=False)


def _reference(text: str) -> str:
    if not re.fullmatch(rf"[0-9a-f]{{4,{2 * REFERENCE_BYTES}}}", text.lower()):
        raise typer.BadParameter(
            f"{text!r} is no reference: 4 or more hex digits that `velesio-worker dead list` shows"
        )
    return text.lower()


def _complete() -> list[str]:
    """Return references for the shell, which waits at a key; none where Redis has none to tell."""
    found: list[str] = []

    async def look(letters: DeadLetters) -> int:
        with anyio.move_on_after(_MOMENT_SECONDS):
            async for letter in letters.newest(_LIMIT):
                found.append(letter.shown)  # noqa: PERF401 (those that came in time)
        return 0

    with suppress(VelesioError):
        _with_letters(look)
    return found


Reference = Annotated[
    str,
    typer.Argument(
        parser=_reference, autocompletion=_complete, metavar="REF", help="What the list says, or its beginning."
    ),
]
Which = Annotated[
    str | None, typer.Argument(parser=_reference, autocompletion=_complete, metavar="REF", help="Which letter.")
]
Json = Annotated[bool, typer.Option("--json", help="Say as JSON what was done.")]
All = Annotated[bool, typer.Option("--all", help="All letters that are there now.")]


def _with_letters(action: Callable[[DeadLetters], Awaitable[int]]) -> int:
    """Do something with the letters; returns the exit code. Raises VelesioError: it cannot be done."""

    async def main(settings: Settings) -> int:
        async with aclosing(connect(settings.redis_url, name="velesio-dead", socket_timeout=PAYLOAD_SECONDS)) as redis:
            return await action(DeadLetters(redis, Keys(settings.queue_name)))

    return run_with_redis(main)


def _one_or_all(reference: str | None, *, every: bool) -> None:
    if every is (reference is not None):
        raise typer.BadParameter("either REF or --all is needed, and not both")


@app.command("list")
def list_letters(
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = _LIMIT,
    json: Annotated[bool, typer.Option("--json", help="As JSON, without the jobs themselves.")] = False,
) -> int:
    """One line for each letter, the newest first."""
    return _with_letters(partial(_list, limit=limit, json=json))


@app.command()
def show(
    reference: Reference,
    *,
    json: Annotated[bool, typer.Option("--json", help="The letter as JSON.")] = False,
    payload: Annotated[bool, typer.Option("--payload", help="The job alone, byte by byte as it was pushed.")] = False,
) -> int:
    """All of one letter."""
    if json and payload:
        raise typer.BadParameter("--json and --payload exclude each other")
    return _with_letters(partial(_show, reference=reference, json=json, payload=payload))


@app.command()
def retry(reference: Which = None, *, every: All = False, json: Json = False) -> int:
    """Put the job back to the end of the queue."""
    _one_or_all(reference, every=every)
    return _with_letters(
        partial(_retry_all, json=json) if reference is None else partial(_retry, reference=reference, json=json)
    )


@app.command()
def drop(reference: Which = None, *, every: All = False, json: Json = False) -> int:
    """Remove the letter."""
    _one_or_all(reference, every=every)
    return _with_letters(partial(_drop, reference=reference, json=json))


async def _list(letters: DeadLetters, *, limit: int, json: bool) -> int:
    form: Callable[[Letter], Any] = _row if json else _columns  # which keep no job in memory
    rows: list[Any] = [form(letter) async for letter in letters.newest(limit)]
    if json:
        print_json(rows)
    elif rows:
        print_table(rows)
    else:
        print("no dead letters")
    older = await letters.count() - len(rows) if len(rows) == limit else 0
    if older > 0:
        print(f"and {older} older: --limit {len(rows) + older} shows them, too", file=sys.stderr)
    return 0


def _row(letter: Letter) -> dict[str, Any]:
    """What a program may know of a letter: all but the job itself, and neither id nor type can hold what is in it."""
    job = letter.job()
    job_id, job_type = job.get("id"), job.get("type")
    return {
        "reference": letter.reference,
        "at": letter.at,
        "worker": letter.worker,
        "id": job_id if is_job_id(job_id) else None,
        "type": _line(job_type, _TYPE) if isinstance(job_type, str) else None,
        "bytes": letter.size,
        "cut": letter.cut,
        "reason": letter.reason,
    }


def _columns(letter: Letter) -> list[str]:
    row = _row(letter)
    return [
        letter.shown,
        utc(letter.at),
        _line(letter.worker, _LINE) or "-",
        row["id"] or "-",
        row["type"] or "-",
        _size(letter.size),
        _line(letter.reason, _LINE),
    ]


def _line(text: str, limit: int) -> str:
    """Make one line of a text, of so many characters at most."""
    line = harmless(" ".join(text[: 2 * limit].split()))
    return line if len(line) <= limit and len(text) <= 2 * limit else f"{line[: limit - 1]}…"


def _size(size: float) -> str:
    if size < _KIBI:
        return f"{size} B"
    size /= _KIBI
    return f"{size:.1f} KiB" if size < _KIBI else f"{size / _KIBI:.1f} MiB"


async def _show(letters: DeadLetters, *, reference: str, json: bool, payload: bool) -> int:
    letter = await letters.find(reference)
    if json:
        try:
            print_json({"reference": letter.reference, **orjson.loads(letter.raw)})
        except (TypeError, orjson.JSONDecodeError):  # no JSON object, or one that is nested too deeply
            text = letter.raw.decode(errors="backslashreplace")
            print_json({"reference": letter.reference, "letter": text})
    elif not payload:
        _describe(letter)
    elif letter.payload is None:
        raise VelesioError(f"the dead letter {letter.shown} holds no job: {letter.reason}")
    else:
        sys.stdout.buffer.write(letter.payload)
        sys.stdout.buffer.flush()
        if letter.cut:
            print(f"only {len(letter.payload)} of the job's {letter.size} bytes were kept", file=sys.stderr)
    return 0


def _describe(letter: Letter) -> None:
    row = _row(letter)
    payload = letter.raw if letter.payload is None else letter.payload
    kept = f", of which the first {len(payload)} were kept" if letter.cut else ""
    print(f"reference  {letter.reference}")
    print(f"reason     {harmless(letter.reason)}")
    print(f"time       {utc(letter.at)}")
    print(f"worker     {harmless(letter.worker) or '-'}")
    print(f"job        {row['id'] or '-'}")
    print(f"type       {row['type'] or '-'}")
    print(f"size       {letter.size} bytes{kept}\n")
    try:
        text = orjson.dumps(orjson.loads(payload), option=orjson.OPT_INDENT_2).decode()
    except (TypeError, orjson.JSONDecodeError):
        text = payload.decode(errors="backslashreplace")
    print(harmless(text))


async def _retry(letters: DeadLetters, *, reference: str, json: bool) -> int:
    letter = await letters.find(reference)
    await letters.retry(letter)
    job_id = letter.job()["id"]
    if json:
        print_json({"retried": [{"reference": letter.reference, "id": job_id}], "refused": []})
    else:
        print(f"{letter.shown}  job {job_id} is back in the queue")
    return 0


async def _retry_all(letters: DeadLetters, *, json: bool) -> int:
    retried: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    async for letter, error in letters.retry_all():
        if error is None:
            retried.append({"reference": letter.reference, "id": letter.job()["id"]})
            continue
        refused.append({"reference": letter.reference, "error": str(error)})
        print(f"{letter.shown}  refused: {harmless(str(error))}", file=sys.stderr)
    if json:
        print_json({"retried": retried, "refused": refused})
    else:
        print(f"{len(retried)} put back, {len(refused)} refused")
    return EXIT_FAILED if refused else 0


async def _drop(letters: DeadLetters, *, reference: str | None, json: bool) -> int:
    if reference is None:
        dropped, told = await letters.drop_all(), "{} dropped"
    else:
        letter = await letters.find(reference)
        await letters.drop(letter)
        dropped, told = 1, f"{letter.shown}  dropped"
    if json:
        print_json({"dropped": dropped})
    else:
        print(told.format(dropped))
    return 0
