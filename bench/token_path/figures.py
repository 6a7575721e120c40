"""Writes what was found into the documentation: tables between marks, and plots beside the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.environments import ROOT
from bench.token_path.plots import Group, bars
from bench.token_path.systems import NAMES
from bench.token_path.tables import TABLES

PAGE: Final = ROOT / "docs" / "explain" / "speed.md"
FOLDER: Final = PAGE.parent / "figures"
README_CASE: Final = -1
"""The case of ``peers`` whose plot stands in the README."""


def _relay(cases: Any) -> str:
    groups = [
        Group(
            case["case"],
            [case["systems"].get(name, {}).get("tokens_per_cpu_second") for name in ("ours", "floor")],
        )
        for case in cases
    ]
    return bars("Relayed to Redis", ["velesio-worker", "the least that relays"], groups, unit="tokens per CPU second")


def _peers(cases: Any) -> str:
    case = cases[README_CASE]
    rows = {name: row for name, row in case["systems"].items() if "failed" not in row and row["cpu_us"]}
    ordered = sorted(rows, key=lambda name: rows[name]["cpu_us"])
    groups = [Group(NAMES[name], [rows[name]["cpu_us"]]) for name in ordered]
    title = f"CPU of one relayed token, {case['streams']} streams of {case['rate']:g} tokens/s"
    return bars(title, ["CPU"], groups, unit="microseconds")


def _delay(found: Any) -> str:
    groups = [
        Group(f"{case['case']}, {shown}", [case["systems"][name].get(share) for name in ("ours", "direct")])
        for case in found["cases"]
        for share, shown in (("p50", "median"), ("p99", "99 %"), ("max", "most"))
    ]
    series = ["velesio-worker and Redis", "the engine read directly"]
    return bars("A token's way to its reader", series, groups, unit="ms", logarithmic=True)


def _jobs(found: Any) -> str:
    groups = [Group(f"{one['consumers']} consumers", [one["jobs_per_second"]]) for one in found]
    return bars("Jobs of one token", ["jobs"], groups, unit="jobs/s")


def _real(found: Any) -> str:
    groups = [Group(f"{one['streams']} streams", [one["worker"], one["direct"]]) for one in found]
    return bars("The real llama.cpp server", ["velesio-worker", "direct HTTP"], groups, unit="tokens/s")


def _scale(found: Any) -> str:
    groups = [
        Group(f"{one['workers']} workers", [one["entries_per_second"], one["entries_per_redis_cpu_second"]])
        for one in found["workers"]
    ]
    return bars("One Redis", ["entries/s", "entries per CPU second of Redis"], groups, unit="entries")


PLOTS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "relay": ("Tokens per CPU second by number of streams: the worker and the floor", _relay),
    "delay": ("Delay of a token: through the worker and Redis, and read from the engine directly", _delay),
    "jobs": ("Short jobs per second by number of consumers", _jobs),
    "real": ("Tokens per second of the real llama.cpp server: through the worker and by direct HTTP", _real),
    "peers": ("CPU time of a relayed token: the floor, velesio-worker and other queues", _peers),
    "scale": ("Entries per second that one Redis carries for one, two and four workers", _scale),
}


def put(page: str, part: str, text: str) -> str:
    """Return a page with a text between the marks of a part.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {part} -->", f"<!-- /{part} -->"
    found = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL
    )
    if found[1] != 1:
        raise ValueError(f"{begin} … {end} stands {found[1]} times in the page")
    return found[0]


def how(said: dict[str, Any]) -> str:
    """Say how a part was measured."""
    plan, machine = said["plan"], said["machine"]
    rounds = f"Medians of {plan['runs']} interleaved rounds" if plan["runs"] > 1 else "One round"
    return (
        f"{rounds} of {plan['seconds']:g} s, on {machine['cores']} cores "
        f"({machine['cpu']}), Python {machine['python']}; load average {machine['load_before']:.1f} before, "
        f"{machine['load_after']:.1f} after."
    )


def write(found: dict[str, Any], page: Path = PAGE, folder: Path = FOLDER) -> list[Path]:
    """Write the parts that were measured; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    text, written = page.read_text(), [page]
    for part, said in found.items():
        title, draw = PLOTS[part]
        plot = folder / f"{part}.svg"
        plot.write_text(draw(said["found"]))
        written.append(plot)
        text = put(text, part, f"![{title}]({folder.name}/{part}.svg)\n\n{TABLES[part](said['found'])}\n\n{how(said)}")
    page.write_text(text)
    return written
