from __future__ import annotations

import pytest

from tests.support.tables import table


def test_a_table_fails_with_each_row_that_does_and_tells_its_values() -> None:
    seen: list[int] = []

    @table(("number", "word"), [(1, "a"), (2, "b"), (3, "c")])
    def rows(number: int, word: str) -> None:
        seen.append(number)
        assert word != "a"
        with pytest.raises(ValueError, match="c"):
            raise (ValueError if number == 3 else KeyError)(word)

    with pytest.raises(BaseExceptionGroup, match="2 of 3 rows") as caught:
        rows()
    assert seen == [1, 2, 3]
    assert [error.__notes__ for error in caught.value.exceptions] == [
        ["in the row number=1, word='a'"],
        ["in the row number=2, word='b'"],
    ]


def test_what_no_raises_saw_is_a_failure_as_well() -> None:
    @table(("number",), [[1]])
    def rows(number: int) -> None:
        with pytest.raises(ValueError, match="x"):
            int(number)

    with pytest.raises(BaseExceptionGroup, match="1 of 1 rows"):
        rows()


def test_a_table_without_rows_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="without rows"):
        table(("number",), [])
