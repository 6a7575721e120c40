"""What ``velesio-worker doctor`` looks at before a worker is started: it starts no engine and changes nothing.

What it leaves is a small file in RESULT_STORE: whether that can be written shows in no other way.
"""

from velesio_worker.cli.doctor.command import command

__all__ = ["command"]
