"""A terminal's screen: takes what a program writes, and knows what stands where.

It knows as much of ECMA-48 and of xterm's sequences as the demo and Textual use; what else there is, it passes over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

_SEQUENCE: Final = re.compile(
    r"\x1b\[(?P<private>[?<=>]?)(?P<numbers>[0-9;:]*)[ !$\"'*]?(?P<final>[@-~])"  # CSI
    r"|\x1b[\]P_^X].*?(?:\x07|\x1b\\)"  # strings, such as the title
    r"|\x1b[()*+][0-9A-Za-z]|\x1b[ -/]?[0-~]",
    re.DOTALL,
)
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-9;:?<=> !$\"'*]*|[\]P_^X][^\x07\x1b]*\x1b?|[()*+]?)?\Z")

BASIC: Final = (
    *("#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4"),
    *("#6e7681", "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#f0f6fc"),
)
"""The sixteen colours that have names."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a character looks; colours as CSS has them, None is the terminal's own."""

    ink: str | None = None
    paper: str | None = None
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underlined: bool = False
    reversed: bool = False


PLAIN: Final = Style()
Cell = tuple[str, Style]
BLANK: Final[Cell] = (" ", PLAIN)


def colour(numbers: list[int]) -> str | None:
    """Return the colour that stands behind 38 or 48, and take its numbers away; None: it is none."""
    kind = numbers.pop(0) if numbers else 0
    if kind == 2 and len(numbers) >= 3:  # noqa: PLR2004 (red, green, blue)
        red, green, blue = (numbers.pop(0) for _ in range(3))
        return f"#{red:02x}{green:02x}{blue:02x}"
    if kind == 5 and numbers:  # noqa: PLR2004 (of the 256)
        return _of_256(numbers.pop(0))
    return None


def _of_256(number: int) -> str:
    if number < len(BASIC):
        return BASIC[number]
    if number >= 232:  # noqa: PLR2004 (from here on it is grey)
        return f"#{8 + 10 * (number - 232):02x}" + 2 * f"{8 + 10 * (number - 232):02x}"
    steps = (0, 95, 135, 175, 215, 255)
    red, rest = divmod(number - 16, 36)
    return "#" + "".join(f"{steps[part]:02x}" for part in (red, rest // 6, rest % 6))


_SWITCHES: Final[dict[int, dict[str, bool]]] = {
    1: {"bold": True},
    2: {"dim": True},
    3: {"italic": True},
    4: {"underlined": True},
    7: {"reversed": True},
    22: {"bold": False, "dim": False},
    23: {"italic": False},
    24: {"underlined": False},
    27: {"reversed": False},
}


def styled(style: Style, numbers: list[int]) -> Style:
    """Return the style that the numbers of an SGR sequence make of another one."""
    while numbers:
        number = numbers.pop(0)
        tens, ones = divmod(number, 10)
        if number == 0:
            style = PLAIN
        elif number in _SWITCHES:
            style = replace(style, **_SWITCHES[number])
        elif tens in {3, 9, 4, 10} and ones <= 9:  # noqa: PLR2004
            found = colour(numbers) if ones == 8 else _named(tens, ones)  # noqa: PLR2004 (8: more follows)
            style = replace(style, ink=found) if tens in {3, 9} else replace(style, paper=found)
    return style


def _named(tens: int, ones: int) -> str | None:
    """Return the colour of 30 to 37, 40 to 47, 90 to 97 or 100 to 107; 39 and 49 are none."""
    return BASIC[ones + (0 if tens in {3, 4} else 8)] if ones < 8 else None  # noqa: PLR2004


class Screen:
    """What stands on a terminal.

    Args:
        columns: how wide it is; what is longer goes on in the next row.
        rows: how high it is; what is more scrolls away.

    Attributes:
        cells: its rows from the top, each a list of characters with their styles.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.cells: list[list[Cell]] = [self._row() for _ in range(rows)]
        self._x = self._y = 0
        self._style = PLAIN
        self._rest = ""

    def _row(self) -> list[Cell]:
        return [BLANK] * self.columns

    def feed(self, text: str) -> None:
        """Take what a program writes; a sequence may be cut in two."""
        text = self._rest + text
        unfinished = _UNFINISHED.search(text)
        self._rest = unfinished.group() if unfinished else ""
        text = text.removesuffix(self._rest) if self._rest else text
        at = 0
        for found in _SEQUENCE.finditer(text):
            self._write(text[at : found.start()])
            if found["final"] and not found["private"]:
                self._obey(found["final"], [int(number or 0) for number in re.split("[;:]", found["numbers"])])
            at = found.end()
        self._write(text[at:])

    def _write(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self._down()
            elif character == "\r":
                self._x = 0
            elif character == "\b":
                self._x = max(0, self._x - 1)
            elif character >= " ":
                if self._x >= self.columns:
                    self._x = 0
                    self._down()
                self.cells[self._y][self._x] = (character, self._style)
                self._x += 1

    def _down(self) -> None:
        if self._y + 1 < self.rows:
            self._y += 1
        else:
            self.cells = [*self.cells[1:], self._row()]

    def _obey(self, final: str, numbers: list[int]) -> None:
        if final == "m":
            self._style = styled(self._style, numbers)
            return
        self._x = min(self._x, self.columns - 1)  # it stands behind a full row only as long as nothing moves it
        first = max(1, numbers[0])
        match final:
            case "H" | "f":
                column = numbers[1] if len(numbers) > 1 else 1
                self._y, self._x = min(first, self.rows) - 1, min(max(1, column), self.columns) - 1
            case "A":
                self._y = max(0, self._y - first)
            case "B":
                self._y = min(self.rows - 1, self._y + first)
            case "C":
                self._x = min(self.columns - 1, self._x + first)
            case "D":
                self._x = max(0, self._x - first)
            case "G":
                self._x = min(first, self.columns) - 1
            case "K":
                self._erase_line(numbers[0])
            case "J":
                self._erase(numbers[0])
            case _:
                return

    def _erase_line(self, what: int) -> None:
        row = self.cells[self._y]
        start, end = {0: (self._x, self.columns), 1: (0, self._x + 1)}.get(what, (0, self.columns))
        row[start:end] = [BLANK] * (min(end, self.columns) - start)

    def _erase(self, what: int) -> None:
        whole = {0: range(self._y + 1, self.rows), 1: range(self._y)}.get(what, range(self.rows))
        for row in whole:
            self.cells[row] = self._row()
        if what in {0, 1}:
            self._erase_line(what)

    def shown(self) -> list[list[Cell]]:
        """Return a copy of what stands there now."""
        return [list(row) for row in self.cells]

    def text(self) -> str:
        """Return it as text, without what is empty at the right and at the bottom."""
        return "\n".join("".join(character for character, _ in row).rstrip() for row in self.cells).rstrip()
