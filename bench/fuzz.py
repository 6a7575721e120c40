"""Hostile jobs, damaged keys and lying engines against real workers, for some minutes each.

What is drawn (hostile.py) is repeated with the same seed; what it meets depends on the machine's pace.
What has to hold, whatever is drawn:
  jobs    no engine dies; a small job beside begins in time; worker and engine keep within their memory; every payload
          whose id can be read has its result and exactly one last entry
  keys    no worker ends, Redis answers all the time, every job ends
  engine  no worker ends or grows, every job ends, and a good answer is taken afterwards

Usage: python bench/fuzz.py [--minutes 15] [--seed N] [--targets jobs,keys,engine] [--keep-logs FOLDER]
Exit code: 0; 1: something did not hold; what was drawn for it lies in the folder.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, given, seed, settings

from findings import BrokenError, Findings
from targets import DamagedKeys, HostileJobs, LyingEngine, Target

ROUND: Final = 20
"""How many draws there are before the time is looked at, and the seed goes on by one."""

TARGETS: Final[dict[str, type[Target]]] = {"jobs": HostileJobs, "keys": DamagedKeys, "engine": LyingEngine}


def attack(name: str, minutes: float, first_seed: int, findings: Findings) -> None:
    """Attack one target for some minutes."""
    target = TARGETS[name](findings.folder / name, findings)
    over = time.monotonic() + minutes * 60

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(target.running()):

        @given(target.strategy)
        @settings(
            max_examples=ROUND,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
                HealthCheck.large_base_example,
            ],
        )
        def one(drawn: Any) -> None:
            if time.monotonic() > over:
                return
            findings.drawn[name] += 1
            try:
                portal.call(target.attack, drawn)
            except* BrokenError as broken:
                for what in _leaves(broken):
                    findings.add(name, what, drawn)
                portal.call(target.fleet.whole)

        rounds = 0
        while time.monotonic() < over:
            seed(first_seed + rounds)(one)()
            rounds += 1
            print(f"{name}: {findings.drawn[name]} draws, {len(findings.broken)} broken", file=sys.stderr, flush=True)
        portal.call(target.fleet.close)
    findings.broken += [f"{name}: {problem}" for problem in target.fleet.problems]


def _leaves(group: BaseExceptionGroup[BrokenError]) -> list[BrokenError]:
    return [
        leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=15, help="for all targets together; half of it is for jobs")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000))
    parser.add_argument("--targets", type=lambda names: names.split(","), default=[*TARGETS], metavar="NAME,…")
    parser.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="for logs and what was drawn")
    plan = parser.parse_args()
    folder: Path = plan.keep_logs or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    findings = Findings(folder)
    shares = {name: 2 if name == "jobs" else 1 for name in plan.targets}
    for name, share in shares.items():
        attack(name, plan.minutes * share / sum(shares.values()), plan.seed, findings)
    print(f"seed      {plan.seed}\ndraws     {', '.join(f'{name} {count}' for name, count in findings.drawn.items())}")
    print(f"ended     {', '.join(f'{name} {count}' for name, count in findings.ended.most_common())}")
    for name, figure in findings.worst.items():
        print(f"worst     {name}: {figure:.2f}")
    print(f"broken    {len(findings.broken)}")
    for text in findings.broken:
        print(f"BROKEN    {text}")
    if findings.broken:
        print(f"logs: {folder}", file=sys.stderr)
    elif plan.keep_logs is None:
        shutil.rmtree(folder)
    return bool(findings.broken)


if __name__ == "__main__":
    sys.exit(main())
