"""Programs of this package, forked from a process that has imported what they need.

Python takes most of a second of a core for the worker's imports, and hundreds of tests start one. That the command
starts by itself is shown by the tests of the demo, of the doctor and of the images.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from velesio_worker.__main__ import main

_ROOT: Final = Path(__file__).parents[2]


class Forked:
    """A process that was forked; as much of :class:`subprocess.Popen` as tests use."""

    def __init__(self, server: ForkServer, pid: int, out: Path, err: Path) -> None:
        self._server = server
        self._out = out
        self._err = err
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, the negative number of the signal that ended it, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait until it has ended; returns the exit code. Raises TimeoutExpired after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("velesio-worker", timeout)
            time.sleep(0.01)
        return code

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait until it has ended; returns what it wrote to standard output and error."""
        self.wait(timeout)
        return self._out.read_text(), self._err.read_text()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """A process that has imported the worker, and forks one whenever it is asked to."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forks"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, **request: Any) -> Any:
        """Send a request; returns its answer."""
        with self._turn:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "the process that forks workers is gone"
        return json.loads(answer)

    def start(
        self,
        environment: Mapping[str, str],
        out: Path,
        *arguments: str,
        err: Path | None = None,
        place: Path | None = None,
    ) -> Forked:
        """Start ``velesio-worker`` in a session of its own.

        Args:
            environment: its environment.
            out: the file to which its standard output is appended.
            arguments: those of its command line.
            err: the same for its standard error; ``out`` by default.
            place: the folder to start it in; this process's by default.
        """
        err = err or out
        streams = [str(path.absolute()) for path in (out, err)]
        for path in streams:  # they are there as soon as this returns
            Path(path).touch()
        place = place or Path.cwd()
        pid = self.ask(environment=dict(environment), streams=streams, arguments=arguments, place=str(place))
        return Forked(self, pid, out, err)

    def close(self) -> None:
        """End it; what it forked stays."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()


_STARTING: Final = threading.Lock()
_started: list[ForkServer] = []


def fork_server() -> ForkServer:
    """Return this process's fork server; it is started when it is first needed, once, whatever threads ask."""
    with _STARTING:
        if not _started:
            _started.append(ForkServer())
        return _started[0]


def run_forked(environment: Mapping[str, str], *arguments: str, place: Path | None = None) -> tuple[int, str, str]:
    """Run a command of ``velesio-worker``; returns its exit code and what it wrote to standard output and error."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = fork_server().start(environment, out, *arguments, err=err, place=place)
        written = process.communicate(90)
        return process.wait(0), *written


def close_fork_server() -> None:
    """End this process's fork server, if there is one."""
    while _started:
        _started.pop().close()


def _become(request: Mapping[str, Any]) -> None:
    """Become what a new process is: a session, standard streams, an environment and a folder of its own."""
    os.setsid()
    opened = [os.open(os.devnull, os.O_RDONLY)]
    opened += [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) for path in request["streams"]]
    for target, source in enumerate(opened):
        os.dup2(source, target)
        os.close(source)
    os.chdir(request["place"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # it goes by the environment, and so does this
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    sys.argv = ["velesio-worker", *request["arguments"]]


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _serve() -> bool:
    """Answer requests until nobody asks any more; in a forked process returns True at once."""
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        if "poll" in request:
            answer = _exit_code(request["poll"])
        else:
            answer = os.fork()
            if answer == 0:
                _become(request)
                return True
        os.write(1, json.dumps(answer).encode() + b"\n")
    return False


def _import_all() -> None:
    """Import what a worker imports, and when."""
    commands = [
        f"velesio_worker.cli.{name}" for name in ("main", "run", "health", "submit", "dead", "models", "doctor")
    ]
    for name in (*commands, "uvloop", "velesio_worker.gateway.server"):
        with suppress(ImportError):  # the last two need extras
            importlib.import_module(name)


if __name__ == "__main__":
    _import_all()
    gc.freeze()  # what all share stays shared
    if _serve():
        sys.exit(main())
