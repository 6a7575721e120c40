"""How much may be in a value of JSON that is not looked at more closely."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field

from velesio_worker.wire.limits import LARGEST_NUMBER, MOST_TEXT


@dataclass(frozen=True, slots=True)
class Within:
    """Checks that a value holds no more than so many values, itself not counted, and characters of text and names.

    What is too large for it raises ValueError, with the limit.
    """

    values: int
    characters: int = MOST_TEXT

    def __call__(self, value: Any) -> Any:  # noqa: ANN401 (any JSON)
        """Return the value as it is."""
        values = characters = 0
        for one in _within(value):
            match one:
                case str():
                    characters += len(one)
                case dict():
                    fields = cast("dict[str, Any]", one)
                    values += len(fields)
                    characters += sum(map(len, fields))
                case list():
                    values += len(cast("list[Any]", one))
                case _:
                    continue
            if values > self.values:
                raise ValueError(f"holds more than {self.values} values, which is the limit")
            if characters > self.characters:
                raise ValueError(f"holds more than {self.characters} characters, which is the limit")
        return value


def _within(value: Any) -> Iterator[Any]:  # noqa: ANN401 (any JSON)
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, dict):
            waiting.extend(cast("dict[str, Any]", one).values())
        elif isinstance(one, list):
            waiting.extend(cast("list[Any]", one))


def within(values: int, characters: int = MOST_TEXT) -> AfterValidator:
    """Have a field checked by :class:`Within`."""
    return AfterValidator(Within(values, characters))


LongText = Annotated[str, Field(max_length=MOST_TEXT)]
Number = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST_NUMBER)]
