"""Tables whose rows change all the time: the chosen row stays chosen, and only what has changed is painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text
from textual.widgets import DataTable

from velesio_worker.cli.base import harmless
from velesio_worker.cli.top.writing import shortened

_GAP: Final = 1
_LEAST: Final = 6


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: what stands above it.
        width: how many characters it has, at least.
        grows: its share of what is left of the screen's width.
        right: whether its cells stand on the right.
        end: whether what is too long is cut at its end, and not in the middle.
    """

    name: str
    width: int = 0
    grows: int = 0
    right: bool = False
    end: bool = False


def widths(columns: Sequence[Column], whole: int) -> list[int]:
    """Return how wide each column is, so that all of them fill the screen's width."""
    left = whole - sum(column.width for column in columns) - _GAP * len(columns)
    shares = sum(column.grows for column in columns)
    return [max(_LEAST, left * column.grows // shares) if column.grows else column.width for column in columns]


def fit(left: str, right: str, width: int) -> Text:
    """Return one line: a text on the left, one on the right if there is room for it."""
    left, right = harmless(left), harmless(right)
    room = width - len(left) - len(right)
    return Text(f"{left}{' ' * room}{right}" if room > 0 else left, no_wrap=True, overflow="ellipsis")


class Table(DataTable[Text]):
    """A table of texts."""


class Rows:
    """The rows of a table."""

    def __init__(self, table: Table, columns: Sequence[Column]) -> None:
        self._table = table
        self._columns = columns
        self._widths: list[int] = []
        self._keys: list[str] = []
        self._cells: list[list[Text]] = []
        self._wanted: str | None = None

    @property
    def chosen(self) -> str | None:
        """The key of the chosen row; None if there is none."""
        place = self._table.cursor_row
        return self._keys[place] if 0 <= place < len(self._keys) else None

    def resize(self, width: int) -> None:
        """Make the columns as wide as the screen lets them be; the rows are to be shown again."""
        new = widths(self._columns, width - 1)  # one is the scroll bar's
        if new == self._widths:
            return
        self._widths = new
        chosen, self._keys, self._cells = self.chosen, [], []
        self._table.clear(columns=True)
        for column, wide in zip(self._columns, new, strict=True):
            label = Text(column.name.rjust(wide) if column.right else column.name)
            self._table.add_column(label, width=wide + _GAP, key=column.name)
        self._wanted = chosen

    def show(self, keys: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
        """Show these rows."""
        if not self._widths:
            return
        cells = [self._fitted(row) for row in rows]
        if list(keys) == self._keys:
            self._update(cells)
        else:
            chosen, place = self.chosen or self._wanted, self._table.cursor_row
            self._table.clear()
            for key, row in zip(keys, cells, strict=True):
                self._table.add_row(*row, key=key)
            self._keys = list(keys)
            if chosen is not None and chosen in self._keys:
                self._table.move_cursor(row=self._keys.index(chosen))
            elif keys:
                self._table.move_cursor(row=min(place, len(keys) - 1))
        self._cells = cells

    def _update(self, cells: Sequence[Sequence[Text]]) -> None:
        for key, before, now in zip(self._keys, self._cells, cells, strict=True):
            for column, old, new in zip(self._columns, before, now, strict=True):
                if old != new:
                    self._table.update_cell(key, column.name, new)

    def _fitted(self, row: Sequence[Text]) -> list[Text]:
        """Cut each cell to its column's width, and set it to its side."""
        fitted: list[Text] = []
        for column, wide, cell in zip(self._columns, self._widths, row, strict=True):
            plain = cell.plain
            cut = f"{plain[: wide - 1]}…" if column.end and len(plain) > wide else shortened(plain, wide)
            text = Text(cut, no_wrap=True)
            for span in cell.spans:
                text.stylize(span.style)
            if column.right:
                text.align("right", wide)
            fitted.append(text)
        return fitted
