"""What was found, as Markdown tables: ratios first, since machines differ and are shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.token_path.systems import NAMES

NONE: Final = "-"
"""Where there is no figure."""

Row = Sequence[object]


def markdown(heads: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """Return a number with its thousands apart; a dash for none."""
    return NONE if value is None or value != value else f"{value:,.{digits}f}{unit}"  # noqa: PLR0124 (nan)


def _fault(row: dict[str, Any]) -> str:
    """Say whether all streams were whole."""
    return "whole" if not row["faults"] else f"**{len(row['faults'])} wrong**: {row['faults'][0]}"


def _milliseconds(row: dict[str, Any]) -> str:
    return " / ".join(number(row.get(name), 2) for name in ("p50", "p99", "max"))


def relay(cases: Sequence[dict[str, Any]]) -> str:
    """Return the table of ``relay``."""
    heads = ("streams x tokens/s", "to the floor", "tokens per CPU second: worker", "floor")
    heads = (*heads, "CPU of a token, µs: worker", "its Redis", "engine's double", "worker idle, ms/s")
    heads = (*heads, "time to pace", "streams")
    rows: list[Row] = []
    for case in cases:
        ours, floor = case["systems"].get("ours", {}), case["systems"].get("floor", {})
        if "failed" in ours or not ours:
            rows.append((case["case"], f"not measured: {ours.get('failed', '')}", *[NONE] * 8))
            continue
        rows.append(
            (
                case["case"],
                number(ours.get("to_floor"), 2),
                number(ours["tokens_per_cpu_second"]),
                number(floor.get("tokens_per_cpu_second")),
                number(ours["cpu_us"], 1),
                number(ours["redis_us"], 1),
                number(ours["engine_us"], 1),
                number(ours.get("idle_ms"), 1),
                number(ours["late"], 2),
                _fault(ours),
            )
        )
    return markdown(heads, rows)


def peers(cases: Sequence[dict[str, Any]]) -> str:
    """Return the table of ``peers``."""
    heads = ("streams x tokens/s", "system", "worker to it", "to the floor", "tokens per CPU second")
    heads = (*heads, "CPU of a token, µs", "its Redis, µs", "idle, ms/s", "delay p50 / p99 / max, ms")
    heads = (*heads, "time to pace", "streams")
    rows: list[Row] = []
    for case in cases:
        for name, row in case["systems"].items():
            if "failed" in row:
                rows.append((case["case"], NAMES[name], f"not measured: {row['failed']}", *[NONE] * 8))
                continue
            speed = row["tokens_per_cpu_second"] or None
            cells = (number(row.get("ours_to_it"), 2), number(row.get("to_floor"), 2), number(speed))
            cells = (*cells, number(row["cpu_us"] or None, 1), number(row["redis_us"] or None, 1))
            cells = (*cells, number(row.get("idle_ms") or None, 1), _milliseconds(row))
            rows.append((case["case"], NAMES[name], *cells, number(row["late"], 2), _fault(row)))
    return markdown(heads, rows)


def delay(found: dict[str, Any]) -> str:
    """Return the tables of ``delay``."""
    heads = ("streams x tokens/s", "p50 to direct, ms", "worker p50 / p99 / max, ms", "direct p50 / p99 / max, ms")
    rows: list[Row] = []
    for case in found["cases"]:
        ours, direct = case["systems"]["ours"], case["systems"]["direct"]
        more = ours.get("p50", float("nan")) - direct.get("p50", float("nan"))
        rows.append((case["case"], f"+{number(more, 2)}", _milliseconds(ours), _milliseconds(direct)))
    first = ("beside so many streams", "added to the first token, p50", "p99", "samples")
    firsts = [
        (one["beside"], *(number(one[n], 1, " ms") for n in ("p50", "p99")), one["samples"]) for one in found["first"]
    ]
    return f"{markdown(heads, rows)}\n\n{markdown(first, firsts)}"


def jobs(found: Sequence[dict[str, Any]]) -> str:
    """Return the table of ``jobs``."""
    heads = ("consumers", "jobs/s", "CPU of a job, µs", "commands a job", "round trips a job", "which commands")
    rows: list[Row] = []
    for one in found:
        named = ", ".join(f"{name} {count:g}" for name, count in one["commands"].items() if count >= 0.05)
        cells = (number(one["jobs_per_second"]), number(one["cpu_us"]), number(one["commands_per_job"], 1))
        rows.append((one["consumers"], *cells, number(one["round_trips_per_job"], 1), named))
    return markdown(heads, rows)


def real(found: Sequence[dict[str, Any]]) -> str:
    """Return the table of ``real``."""
    heads = ("streams", "worker to direct", "tokens/s: worker", "direct HTTP")
    rows = [
        (one["streams"], number(one["ratio"], 3), number(one["worker"], 1), number(one["direct"], 1)) for one in found
    ]
    return markdown(heads, rows)


def scale(found: dict[str, Any]) -> str:
    """Return the tables of ``scale``."""
    first = found["workers"][0]["entries_per_second"]
    heads = (
        "workers",
        "to the first row",
        "entries/s",
        "entries per CPU second of Redis",
        "CPU of a token on the workers, µs",
    )
    rows: list[Row] = [
        (
            one["workers"],
            number(one["entries_per_second"] / first, 2),
            number(one["entries_per_second"]),
            number(one["entries_per_redis_cpu_second"]),
            number(one["worker_cpu_us"], 1),
        )
        for one in found["workers"]
    ]
    kept = found["memory"]
    sizes = [(number(kept["bytes_per_token"]), number(kept["bytes_per_job"]))]
    of_what = ("Redis memory of a token, bytes", "of a finished job of one token")
    return f"{markdown(heads, rows)}\n\n{markdown(of_what, sizes)}"


TABLES: Final[dict[str, Callable[[Any], str]]] = {
    "relay": relay,
    "delay": delay,
    "jobs": jobs,
    "real": real,
    "peers": peers,
    "scale": scale,
}
