"""Makes the pictures of ``docs/pictures`` anew: all, or those that are named."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tools.pictures.pages import chat, images, resumed
from tools.pictures.terminals import demo, top

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"

PICTURES: Final[Mapping[str, Callable[[Path], None]]] = {
    "demo": demo,
    "top": top,
    "chat": chat,
    "images": images,
    "resumed": resumed,
}


def main(arguments: Sequence[str]) -> int:
    """Make them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make pictures", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, "all"], default="all", help="which; default: all")
    parser.add_argument(
        "--into", type=Path, default=FOLDER, metavar="FOLDER", help="where they go; default %(default)s"
    )
    given = parser.parse_args(arguments)
    given.into.mkdir(exist_ok=True)
    for name in PICTURES if "all" in given.names else given.names:
        began = time.monotonic()
        PICTURES[name](given.into)
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    for path in sorted(given.into.iterdir()):
        print(f"  {path.name:24} {path.stat().st_size / 1024:6.1f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
