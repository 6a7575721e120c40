"""``python -m velesio_worker`` is ``velesio-worker``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")  # what the terminal's encoding has not is written out, as on stderr
    if sys.argv[1:2] == ["health"] and {"-h", "--help"}.isdisjoint(
        sys.argv
    ):  # a container asks every half a minute: do not load all that a worker needs
        from velesio_worker.cli.health import main as ask  # noqa: PLC0415

        return ask(sys.argv[2:])
    from velesio_worker.cli.main import main as run  # noqa: PLC0415

    return run()


if __name__ == "__main__":
    sys.exit(main())
