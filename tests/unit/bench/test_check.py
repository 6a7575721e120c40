"""What a token costs is held against its budget, and whoever has none or too little is told what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bench import check

SAID = """==1== Events    : Ir
==1== Collected : 3423642560
==1==
==1== I   refs:      3,423,642,560
"""


def test_what_callgrind_counted_is_read() -> None:
    assert check.collected(SAID) == 3_423_642_560
    with pytest.raises(ValueError, match="counted nothing"):
        check.collected("valgrind: cannot execute")


@pytest.mark.parametrize(
    ("measured", "within", "said"),
    [
        (100_000, True, "+0.0% of the budget of 100,000"),
        (104_999, True, "+5.0% of the budget"),
        (105_100, False, "more than 5% over it"),
        (90_000, True, "can be lowered"),
    ],
)
def test_five_per_cent_more_are_let_pass_and_no_more(measured: float, within: bool, said: str) -> None:  # noqa: FBT001
    found = check.verdict({"here": 100_000}, "here", measured)
    assert found[0] is within
    assert said in found[1]


def test_whoever_has_no_budget_is_told_how_to_set_one() -> None:
    within, said = check.verdict({"CPython 3.11 x86_64": 1}, "CPython 3.13 arm64", 5)
    assert not within
    assert "no budget for CPython 3.13 arm64 (there is one for CPython 3.11 x86_64): --write" in said


def test_a_host_without_valgrind_is_told_where_to_get_it(tmp_path: Path) -> None:
    command = [sys.executable, "bench/check.py"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "apt install valgrind" in done.stderr
