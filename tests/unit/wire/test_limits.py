"""The page of the limits says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from velesio_worker.wire import limits

PAGE = (Path(__file__).parents[3] / "docs/reference/limits.md").read_text("utf-8")


def test_the_page_has_each_limit_with_its_number() -> None:
    told = [int(number.replace(",", "")) for number in re.findall(r"^\|.*\| ([0-9,]+) \|$", PAGE, re.MULTILINE)]
    assert told == [number for name, number in vars(limits).items() if name.isupper()]
