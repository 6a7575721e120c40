"""Fetches the libraries of the chat page: `make vendor`. `tools/vendor.json` says which, and what of them.

Each package is fetched by npm in its exact version, has to have the hash that stands there, and gives the files that
are named there and its licences, into a folder with its version in its name. ``vendor.lock`` then has the SHA-256 of
each file, which a test compares without a network. Nothing is built: a package's own ES modules are what a browser
loads, and only a bare name in an import becomes a path (``rewrite``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
LIST: Final = Path(__file__).with_name("vendor.json")
VENDOR: Final = ROOT / "src" / "velesio_worker" / "gateway" / "page" / "static" / "vendor"


class VendorError(Exception):
    """A package is not what it has to be."""


def fetch(package: dict[str, Any], folder: Path) -> Path:
    """Have npm fetch a package's archive; returns it. Raises VendorError: npm has it not, or it has another hash."""
    named = f"{package['name']}@{package['version']}"
    done = subprocess.run(
        ["npm", "pack", named, "--silent", "--pack-destination", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise VendorError(f"npm does not fetch {named}: {done.stderr.strip() or done.stdout.strip()}")
    archive = folder / done.stdout.strip().splitlines()[-1]
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package["integrity"]:
        raise VendorError(f"{named} is not what it was: its hash is {found}")
    return archive


def unpack(package: dict[str, Any], archive: Path, into: Path) -> list[dict[str, str]]:
    """Write a package's files and licences; returns what the lock says of them."""
    wanted: dict[str, str] = package["files"] | {name: name for name in package["licences"]}
    rewrite: dict[str, list[list[str]]] = package.get("rewrite", {})
    rows: list[dict[str, str]] = []
    with tarfile.open(archive) as members:
        for source, name in wanted.items():
            member = members.extractfile(f"package/{source}")
            if member is None:
                raise VendorError(f"{package['name']} has no file {source}")
            content = member.read()
            for old, new in rewrite.get(name, []):
                if content.count(old.encode()) != 1:
                    raise VendorError(f"{package['name']}: {name} has {old} not once")
                content = content.replace(old.encode(), new.encode())
            target = into / package["folder"] / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            rows.append({"file": name, "source": source, "sha256": hashlib.sha256(content).hexdigest()})
    return rows


def main() -> int:
    """Fetch all, then put them in the place of those that are there."""
    packages: list[dict[str, Any]] = json.loads(LIST.read_text())
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary) / "vendor"
        lock: list[dict[str, Any]] = []
        try:
            for package in packages:
                rows = unpack(package, fetch(package, Path(temporary)), fresh)
                about = {key: package[key] for key in ("name", "version", "licence", "integrity", "folder")}
                lock.append({**about, "licences": package["licences"], "files": rows})
                print(f"{package['name']} {package['version']}: {len(rows)} files")
        except (VendorError, KeyError) as error:
            print(error, file=sys.stderr)
            return 1
        (fresh / "vendor.lock").write_text(json.dumps(lock, indent=2) + "\n")
        shutil.rmtree(VENDOR, ignore_errors=True)
        shutil.copytree(fresh, VENDOR)
    return 0


if __name__ == "__main__":
    sys.exit(main())
