"""The programs that the worker finds in its own folders: whoever may write there would have their programs run."""

from __future__ import annotations

import stat
from pathlib import Path

from velesio_worker.wire.errors import EngineStartError


def check_programs(*paths: Path) -> None:
    """Refuse programs, and folders of programs, that others may write; the group 0 may, as in containers.

    Links are followed; what is not there is no matter.

    Raises:
        EngineStartError: one of them may be written by its group, or by anybody.
    """
    for path in paths:
        try:
            facts = path.stat()
        except OSError:
            continue
        sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX  # others cannot replace what is in it
        by_group = facts.st_mode & stat.S_IWGRP and facts.st_gid != 0
        if not sticky and (by_group or facts.st_mode & stat.S_IWOTH):
            whose = "anybody" if facts.st_mode & stat.S_IWOTH else f"the group {facts.st_gid}"
            raise EngineStartError(
                f"{path} may be written by {whose}, who could have programs of their own run here: chmod go-w {path}",
                final=True,
            )
