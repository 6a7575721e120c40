"""Bar charts as SVG. They bring no fonts and no script, and are readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

WIDTH: Final = 720
_LEFT: Final = 190
_RIGHT: Final = 90
_TOP: Final = 62
_BAR: Final = 16
_GAP: Final = 12
_WIDE: Final = 7.2
"""About how wide a letter is."""

_COLOURS: Final = ("#2f6f9f", "#d08a2e", "#5b8f4e", "#9a5b8c", "#777777")
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:15px}"
    ".a{stroke:#888;stroke-width:1}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


class Group(NamedTuple):
    """Bars that stand together: what they are called, and the value of each series; None where there is none."""

    label: str
    values: Sequence[float | None]


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _length(value: float, most: float, *, logarithmic: bool, least: float) -> float:
    room = WIDTH - _LEFT - _RIGHT
    if logarithmic:
        return room * math.log10(value / least) / max(1e-9, math.log10(most / least))
    return room * value / most


def bars(title: str, series: Sequence[str], groups: Sequence[Group], *, unit: str, logarithmic: bool = False) -> str:
    """Draw horizontal bars.

    Args:
        title: what is shown.
        series: what the bars of a group are, the same in each; their colours are explained if there are several.
        groups: what is compared, from above.
        unit: of the values.
        logarithmic: whether ten times as much is a step to the right; every value is above 0 then.

    Returns:
        The SVG.

    Raises:
        ValueError: there is no value at all.
    """
    known = [value for group in groups for value in group.values if value is not None and value > 0]
    if not known:
        raise ValueError(f"nothing to draw: {title}")
    most, least = max(known), min(known) / 2
    parts, at = [_text(16, 24, f"{title}, {unit}", kind="t")], _TOP
    if len(series) > 1:
        parts += _legend(series)
    for group in groups:
        middle = at + len(group.values) * _BAR / 2 + 5
        parts.append(_text(_LEFT - 8, middle, group.label, anchor="end"))
        for number, value in enumerate(group.values):
            if value is not None and value > 0:
                long = max(1.0, _length(value, most, logarithmic=logarithmic, least=least))
                colour = _COLOURS[number % len(_COLOURS)]
                parts.append(
                    f'<rect x="{_LEFT}" y="{at:g}" width="{long:.1f}" height="{_BAR - 2}" fill="{colour}" rx="2"/>'
                )
                parts.append(_text(_LEFT + long + 6, at + 11.5, _number(value)))
            at += _BAR
        at += _GAP
    parts.append(f'<line class="a" x1="{_LEFT}" y1="{_TOP - 6}" x2="{_LEFT}" y2="{at - _GAP + 4}"/>')
    if logarithmic:
        parts.append(_text(WIDTH - 16, 24, "logarithmic", anchor="end"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{at:g}" viewBox="0 0 {WIDTH} {at:g}" '
        f'role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">\n<style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{css}>{escape(text)}</text>'


def _legend(series: Sequence[str]) -> list[str]:
    parts: list[str] = []
    x = float(_LEFT)
    for number, name in enumerate(series):
        parts.append(
            f'<rect x="{x:g}" y="37" width="12" height="12" fill="{_COLOURS[number % len(_COLOURS)]}" rx="2"/>'
        )
        parts.append(_text(x + 17, 48, name))
        x += 17 + len(name) * _WIDE + 18
    return parts
