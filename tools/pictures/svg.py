"""Draws a terminal as an SVG, still or as it went; it loads nothing from anywhere and runs no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from typing import Final

from tools.pictures.screen import Cell, Style

ADVANCE: Final = 8.4
"""How wide a character is."""

LINE: Final = 19
MARGIN: Final = 16
BAR: Final = 34
"""How high the window's bar is."""

INK: Final = "#e6edf3"
PAPER: Final = "#0d1117"
STEP: Final = 0.05
"""Changes that are closer than this, in seconds, are shown together."""

LONGEST_PAUSE: Final = 2.0
REST: Final = 5.0
"""How long the end stands before it begins anew, in seconds."""

Rows = list[list[Cell]]


@dataclass(frozen=True, slots=True)
class Run:
    """Characters of one style in a row, and when they are there; ``until`` None: to the end."""

    row: int
    column: int
    text: str
    style: Style
    since: float = 0.0
    until: float | None = None

    @property
    def end(self) -> int:
        """The column behind it."""
        return self.column + len(self.text)


def runs_of(row: int, cells: Sequence[Cell], start: int = 0, end: int | None = None) -> list[Run]:
    """Return a row's characters between two columns, those of one style together; blanks without a colour are none."""
    found: list[Run] = []
    at = start
    for style, group in groupby(cells[start:end], key=lambda cell: cell[1]):
        text = "".join(character for character, _ in group)
        plain = not (style.paper or style.reversed or style.underlined)
        kept = text.rstrip() if plain else text
        lead = len(kept) - len(kept.lstrip()) if plain else 0
        if kept[lead:]:
            found.append(Run(row, at + lead, kept[lead:], style))
        at += len(text)
    return found


def timed(frames: Iterable[tuple[float, Rows]]) -> tuple[list[Run], float]:
    """Return what is there when, over all frames, and how long they take; what stays as it was is one run."""
    rows: dict[int, tuple[list[Cell], list[Run]]] = {}
    past: list[Run] = []
    now = 0.0
    for now, shown in _paced(frames):
        for number, cells in enumerate(shown):
            before, runs = rows.get(number, ([], []))
            if cells != before:
                kept = [run for run in runs if cells[run.column : run.end] == before[run.column : run.end]]
                past += [replace(run, until=now) for run in runs if run not in kept]
                new = [
                    replace(run, since=now) for start, end in _gaps(kept) for run in runs_of(number, cells, start, end)
                ]
                rows[number] = cells, sorted(kept + new, key=lambda run: run.column)
    return past + [run for _, runs in rows.values() for run in runs], now


def _gaps(runs: Sequence[Run]) -> Iterable[tuple[int, int | None]]:
    """Where a row has none of these runs, which are in order."""
    start = 0
    for run in runs:
        yield start, run.column
        start = run.end
    yield start, None


def _paced(frames: Iterable[tuple[float, Rows]]) -> Iterable[tuple[float, Rows]]:
    """Leave out what is too quick to be seen, and shorten long pauses."""
    cut, last = 0.0, 0.0
    waiting: tuple[float, Rows] | None = None
    for moment, shown in frames:
        cut += max(0.0, moment - cut - last - LONGEST_PAUSE)
        at = round((moment - cut) / STEP) * STEP
        if waiting is not None and at > waiting[0]:
            yield waiting
        waiting, last = (at, shown), moment - cut
    if waiting is not None:
        yield waiting


def drawing(runs: Sequence[Run], *, columns: int, rows: int, title: str, label: str, seconds: float = 0.0) -> str:
    """Return the SVG of a terminal; with ``seconds`` above 0 it goes as it went, again and again.

    Args:
        runs: what is there.
        columns: how wide the terminal is.
        rows: how high it is.
        title: what stands in the window's bar.
        label: what is said to those who cannot see it.
        seconds: how long all of it takes.
    """
    width, height = round(columns * ADVANCE + 2 * MARGIN), rows * LINE + BAR + MARGIN
    whole = seconds + REST
    moments = sorted({(run.since, run.until) for run in runs if run.since or run.until is not None}, key=str)
    names = {moment: f"t{number}" for number, moment in enumerate(moments)}
    rules = "".join(_rule(names[moment], *moment, whole) for moment in moments)
    body = "\n".join(_drawn(run, names.get((run.since, run.until), "")) for run in runs)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">
<title>{escape(label)}</title>
<style>
text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;fill:{INK};\
white-space:pre}}
.b{{font-weight:700}}.d{{opacity:.65}}.i{{font-style:italic}}.u{{text-decoration:underline}}
{rules}@media (prefers-reduced-motion:reduce){{*{{animation:none!important}}}}
</style>
<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>
<g fill="#30363d"><circle cx="20" cy="17" r="6"/><circle cx="40" cy="17" r="6"/><circle cx="60" cy="17" r="6"/></g>
<text x="{width // 2}" y="22" text-anchor="middle" style="fill:#8b949e">{escape(title)}</text>
{body}
</svg>
"""


def _rule(name: str, since: float, until: float | None, whole: float) -> str:
    """Show something from a moment on, and hide it at another; where motion is not wanted, there is the end alone."""
    frames = f"0%{{visibility:hidden}}{100 * since / whole:.2f}%{{visibility:visible}}"
    if until is not None:
        frames += f"{100 * until / whole:.2f}%{{visibility:hidden}}"
    hidden = "" if until is None else "visibility:hidden;"
    return f"@keyframes {name}{{{frames}}}.{name}{{{hidden}animation:{name} {whole:.2f}s step-end infinite}}\n"


def _drawn(run: Run, moment: str) -> str:
    style = run.style
    ink, paper = (style.paper or PAPER, style.ink or INK) if style.reversed else (style.ink, style.paper)
    x, y = MARGIN + run.column * ADVANCE, BAR + run.row * LINE
    wide = len(run.text) * ADVANCE
    looks = {"b": style.bold, "d": style.dim, "i": style.italic, "u": style.underlined}
    classes = " ".join([name for name, wanted in looks.items() if wanted] + ([moment] if moment else []))
    back = ""
    if paper:
        shown = f' class="{moment}"' if moment else ""
        back = f'<rect{shown} x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{LINE}" fill="{paper}"/>'
    if not run.text.strip():
        return back
    ink_ = f' style="fill:{ink}"' if ink else ""
    class_ = f' class="{classes}"' if classes else ""
    place = f'x="{x:.1f}" y="{y + 14}"'
    if len(run.text) > 1:  # whatever font there is, the columns are where they were
        place += f' textLength="{wide:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f"{back}<text{class_}{ink_} {place}>{escape(run.text, quote=False)}</text>"


def still(shown: Rows, *, title: str, label: str) -> str:
    """Return the SVG of what stands on a screen."""
    runs = [run for number, cells in enumerate(shown) for run in runs_of(number, cells)]
    return drawing(runs, columns=len(shown[0]), rows=len(shown), title=title, label=label)


def moving(frames: Sequence[tuple[float, Rows]], *, title: str, label: str) -> str:
    """Return the SVG of what stood on a screen, as it went; as high as what was written at most."""
    runs, seconds = timed(frames)
    rows = max((run.row for run in runs), default=0) + 1
    return drawing(runs, columns=len(frames[-1][1][0]), rows=rows, title=title, label=label, seconds=seconds)
