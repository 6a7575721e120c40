"""Writes the pages of the reference that the code itself can tell: settings, command line, routes, limits and metrics.

``make docs`` runs this. With ``--check`` nothing is written, and the exit code is 1 if a page is not what it would be.
"""

# prometheus_client tells nowhere else what it was given.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from prometheus_client import ProcessCollector
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from pydantic_settings import BaseSettings
from typer.core import TyperCommand, TyperGroup

from velesio_worker.cli import main as cli
from velesio_worker.core.metrics import REGISTRY
from velesio_worker.core.settings import Settings
from velesio_worker.core.settings_list import describe
from velesio_worker.gateway import metrics as gateway_metrics
from velesio_worker.gateway import native_routes
from velesio_worker.gateway.anthropic import routes as anthropic
from velesio_worker.gateway.app import operations
from velesio_worker.gateway.openai import routes as openai
from velesio_worker.gateway.openapi import Operation
from velesio_worker.gateway.responses import routes as responses
from velesio_worker.gateway.sdapi import routes as sdapi
from velesio_worker.gateway.settings import GatewaySettings
from velesio_worker.gateway.text import routes as thin_text
from velesio_worker.observability.gauges import Gauges
from velesio_worker.observability.health import Health
from velesio_worker.wire import limits as wire_limits

_REFERENCE: Final = Path(__file__).resolve().parent / "reference"
_NOTICE: Final = "<!-- docs/generate.py writes this page from the code and from {intro}; `make docs` runs it. -->"

_SETTINGS_FROM: Final[Mapping[str, str]] = {
    "REDIS_URL": "Redis and the queue",
    "MODEL_PATH": "Text jobs",
    "SD_MODEL_PATH": "Image jobs",
    "WORKER_TIMEOUT": "Times and limits",
    "LOG_LEVEL": "Logs and health",
}
"""The first setting of each group; what stands behind it in the code belongs to the group as well."""

_AS_WORKERS: Final = frozenset({"redis_url", "queue_name", "ca_file", "log_level", "log_format"})
"""The gateway's settings that are the worker's as well."""

_ROOMS: Final[Mapping[str, Sequence[Operation]]] = {
    "Jobs, and the gateway itself": native_routes.OPERATIONS,
    "OpenAI": (*openai.OPERATIONS, *responses.OPERATIONS),
    "Anthropic": anthropic.OPERATIONS,
    "Stable Diffusion WebUI": sdapi.OPERATIONS,
    "llama-server": thin_text.OPERATIONS,
}
"""The routes, by whose API they are; what stands nowhere here is listed at the end."""

_BEYOND: Final = 10**9
"""A bound so high that nobody needs to know of it."""

_CODE: Final = re.compile(r"(?<![\w`])(--[a-z][a-z0-9-]*|[A-Z][A-Z0-9]*_[A-Z0-9_]+)(?![\w`])")


def settings() -> Iterator[str]:
    """Yield the groups of settings, each a table."""
    columns = ("setting", "default", "value", "meaning")
    groups: dict[str, list[tuple[str, ...]]] = {}
    group = ""
    for name, cells in _settings_of(Settings):
        group = _SETTINGS_FROM.get(name, group)
        groups.setdefault(group, []).append(cells)
    for title, rows in groups.items():
        yield f"## {title}"
        yield _table(columns, rows)
    yield "## The gateway"
    shared = [name for name in GatewaySettings.model_fields if name in _AS_WORKERS]
    yield f"`velesio-worker gateway` reads {', '.join(f'`{name.upper()}`' for name in shared)} as the worker does, and:"
    yield _table(columns, [cells for name, cells in _settings_of(GatewaySettings) if name.lower() not in shared])


def _settings_of(model: type[BaseSettings]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each setting: its name, and the cells of its row."""
    schema = model.model_json_schema()
    shapes: dict[str, dict[str, Any]] = {name.upper(): shape for name, shape in schema["properties"].items()}
    for row in describe(model.model_construct(), {}):
        name = row["name"]
        default = "not set" if row["default"] is None else f"`{row['default']}`" if row["default"] else "empty"
        yield name, (f"`{name}`", default, _allowed(shapes[name], schema["$defs"]), _text(row["description"]))


def _allowed(shape: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Say in words what a JSON schema allows."""
    for variant in shape.get("anyOf", ()):  # the other one is null: not set
        if variant.get("type") != "null":
            return _allowed(variant, definitions)
    if "$ref" in shape:
        return _allowed(definitions[shape["$ref"].rpartition("/")[2]], definitions)
    if "enum" in shape or shape["type"] == "boolean":
        return ", ".join(f"`{value}`" for value in shape.get("enum", ("true", "false")))
    if shape["type"] == "string":
        return "path" if "path" in shape.get("format", "") else "text"
    number = "whole number" if shape["type"] == "integer" else "number"
    bounded = shape.get("maximum", _BEYOND) < _BEYOND
    highest = f"to {shape['maximum']}" if bounded else "or more"
    least = f" above {shape['exclusiveMinimum']:g}" if "exclusiveMinimum" in shape else None
    return number + (least or f", {shape['minimum']:g} {highest}")


def commands() -> Iterator[str]:
    """Yield each command, in the groups of the help: what it does, how it is called and what it takes."""
    yield "`velesio-worker --help` and `--help` behind any command say the same as this page."
    root = cli.command_line()
    yield from _command("## velesio-worker", root, "[COMMAND]")
    for panel, rows in itertools.groupby(cli.COMMANDS.items(), lambda item: item[1].panel):
        yield f"## {panel}"
        for name, _ in rows:
            command = cli.load(name)
            below: Mapping[str, Any] = getattr(command, "commands", {})
            yield from _command(f"### velesio-worker {name}", command, *["COMMAND"][: len(below)])
            for called, one in below.items():
                yield from _command(f"#### velesio-worker {name} {called}", one)


def _command(title: str, command: TyperCommand | TyperGroup, *more: str) -> Iterator[str]:
    yield title
    yield _text((command.help or "").partition("\n\n")[0])
    usage = [word if param.required else f"[{word}]" for param in command.params for word in [_called(param)]]
    yield f"```text\n{' '.join((title.strip('# '), *usage, *more))}\n```"
    if command.params:
        yield _table(("argument", "meaning"), ((f"`{_called(param)}`", _meaning(param)) for param in command.params))


def _called(param: Any) -> str:  # noqa: ANN401 (typer's own is private)
    value = param.metavar or param.opts[0].strip("-").replace("-", "_").upper()
    if param.param_type_name == "argument":
        return f"{value}…" if param.nargs != 1 else value
    names = ", ".join([*param.opts, *param.secondary_opts])
    return names if param.is_flag else f"{names} {value}"


def _meaning(param: Any) -> str:  # noqa: ANN401
    parts = [_text((param.help or "").removesuffix("."))]
    if choices := param.type_descriptor.choices:
        parts.append("one of " + ", ".join(f"`{choice}`" for choice in choices))
    if param.default is not None and not getattr(param, "is_flag", False):
        parts.append(f"default: `{param.default}`")
    return "; ".join(filter(None, parts))


def metrics() -> Iterator[str]:
    """Yield the table of what is counted as it happens, and that of what is looked up at a scrape."""
    yield "A histogram has the names `…_bucket`, `…_sum` and `…_count`, and the label `le` besides."
    columns = ("metric", "type", "labels", "what it is")
    yield "## Counted as it happens"
    yield _table(columns, _families(REGISTRY._collector_to_names))
    yield "## Looked up at each scrape"
    yield "A figure that is not known at that moment is left out."
    monitor: Any = SimpleNamespace(stuck_for=0.0, redis_trouble=None, queue=None, gpus=())
    yield _table(columns, _families([Gauges(Health("", {}, monitor), dict)]))
    yield "## The gateway"
    yield "At `/metrics` of the gateway; with several processes those of all, added up."
    waiting = gateway_metrics.Waiting([])
    yield _table(columns, [*_families(gateway_metrics.REGISTRY._collector_to_names), *_families([waiting])])
    yield "## The worker's process"
    yield "`process_…` is what prometheus_client tells of the process on Linux: CPU time, memory, open files, start."


def routes() -> Iterator[str]:
    """Yield the routes of the gateway, a table for each API."""
    listed = [one for room in _ROOMS.values() for one in room]
    others = {"Others": [one for one in operations() if one not in listed]}
    for title, room in {**_ROOMS, **others}.items():
        if room:
            yield f"## {title}"
            yield _table(("route", "what it does", "takes", "answers"), map(_route, room))


def _route(one: Operation) -> Sequence[str]:
    fields = {} if one.model is None else one.model.model_fields
    needed = [f"**`{field.alias or name}`**" for name, field in fields.items() if field.is_required()]
    rest = [f"`{field.alias or name}`" for name, field in fields.items() if not field.is_required()]
    path = re.sub(r":\w+}", "}", one.path)
    asked = [f"`{name}`: {what[:1].lower()}{what[1:]}" for name, what in one.parameters.items()]
    answered = [f"{status}: {what[:1].lower()}{what[1:]}" for status, what in one.answers.items()]
    kinds = f"`{one.media}`" + (", or `text/event-stream`" if one.streams else "")
    told = "; ".join([kinds, *([] if [*one.answers] == [200] else answered)])
    return f"`{one.method} {path}`", f"{_text(one.summary)}.", ", ".join([*needed, *rest, *asked]), told


def limits() -> Iterator[str]:
    """Yield the table of what ``wire/limits.py`` says, each constant with the text behind it."""
    rows: list[tuple[str, str]] = []
    body = ast.parse(inspect.getsource(wire_limits)).body
    for statement, behind in itertools.pairwise(body):
        match statement, behind:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                rows.append((text, f"{getattr(wire_limits, name):,}"))
            case _:
                pass
    yield _table(("what", "at most"), rows)


def _families(collectors: Iterable[Any]) -> Iterator[tuple[str, ...]]:
    for collector in collectors:
        if isinstance(collector, ProcessCollector):  # has nothing to say outside Linux
            continue
        is_plain = isinstance(collector, MetricWrapperBase)
        found: Iterable[Metric] = collector.describe() if is_plain else collector.collect()
        for family in found:
            labels: Sequence[str] = getattr(collector if is_plain else family, "_labelnames", ())
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), _text(family.documentation)


def _text(text: str) -> str:
    """Return ``text`` as Markdown in a table's cell, with options and settings as code."""
    return _CODE.sub(r"`\1`", text.replace("|", r"\|").replace("<", "&lt;"))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (columns, ["---"] * len(columns), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


_PAGES: Final[Mapping[str, tuple[str, Callable[[], Iterator[str]]]]] = {
    "settings": ("Settings", settings),
    "cli": ("Command line", commands),
    "routes": ("Routes of the gateway", routes),
    "limits": ("Limits", limits),
    "metrics": ("Metrics", metrics),
}


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or compare them; returns the exit code."""
    stale: list[str] = []
    for name, (title, parts) in _PAGES.items():
        intro = _REFERENCE / f"_{name}.intro.md"
        page = _REFERENCE / f"{name}.md"
        blocks = (f"# {title}", _NOTICE.format(intro=intro.name), intro.read_text("utf-8").strip(), *parts())
        text = "\n\n".join(blocks) + "\n"
        if "--check" not in arguments:
            page.write_text(text, "utf-8")
        elif not page.exists() or page.read_text("utf-8") != text:
            stale.append(f"{page.relative_to(_REFERENCE.parent.parent)} is not what the code says: run `make docs`")
    print(*stale, sep="\n", end="\n" if stale else "")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
