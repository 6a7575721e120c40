"""``velesio-worker serve``: Redis, workers, gateway and its page, kept running until somebody ends them.

Owns which parts there are and with which settings (``plan``, ``images``), that one which dies is started again
(``keeping``), and what is said meanwhile (``voice``). Each part is a process of its own: this very command line.
"""

from velesio_worker.cli.serve.command import command

__all__ = ["command"]
