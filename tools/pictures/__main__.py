"""Makes the pictures of ``docs/pictures`` anew: all, or those that are named (demo, top, chat, images)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tools.pictures.pages import chat, images
from tools.pictures.terminals import demo, top

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"

PICTURES: Final[Mapping[str, Callable[[Path], None]]] = {
    "demo": demo,
    "top": top,
    "chat": chat,
    "images": images,
}


def main(names: list[str]) -> int:
    """Make them; returns the exit code."""
    if unknown := set(names) - PICTURES.keys():
        print(f"There is no {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}.", file=sys.stderr)
        return 2
    FOLDER.mkdir(exist_ok=True)
    for name in names or PICTURES:
        began = time.monotonic()
        PICTURES[name](FOLDER)
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    for path in sorted(FOLDER.iterdir()):
        print(f"  {path.name:24} {path.stat().st_size / 1024:6.1f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
