"""``velesio-worker top``: the fleet at a glance, live in the terminal.

Owns what is made of two looks at the fleet (``watch``), how that is arranged and written (``arranging``, ``writing``),
and the screens (``screen``, ``panes``), which alone need textual (extra
``top``). All data comes through the client: three round trips a look, whatever there is.
"""

from velesio_worker.cli.top.command import command

__all__ = ["command"]
