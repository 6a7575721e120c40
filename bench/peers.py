"""What is measured beside the gateway: where it comes from, and how it is started.

Packages are installed into environments of their own below data/binaries, pinned by hash; the worker's is left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from environments import MissingPeerError, environment, interpreter
from processes import free_port

HERE: Final = Path(__file__).parent
MODULES: Final = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))
NCHAN: Final = "ngx_nchan_module.so"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that shows streams.

    Attributes:
        port: where it listens on 127.0.0.1.
        process: its first process.
        log: what it says.
    """

    port: int
    process: psutil.Process
    log: Path

    def _all(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu(self) -> float:
        """Return the CPU time of all its processes, in seconds."""
        times = [process.cpu_times() for process in self._all()]
        return sum(one.user + one.system for one in times)

    def memory(self) -> int:
        """Return the resident memory of all its processes, in bytes."""
        return sum(process.memory_info().rss for process in self._all())

    def connections_to(self, port: int) -> int:
        """Return how many connections to a port it has."""
        found = [one for process in self._all() for one in process.net_connections("tcp")]
        return sum(bool(one.raddr) and one.raddr[1] == port for one in found)


@contextlib.contextmanager
def started(
    name: str, command: Sequence[str], port: int, folder: Path, env: Mapping[str, str], limit: float = 60
) -> Generator[Server]:
    """Have a server, from when it listens.

    Raises:
        MissingPeerError: it does not listen in time.
    """
    path = folder / f"{name.replace(' ', '-').replace(',', '')}.log"
    with path.open("ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=folder)
    server = Server(port, psutil.Process(child.pid), path)
    try:
        wait_for(child, port, limit, path)
        yield server
    finally:
        for process in server.process.children(recursive=True) if child.poll() is None else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.kill()
        child.wait()


def wait_for(child: subprocess.Popen[bytes], port: int, limit: float, log: Path) -> None:
    """Wait until a process listens. Raises MissingPeerError: it does not."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    words = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise MissingPeerError(f"it does not listen: {words[0] if words else 'not a word'}")


@contextlib.contextmanager
def gateway(folder: Path, redis_url: str) -> Generator[Server]:
    """Have the gateway, one process."""
    port = free_port()
    env = environment() | {"REDIS_URL": redis_url, "GATEWAY_PORT": str(port), "LOG_LEVEL": "WARNING"}
    with started("gateway", [sys.executable, "-m", "velesio_worker", "gateway"], port, folder, env) as server:
        yield server


@contextlib.contextmanager
def python_peer(folder: Path, redis_url: str, response: str, readers: str) -> Generator[Server]:
    """Have a server of peer_app.py's, one process. Raises MissingPeerError."""
    python, port = interpreter("bench-peers"), free_port()
    command = [python, str(HERE / "peer_app.py"), str(port), redis_url, response, readers]
    with started(f"{response}-{readers}", command, port, folder, os.environ) as server:
        yield server


@contextlib.contextmanager
def nchan(folder: Path, program: str | None, module: str | None) -> Generator[Server]:
    """Have nginx with nchan, one worker process.

    Args:
        folder: where its files go.
        program: nginx; None: the one on PATH.
        module: nchan's module; None: where Debian and others put it.

    Raises:
        MissingPeerError: there is none on this host.
    """
    program = program or shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    module = module or next((str(path / NCHAN) for path in MODULES if (path / NCHAN).exists()), None)
    if program is None or module is None:
        raise MissingPeerError("this host has no nginx with nchan (Debian and Ubuntu: libnginx-mod-nchan)")
    port, conf = free_port(), folder / "nginx.conf"
    places = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf.write_text(
        f"load_module {module};\n"
        + ("user root root;\n" if os.geteuid() == 0 else "")
        + f"daemon off;\nworker_processes 1;\nworker_rlimit_nofile 19000;\npid {folder}/nginx.pid;\n"
        f"error_log {folder}/nginx-error.log;\nevents {{ worker_connections 16000; }}\nhttp {{\n{places}"
        "  access_log off;\n  keepalive_requests 100000000;\n  nchan_message_buffer_length 1000;\n"
        f"  server {{\n    listen 127.0.0.1:{port} backlog=4096;\n"
        "    location ~ ^/publish/(.+)$ { nchan_publisher; nchan_channel_id $1; }\n"
        "    location ~ ^/jobs/(.+)/events$ { nchan_subscriber eventsource; nchan_channel_id $1; }\n  }\n}\n"
    )
    with started("nchan", [program, "-c", str(conf), "-p", str(folder)], port, folder, os.environ) as server:
        yield server
