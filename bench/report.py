"""What a soak found: as one object, as a table for people, and each job that went wrong as a file."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fleet import Fleet, Kind
from judge import Fate, Fault, Violation, Watched, gaps

SHOWN: Final = 30
LONGEST: Final = 3
NEAR: Final = 60.0
"""A job's file names the faults from so many seconds before its first entry on."""


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Return count, median, 95th percentile and largest; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {
        "count": len(ordered),
        "median": round(statistics.median(ordered), 3),
        "p95": round(ordered[math.ceil(0.95 * len(ordered)) - 1], 3),
        "max": round(ordered[-1], 3),
    }


def summarise(
    jobs: Sequence[Watched], bad: Mapping[str, Sequence[Violation]], fleet: Fleet, *, began: float
) -> dict[str, Any]:
    """Return everything that was counted, JSON-ready.

    Args:
        jobs: all jobs.
        bad: what is wrong with some of them, by id.
        fleet: what was done to the workers.
        began: when the first job was submitted, in monotonic seconds.
    """
    entries = [entry for job in jobs for entry in job.entries]
    starts = [(job, entry.data.get("mode")) for job in jobs for entry in job.entries if entry.event == "start"]
    seconds = max((entry.at for entry in entries), default=began) - began
    tokens = sum(entry.event == "token" for entry in entries)
    paused = gaps(jobs, [fault for fault in fleet.faults if fault.kind != Kind.CANCEL])
    paused.sort(key=lambda gap: gap.seconds, reverse=True)
    by_cause: defaultdict[str, list[float]] = defaultdict(list)
    for gap in paused:
        by_cause[gap.kinds[0] if len(gap.kinds) == 1 else "several"].append(gap.seconds)
    results = [job.result or {} for job in jobs]
    stops = [
        job.entries[-1].at - job.cancelled_at
        for job in jobs
        if job.cancelled_at is not None and (job.result or {}).get("finish_reason") == "cancelled"
    ]
    return {
        "jobs": len(jobs),
        "streamed": sum(job.streamed for job in jobs),
        "ended": dict(Counter(result.get("finish_reason") or result.get("code") or "open" for result in results)),
        "attempts": dict(sorted(Counter(job.entries[-1].place[0] for job in jobs if job.ended).items())),
        "starts": dict(Counter(mode for _, mode in starts)),
        "streamed_restarts": sum(job.streamed and mode == "restart" for job, mode in starts),
        "faults": dict(Counter(fault.kind for fault in fleet.faults)),
        **{fate.value: sum(any(one.fate is fate for one in broken) for broken in bad.values()) for fate in Fate},
        "gaps": {cause: spread(values) for cause, values in sorted(by_cause.items())}
        | {"all": spread(gap.seconds for gap in paused)},
        "longest": [asdict(gap) for gap in paused[:LONGEST]],
        "cancel": spread(stops),
        "over_max_tokens": sum(job.pieces > job.max_tokens for job in jobs),
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        "orphans": fleet.counts["orphans"],
        "worker_restarts": sum(len(replica.past) - 1 for replica in fleet.replicas),
        "other": {name: count for name, count in sorted(fleet.counts.items()) if name != "orphans"},
        "log": log_counts(fleet),
        "problems": fleet.problems + mistakes(fleet),
        "bad": {job_id: [f"{one.fate}: {one.text}" for one in broken] for job_id, broken in bad.items()},
    }


def _lines(fleet: Fleet) -> Iterable[tuple[str, dict[str, Any]]]:
    for replica in fleet.replicas:
        for worker in replica.past:
            for line in worker.lines():
                yield worker.log.name, line


def log_counts(fleet: Fleet) -> dict[str, int]:
    """Return how often each action was logged as a warning or worse."""
    loud = (line for _, line in _lines(fleet) if line.get("level") not in {"info", "debug"})
    return dict(Counter(str(line.get("action")) for line in loud).most_common())


def mistakes(fleet: Fleet) -> list[str]:
    """Return what a worker says of mistakes of its own: every exception that it logged, every trace that it wrote."""
    found = [
        f"{name}: logged an exception, {line.get('action')}: {line['exception'].splitlines()[-1]}"
        for name, line in _lines(fleet)
        if "exception" in line
    ]
    for replica in fleet.replicas:
        for worker in replica.past:
            plain = [text for text in worker.log.read_text(errors="replace").splitlines() if not text.startswith("{")]
            if plain:
                found.append(f"{worker.log.name}: wrote what is no log line: {plain[-1]}")
    return found


def dump(folder: Path, job: Watched, broken: Sequence[Violation], faults: Sequence[Fault], places: list[str]) -> None:
    """Write all that is known of a job to ``<id>.json``; times are in seconds since its first entry."""
    first = job.entries[0].at if job.entries else 0.0
    near = [fault for fault in faults if fault.end > first - NEAR] if job.entries else faults
    facts: dict[str, Any] = asdict(job) | {
        "violations": [asdict(one) for one in broken],
        "places": places,
        "faults": [asdict(fault) | {"begin": fault.begin - first, "end": fault.end - first} for fault in near],
        "entries": [asdict(entry) | {"at": round(entry.at - first, 3)} for entry in job.entries],
    }
    path = folder / f"{job.id}.json"
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False))


def _counted(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def print_table(found: dict[str, Any]) -> None:
    """Print a summary for people."""
    plan = found["plan"]
    rows = [
        ("plan", f"{plan['minutes']:g} min, {plan['replicas']} workers, lease {plan['lease']} s, "),
        ("jobs", f"{found['jobs']}, {found['streamed']} streamed; {found['pushed_again']} pushed again"),
        ("ended", _counted(found["ended"])),
        ("faults", _counted(found["faults"])),
        ("attempts", "; ".join(f"{count} jobs with {number}" for number, count in found["attempts"].items())),
        ("starts", f"{_counted(found['starts'])}; restart of a streamed job {found['streamed_restarts']}"),
        ("verdict", _counted({fate.value: found[fate.value] for fate in Fate})),
        ("tokens", f"{found['tokens']} in {found['seconds']} s, {found['tokens_per_second']}/s"),
        ("pieces", f"{found['over_max_tokens']} jobs have more pieces of text than max_tokens"),
        ("workers", f"{found['worker_restarts']} restarts, {found['orphans']} orphans"),
        ("warnings", _counted(found["log"])),
        ("other", _counted(found["other"])),
    ]
    rows[0] = ("plan", rows[0][1] + f"a fault every {plan['fault_every']:g} s, seed {plan['seed']}")
    for name, text in rows:
        print(f"{name:10} {text}")
    rows = {kind: one for kind, one in (found["gaps"] | {"until cancelled": found["cancel"]}).items() if one}
    if rows:
        print(f"\n{'gaps, s':16} {'streams':>8} {'median':>8} {'p95':>8} {'max':>8}")
    for kind, one in rows.items():
        print(f"{kind:16} {one['count']:8} {one['median']:8.2f} {one['p95']:8.2f} {one['max']:8.2f}")
    for gap in found["longest"]:
        print(f"{gap['seconds']:.2f} s in {gap['job_id']}: {', '.join(gap['kinds'])}")
    wrong = [f"PROBLEM {text}" for text in found["problems"]]
    wrong += [f"BAD {job_id} ({job_id}.json): {'; '.join(broken)}" for job_id, broken in found["bad"].items()]
    for line in wrong[:SHOWN]:
        print(line)
    if len(wrong) > SHOWN:
        print(f"and {len(wrong) - SHOWN} more: --json has them all")
