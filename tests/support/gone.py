"""Processes that are to be gone."""

from __future__ import annotations

import time

import psutil


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid: int, limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not is_gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)
