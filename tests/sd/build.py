"""Builds stable-diffusion.cpp's sd-server into ``data/binaries`` for the tests marked ``sd_server``.

``make test-sd`` runs it. It needs Python, a C++ compiler and, once, the network: the source is in an sdist, CMake and
Ninja are wheels, and all are pinned by hash in ``requirements/sd-*.txt``. About four minutes on two cores; nothing to
do the next time. A build that was stopped goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "data" / "binaries" / "sd-server"
TOOLS_PINS = ROOT / "requirements" / "sd-build.txt"
SOURCE_PINS = ROOT / "requirements" / "sd-server.txt"

_WORK = ROOT / "data" / "binaries" / "sd-server-build"
_BUILT_FROM = ROOT / "data" / "binaries" / "sd-server.pins"
"""The pins that the binary was built from; a binary without it is somebody's own and is left alone."""
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
_OPTIONS = ("CMAKE_BUILD_TYPE=Release", "CMAKE_C_FLAGS=-w", "CMAKE_CXX_FLAGS=-w", "SD_BUILD_EXAMPLES=ON")
"""Without -w the compiler's warnings about others' source fill a megabyte."""
_LEFT_OUT = ("SD_SERVER_BUILD_FRONTEND", "SD_WEBP", "SD_WEBM")
"""A web page, which needs Node.js, and formats that no test asks for."""


class BuildError(Exception):
    """The server was not built; the text says what to do."""


def main() -> int:
    """Build the server if it is not there; return an exit status."""
    try:
        if is_built():
            _say(f"{BINARY.relative_to(ROOT)} is there")
        else:
            build()
    except BuildError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("stopped; run it again to go on from there")
        return 130
    return 0


def is_built() -> bool:
    """Tell if the binary is there and was built from the present pins, or is somebody's own."""
    if not BINARY.exists():
        return False
    return not _BUILT_FROM.exists() or _BUILT_FROM.read_bytes() == SOURCE_PINS.read_bytes()


def build() -> None:
    """Fetch, build and put in place.

    Raises:
        BuildError: There is no compiler, or a step failed.
    """
    _require_compiler()
    _WORK.mkdir(parents=True, exist_ok=True)
    tools = _tools()
    _say("==> fetching the source of sd-server (about 20 MB, once)")
    source = _source(tools)
    _say("==> building sd-server (about four minutes on two cores)")
    built = _compile(source, tools)
    _run("starting the new sd-server", [str(built), "--version"], quiet=True)
    # The name must never be that of half a file: tests in another process may look for it.
    unfinished = BINARY.with_suffix(".part")
    shutil.copy2(built, unfinished)
    unfinished.replace(BINARY)
    shutil.copy(SOURCE_PINS, _BUILT_FROM)
    shutil.rmtree(_WORK)
    _say(f"==> {BINARY.relative_to(ROOT)} is ready")


def _require_compiler() -> None:
    for variable, names in (("CXX", ("c++", "g++", "clang++")), ("CC", ("cc", "gcc", "clang"))):
        if not os.environ.get(variable) and not any(map(shutil.which, names)):
            raise BuildError(
                f"sd-server needs a C++ compiler: none of {', '.join(names)} is on PATH, {variable} is not set "
                "(Debian and Ubuntu: apt install g++; macOS: xcode-select --install)"
            )


def _tools() -> Mapping[str, str]:
    """Install CMake, Ninja and what the sdist describes itself with; return the environment that finds them."""
    folder = _WORK / "tools"
    _say("==> fetching CMake and Ninja (about 35 MB, once)")
    shutil.rmtree(folder, ignore_errors=True)
    options = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--target", str(folder))
    _run("fetching CMake and Ninja", [*_PIP, "install", *options, "-r", str(TOOLS_PINS)])
    return {
        # A make above this one would have its own opinion on how many may work at once.
        **{name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}},
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(folder),
        # Or the server would take this repository's commit for its own version, and write it into every image.
        "GIT_CEILING_DIRECTORIES": str(_WORK),
    }


def _source(tools: Mapping[str, str]) -> Path:
    """Fetch and unpack the sdist; return the folder of stable-diffusion.cpp in it."""
    options = ("--require-hashes", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(_WORK))
    _run("fetching the source", [*_PIP, "download", *options, "-r", str(SOURCE_PINS)], environment=tools)
    for archive in sorted(_WORK.glob("stable_diffusion_cpp_python-*.tar.gz")):
        unpacked = _WORK / archive.name.removesuffix(".tar.gz")
        if not unpacked.exists():
            half = _WORK / "half-unpacked"
            shutil.rmtree(half, ignore_errors=True)
            with tarfile.open(archive) as tar:
                # Python before 3.11.4 has no filters; there, the hash alone vouches for the archive.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(half)  # noqa: S202 (filtered, and pinned by hash)
            (half / unpacked.name).replace(unpacked)
        return unpacked / "vendor" / "stable-diffusion.cpp"
    raise BuildError(f"no source of sd-server came with {SOURCE_PINS.relative_to(ROOT)}")


def _compile(source: Path, tools: Mapping[str, str]) -> Path:
    """Return the binary."""
    folder = _WORK / "objects"
    options = [f"-D{option}" for option in (*_OPTIONS, *(f"{name}=OFF" for name in _LEFT_OUT))]
    cmake = _WORK / "tools" / "bin" / "cmake"
    configure = [str(cmake), "-G", "Ninja", "-S", str(source), "-B", str(folder), *options]
    _run("configuring sd-server", configure, environment=tools, quiet=True)
    cores = os.cpu_count() or 1
    make = [str(cmake), "--build", str(folder), "--target", "sd-server", "--parallel", str(cores)]
    _run("building sd-server", make, environment=tools)
    return folder / "bin" / "sd-server"


def _run(what: str, command: list[str], *, environment: Mapping[str, str] | None = None, quiet: bool = False) -> None:
    """Run one step; with ``quiet`` its output is shown only if it fails."""
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode:
        _say(done.stdout or "")
        raise BuildError(
            f"{what} failed with exit status {done.returncode}; see above. Run it again to go on from there"
        )


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 (a script: telling is its job)


if __name__ == "__main__":
    sys.exit(main())
