"""The types of job that a worker takes (``JOB_TYPES``), as the setting names them."""

from __future__ import annotations

from velesio_worker.wire.jobs import ALL_TYPES, JobType


def types_named(setting: str) -> frozenset[JobType]:
    """Return the types that a text names, with commas between; ``all`` stands for all of them.

    Raises:
        ValueError: it names none, or one that there is not; it says what there is.
    """
    names = {name for part in setting.split(",") if (name := part.strip())}
    unknown = sorted(names - ALL_TYPES - {"all"})
    if unknown or not names:
        found = f"; {unknown[0]!r} is none of them" if unknown else ""
        raise ValueError(f"all, or some of {', '.join(JobType)}{found}")
    return ALL_TYPES if "all" in names else frozenset(map(JobType, names))
