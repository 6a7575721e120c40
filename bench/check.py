"""Holds what a token costs, in instructions, against a stored budget: `make bench-check`.

A fixed replay (bench/token_path/replay.py) runs under valgrind twice, with few and with more tokens; what the latter
takes more is what tokens take, whatever starting takes. Instructions are no time, but they are the same on a busy
machine. A budget is of one Python and one kind of processor.

Usage: python bench/check.py [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
BUDGET: Final = HERE / "budget.json"
STREAMS: Final = 8
FEW: Final = 25
MORE: Final = 225
SLACK: Final = 0.05
LONGEST: Final = 1200
_COLLECTED: Final = re.compile(r"Collected : (\d+)")
NO_VALGRIND: Final = (
    "make bench-check counts instructions with valgrind, which is not on PATH "
    "(Debian and Ubuntu: apt install valgrind; Fedora: dnf install valgrind)"
)


def host() -> str:
    """Return what a budget is of: the Python and the kind of processor."""
    version = ".".join(platform.python_version_tuple()[:2])
    return f"{platform.python_implementation()} {version} {platform.machine()}"


def collected(said: str) -> int:
    """Return how many instructions callgrind counted. Raises ValueError: it did not say."""
    found = _COLLECTED.search(said)
    if found is None:
        raise ValueError(f"callgrind counted nothing: {said[-500:]}")
    return int(found.group(1))


def verdict(budgets: Mapping[str, int], name: str, measured: float) -> tuple[bool, str]:
    """Compare a count with its budget.

    Args:
        budgets: instructions a token, by :func:`host`.
        name: this host.
        measured: instructions a token.

    Returns:
        Whether it is within the budget, and what to say.
    """
    if name not in budgets:
        known = ", ".join(sorted(budgets)) or "nobody"
        return False, f"{measured:,.0f} instructions a token; no budget for {name} (there is one for {known}): --write"
    budget = budgets[name]
    more = measured / budget - 1
    said = f"{measured:,.0f} instructions a token, {more:+.1%} of the budget of {budget:,} ({name})"
    if more > SLACK:
        return False, f"{said}: more than {SLACK:.0%} over it. Make it cheaper, or say why and write it anew: --write"
    return True, f"{said}: it can be lowered (--write)" if more < -SLACK else said


def replayed(tokens: int, *before: str) -> str:
    """Replay so many tokens of each stream, by a program ``before`` Python; returns what was said on standard error."""
    env = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}{os.pathsep}{HERE.parent}", "PYTHONHASHSEED": "0"}
    command = [*before, sys.executable, "-m", "bench.token_path.replay", str(STREAMS), str(tokens)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LONGEST, check=False)
    if done.returncode:
        sys.exit(f"the replay failed: {done.stderr[-2000:]}")
    return done.stderr


def per_token() -> float:
    """Return how many instructions a token takes."""
    replayed(FEW)  # so that nothing is left to be compiled
    callgrind = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}")
    few, more = (collected(replayed(tokens, *callgrind)) for tokens in (FEW, MORE))
    return (more - few) / (STREAMS * (MORE - FEW))


def main() -> None:
    parser = argparse.ArgumentParser("make bench-check", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="have this count be the budget")
    write = parser.parse_args().write
    if shutil.which("valgrind") is None:
        sys.exit(NO_VALGRIND)
    budgets: dict[str, Any] = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    measured = per_token()
    if write:
        budgets[host()] = round(measured)
        BUDGET.write_text(json.dumps(budgets, indent=1, sort_keys=True) + "\n")
    within, said = verdict(budgets, host(), measured)
    print(said)
    sys.exit(not within)


if __name__ == "__main__":
    main()
