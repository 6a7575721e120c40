"""``python -m velesio_worker`` is ``velesio-worker``."""

import sys

from velesio_worker.cli import main

if __name__ == "__main__":
    sys.exit(main())
