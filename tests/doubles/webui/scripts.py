"""What scripts make of an order's pictures: more of them, and grids that they count or do not count."""

from __future__ import annotations

from typing import Any, Final

from PIL import Image

from tests.doubles.webui.order import Order
from tests.doubles.webui.pictures import draw, grid

_LOOPS: Final = 4
_X_VALUES, _SUB_IMAGES = 1, 10
"""Places in the arguments of X/Y/Z plot."""

Pictures = list[tuple[Image.Image, str]]


def scripted(order: Order, pictures: Pictures) -> tuple[Pictures, int]:
    """The pictures as the order's script leaves them, and which one the answer calls the first."""
    name = (order.fields["script_name"] or "").lower()
    args: list[Any] = order.fields["script_args"] or []
    text = pictures[0][1] if pictures else ""
    match name:
        case "x/y/z plot":
            values = str(args[_X_VALUES]).split(",") if len(args) > _X_VALUES else ["1", "2"]
            cells = [(draw(*order.size, *order.seeds, value), text) for value in values]
            alone = len(args) <= _SUB_IMAGES or not args[_SUB_IMAGES]
            return [(grid([cell for cell, _ in cells]), text), *([] if alone else cells)], 1
        case "loopback":
            loops = int(args[0]) if args else _LOOPS
            made = [(draw(*order.size, *order.seeds, loop), text) for loop in range(loops)]
            row = Image.new("RGB", (loops * order.size[0], order.size[1]))
            return [*([(row, text)] if loops > 1 else []), *made], 0
        case _:
            return pictures, 0
