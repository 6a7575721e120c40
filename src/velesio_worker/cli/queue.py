"""The command line's part for who waits: ``velesio-worker queue [move | drop]``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Final, Literal

import typer

from velesio_worker.cli.base import EXIT_FAILED, print_json, print_table
from velesio_worker.cli.redis_trouble import run_with_redis
from velesio_worker.core.settings import Settings
from velesio_worker.queue.connection import PAYLOAD_SECONDS, connect
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.lines import Line, Lines, LinesView
from velesio_worker.wire.errors import VelesioError
from velesio_worker.wire.jobs import Kind
from velesio_worker.wire.limits import LONGEST_TENANT
from velesio_worker.wire.printable import printable

_LIMIT: Final = 50
_LONGEST: Final = 40
"""How much of a tenant's name the table shows, in characters."""

Priority = Literal["high", "normal", "low"]
Lined = Literal["text", "image"]

app = typer.Typer(add_completion=False, invoke_without_command=True)


def _tenant(text: str) -> str:
    if len(text) > LONGEST_TENANT:
        raise typer.BadParameter(f"a tenant has {LONGEST_TENANT} characters at most")
    return text


Tenant = Annotated[str, typer.Argument(parser=_tenant, metavar="TENANT", help='Whose; "": jobs without a tenant.')]
OfKind = Annotated[Lined, typer.Option("--kind", help="Jobs of which kind.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Say as JSON what was done.")]


def _with_lines(action: Callable[[Lines], Awaitable[int]]) -> int:
    """Do something with the lines; returns the exit code. Raises VelesioError: it cannot be done."""

    async def main(settings: Settings) -> int:
        async with aclosing(connect(settings.redis_url, name="velesio-queue", socket_timeout=PAYLOAD_SECONDS)) as redis:
            return await action(Lines(redis, Keys(settings.queue_name)))

    return run_with_redis(main)


@app.callback()
def show(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many lines of each table at most.")] = _LIMIT,
    json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
) -> int | None:
    """Who waits, and what runs."""
    if context.invoked_subcommand is not None:
        return None
    return _with_lines(partial(_show, limit=limit, json=json))


@app.command()
def move(
    tenant: Tenant,
    *,
    to_priority: Annotated[Priority, typer.Option("--to-priority", help="The priority that they get.")],
    priority: Annotated[Priority, typer.Option("--priority", help="The one that they have.")] = "normal",
    kind: OfKind = "text",
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Move a tenant's waiting jobs to the end of its line of another priority."""
    if priority == to_priority:
        raise typer.BadParameter("--to-priority is the priority that they have: name another one, or --priority")
    return _with_lines(partial(_move, tenant=tenant, to=to_priority, of=priority, kind=Kind(kind), yes=yes, json=json))


@app.command()
def drop(
    tenant: Tenant,
    *,
    priority: Annotated[Priority, typer.Option("--priority", help="The priority that they have.")] = "normal",
    kind: OfKind = "text",
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Cancel a tenant's waiting jobs: each ends as cancelled, with an answer."""
    return _with_lines(partial(_drop, tenant=tenant, of=priority, kind=Kind(kind), yes=yes, json=json))


async def _show(lines: Lines, *, limit: int, json: bool) -> int:
    view = await lines.look()
    if json:
        print_json({"incoming": view.incoming, **{name: _rows(of) for name, of in _tables(view).items()}})
        return 0
    if view.incoming:
        print(f"{view.incoming} not sorted yet")
    for name, of in _tables(view).items():
        if not of:
            print(f"nothing {'waits' if name == 'waiting' else 'runs'}")
            continue
        print(f"{name}: {sum(line.jobs for line in of)}")
        head = ["  KIND", "PRIORITY", "TENANT", "JOBS", "OLDEST"]
        print_table([head, *(_columns(line) for line in of[:limit])])
        if len(of) > limit:
            print(f"  and {sum(line.jobs for line in of[limit:])} in {len(of) - limit} lines more: --limit {len(of)}")
    return 0


def _tables(view: LinesView) -> dict[str, Sequence[Line]]:
    return {"waiting": view.waiting, "running": view.running}


def _rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [
        {
            "kind": line.kind.value,
            "priority": line.priority,
            "tenant": line.tenant or None,
            "jobs": line.jobs,
            "oldest_seconds": None if line.oldest is None else round(line.oldest, 3),
        }
        for line in lines
    ]


def _columns(line: Line) -> list[str]:
    oldest = "-" if line.oldest is None else f"{line.oldest:.1f} s"
    return [f"  {line.kind.value}", line.priority, _shown(line.tenant), str(line.jobs), oldest]


def _shown(tenant: str) -> str:
    """Make a tenant's name, which may be anything, one word of a line."""
    text = printable(tenant) if tenant else "-"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


async def _move(lines: Lines, *, tenant: str, to: str, of: str, kind: Kind, yes: bool, json: bool) -> int:
    jobs = await lines.count(tenant, of, kind)
    if not yes and jobs and not _agreed(f"Move {jobs} {kind} jobs of {_name(tenant)} from {of} to {to}?"):
        return EXIT_FAILED
    moved = await lines.move(tenant, of, to, kind)
    if json:
        print_json({"moved": moved})
    else:
        print(f"{moved} moved")
    return 0


async def _drop(lines: Lines, *, tenant: str, of: str, kind: Kind, yes: bool, json: bool) -> int:
    jobs = await lines.count(tenant, of, kind)
    if not yes and jobs and not _agreed(f"Cancel {jobs} {kind} jobs of {_name(tenant)} that wait with priority {of}?"):
        return EXIT_FAILED
    dropped = await lines.drop(tenant, of, kind)
    if json:
        print_json({"dropped": dropped})
    else:
        print(f"{dropped} cancelled: a worker ends them")
    return 0


def _name(tenant: str) -> str:
    return f'"{printable(tenant)}"' if tenant else "no tenant"


def _agreed(question: str) -> bool:
    """Ask; whoever cannot be asked has not agreed."""
    if not sys.stdin.isatty():
        raise VelesioError(f"{question} There is nobody to ask here: --yes if so")
    return typer.confirm(question, err=True)
